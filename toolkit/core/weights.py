"""The weights in a checkpoint, loaded into a model if they fit."""

import logging
import re

import torch
from torch.nn.parameter import is_lazy

from utils import UserError

LOADING_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def load_weights(state, checkpoint, model, optimizer=None, partial=False, *, shard_like=None):
    """Do what `utils.load_checkpoint` does, with the dict `state` that was read from the file `checkpoint`.

    `shard_like(tensor, own)` returns the shard of `tensor` that replaces the model's `own`; None: nothing is sharded.
    """
    ours = model.state_dict()
    theirs = {bare_name(name, ours): value for name, value in state["state_dict"].items()}
    compared = {name: difference(theirs[name], ours[name]) for name in ours if name in theirs}
    fitting = {name: theirs[name] for name, misfit in compared.items() if not misfit}
    differences = [f"{name} is {misfit}" for name, misfit in compared.items() if misfit]
    norms = [k.removesuffix(".running_mean") for k in ours.keys() - theirs.keys() if k.endswith(".running_mean")]
    if norms and not differences and not partial:
        raise UserError(
            f"{checkpoint}: the checkpoint's network has no batch normalisation at {', '.join(sorted(norms))}, this "
            f"one has; it was trained with an older model/net.py: train again, or take that file from git"
        )
    differences += [f"{k} is missing there" for k in ours if k not in theirs and not k.endswith("num_batches_tracked")]
    differences += [f"the model has no {k}" for k in theirs if k not in ours]
    if differences and (not partial or not fitting):
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        why = "no entry matches" if partial else "params.json or model/net.py has changed since"
        raise UserError(f"{checkpoint}: weights of another architecture: {differences[0]}{more}; {why}")
    parameters = dict(model.named_parameters())
    if wrong := [k for k, v in fitting.items() if k in parameters and v.isnan().any()]:
        raise UserError(f"{checkpoint}: {wrong[0]} contains NaN: its training failed; take an earlier checkpoint")
    if partial:
        rest = "\n  ".join(["not loaded:", *(differences or ["none"])])
        logging.info("%s: %d of %d weights loaded; %s", checkpoint, len(fitting), len(ours), rest)
    # into `ours`, not a new dict: it holds the versions of the modules' layouts, which some modules ask for
    ours.update({name: shard_like(value, ours[name]) if shard_like else value for name, value in fitting.items()})
    model.load_state_dict(ours)
    if optimizer is not None:
        if not state.get("optim_dict"):
            raise UserError(f"{checkpoint}: has no state of the optimizer")
        try:
            optimizer.load_state_dict(state["optim_dict"])
        except LOADING_ERRORS as error:
            raise UserError(f"{checkpoint}: the state is that of another optimizer: {error}") from None


def bare_name(name, known):
    """Return the name of a weight; if unknown, without what DataParallel, FSDP and torch.compile add."""
    return name if name in known else re.sub(r"\b(module|_orig_mod|_fsdp_wrapped_module)\.", "", name)


def difference(theirs, ours):
    """Return how a value of a checkpoint differs from the model's, as text; None if it can be loaded without loss."""
    if isinstance(theirs, torch.Tensor) and is_lazy(ours):  # it takes any shape
        return None
    shapes = [tuple(v.shape) if isinstance(v, torch.Tensor) else type(v).__name__ for v in (theirs, ours)]
    pairs = [shapes]
    if shapes[0] == shapes[1] and isinstance(ours, torch.Tensor):
        is_exact = torch.promote_types(theirs.dtype, ours.dtype) == ours.dtype
        is_exact &= theirs.is_floating_point() == ours.is_floating_point()
        pairs += [[theirs.layout, ours.layout], [ours.dtype if is_exact else theirs.dtype, ours.dtype]]
        pairs.append(["without values" if v.is_meta else "with values" for v in (theirs, ours)])
    return next((f"{there} there and {here} in the model" for there, here in pairs if there != here), None)
