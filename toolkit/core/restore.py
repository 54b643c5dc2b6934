"""What a checkpoint holds of a model, its optimizer and the rest: collecting it, and giving it back if it fits."""

import numpy as np
import torch
from torch import optim

import utils
from toolkit.core.sharded_tensors import divided_like, whole
from toolkit.core.state import reading
from utils import UserError

# those whose state is tensors of the shape of their parameter, and some numbers
PLAIN_OPTIMIZERS = (
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.NAdam,
    optim.RAdam,
    optim.Adamax,
    optim.RMSprop,
    optim.Adagrad,
    optim.Adadelta,
    optim.ASGD,
    optim.Rprop,
)
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # in a parameter group; the last two of OneCycleLR
LARGE = ("state_dict", "optim_dict", "stateful", "gradients")  # what of a TrainState lies in the model and the rest


def collect(state, model, optimizer, stateful, with_gradients):
    """A TrainState as a checkpoint's dict, with what model, optimizer and the rest hold at present; see `restore`.

    Raises:
        UserError: one of them holds what could not be read again without running code.
    """
    having = [(name, p.grad) for name, p in model.named_parameters() if with_gradients and p.grad is not None]
    held = {"state_dict": model, "optim_dict": optimizer}
    return dict(state) | {
        **{name: readable(thing.state_dict(), name) for name, thing in held.items()},
        "stateful": {name: readable(thing.state_dict(), name) for name, thing in stateful.items()},
        "gradients": {name: whole(gradient) for name, gradient in having},
        "best": state.best and state.best.model_dump(),
    }


def readable(tree, path):
    """A nested dict, list or tuple as a checkpoint may hold it: numbers of numpy's are made Python's.

    Raises:
        UserError: there is something else than tensors, numbers and strings in it.
    """
    if isinstance(tree, dict):
        return {readable(key, path): readable(value, f"{path}/{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        values = (readable(value, path) for value in tree)
        return tuple(values) if isinstance(tree, tuple) else list(values)
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, torch.Tensor):
        return whole(tree)
    if tree is None or type(tree) in (bool, int, float, complex, str, bytes):
        return tree
    raise UserError(
        f"{path} of the checkpoint would hold a {type(tree).__name__}, which could not be read again safely; a "
        f"state_dict should hold tensors, numbers and strings, in dicts and lists"
    )


def restore(state, file, model, optimizer, stateful):
    """Load a TrainState.

    Args:
        state: the TrainState.
        file: the checkpoint it was read from, for messages.
        model, optimizer: what is loaded into.
        stateful: dict from name to what else has a load_state_dict.

    Raises:
        UserError: something does not fit.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if any(hasattr(p, "full_tensor") for p in parameters):  # before it is moved to the device: it may not fit there
        with reading(file):
            for number, values in state.optim_dict["state"].items():
                same = [k for k, v in values.items() if getattr(v, "shape", None) == parameters[number].shape]
                values |= {name: divided_like(values[name], parameters[number]) for name in same}
    weights = state.model_dump(include={"state_dict", "optim_dict"})
    utils.load_weights(weights, file, model, optimizer, shard_like=divided_like)
    check_optimizer(optimizer, file)
    if state.stateful.keys() != stateful.keys() and state.params:  # CS230's have no params and nothing else
        theirs, ours = (", ".join(sorted(names)) or "nothing" for names in (state.stateful, stateful))
        raise UserError(f"{file}: holds the state of {theirs} besides model and optimizer, but there is {ours}")
    with reading(file):
        for name, part_state in state.stateful.items():
            stateful[name].load_state_dict(part_state)
        named = dict(model.named_parameters())
        for name, gradient in state.gradients.items():
            gradient = gradient.to(named[name].device).view(named[name].shape)
            named[name].grad = divided_like(gradient, named[name])


def restore_loss(state, file, loss_fn):
    """Give a loss of the Task that has weights of its own those that a checkpoint's dict holds.

    Raises:
        UserError: it holds none, or others.
    """
    if loss_fn.module is not None:
        with reading(file):
            loss_fn.module.load_state_dict(state["stateful"]["loss"])


def check_optimizer(optimizer, file):
    """Make sure that the state that an optimizer has been given is one that it can go on from.

    Raises:
        UserError: it is not; `file` is where it came from.
    """
    wrong = [
        name
        for group in optimizer.param_groups
        for name, default in optimizer.defaults.items()
        if not is_like(group.get(name), default)
    ]
    if type(optimizer) in PLAIN_OPTIMIZERS:
        names = set().union(*optimizer.state.values())
        for parameter, values in optimizer.state.items():
            wrong += names - values.keys()
            wrong += [k for k, v in values.items() if v is not None and not is_state_of(parameter, k, v)]
    if wrong:
        raise UserError(f"{file}: is damaged: {wrong[0]} of the optimizer; --restart begins anew")


def is_state_of(parameter, name, value):
    """Whether a value can be what one of PLAIN_OPTIMIZERS keeps of a parameter under a name."""
    if name in ("step", "eta", "mu", "mu_product"):
        return isinstance(value, int | float | torch.Tensor) and getattr(value, "shape", ()) == ()
    return isinstance(value, torch.Tensor) and value.shape == getattr(parameter, "shape", None)


def is_like(value, default):
    """Whether a value can stand where an optimizer has `default`."""
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and len(value) == len(default)
    number = isinstance(default, int | float) and not isinstance(default, bool)
    if isinstance(value, str | bytes | dict | list):
        return isinstance(value, type(default))
    return value is not None or not number


def change_learning_rate(optimizer, others, then, now):
    """Make the learning rates of an optimizer, and of schedules among `others`, those of the new value `now`."""

    def new(rate):
        return now if rate == then else rate * now / then

    for group in optimizer.param_groups:
        group.update({name: new(group[name]) for name in RATES if name in group})
    schedules = list(others)
    for schedule in schedules:
        schedules += getattr(schedule, "_schedulers", ())  # those that a SequentialLR or ChainedScheduler is made of
        if hasattr(schedule, "base_lrs"):
            schedule.base_lrs = [new(rate) for rate in schedule.base_lrs]
