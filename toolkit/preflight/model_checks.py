"""Checks of an experiment at its very beginning: its data, and what its model makes of them.

Each returns what it found, or raises what is wrong and the cure.
"""

import inspect
import math
import random
import warnings

import torch
from torch import nn

from toolkit.core.smoke_test import smoke_test
from toolkit.core.trees import batch_size, tensors
from toolkit.preflight.exact_comparison import same
from toolkit.preflight.rehearsal import differ, numbers_in, within
from toolkit.preflight.task_type import Match, are_shares

SECONDS = 8  # that a check takes at most, where it can take fewer steps
TRIES = 50  # to find samples of the same lengths
FIRST_LAYER = 0.01, 50  # how large the numbers that it gets may be
VANISHED = 1e-6  # what the gradient of a layer is of the largest
NOT_LABELS = (-1, -100, 255)  # CS230's padding, torch's ignore_index, and that of segmented images
OF_OTHERS = "is a dimension mixed up (batch_first?), a mean taken over the batch, padding not left out?"


class Failed(Exception):
    """A check failed: what was found; what to do."""


class NotApplicable(Exception):
    """A check does not apply, or cannot be made: why."""


def check_parts(rehearsal):
    """Data loaders, model, loss and optimizer can be made."""
    counts = [f"{len(loader)} {split} batches" for split, loader in rehearsal.dataloaders.items()]
    trainee = rehearsal.begin()
    weights = sum(p.numel() for p in trainee.model.parameters())
    return f"{weights:,} weights, {type(trainee.optimizer).__name__}, {', '.join(counts)}"


def check_batches(rehearsal):
    """Inputs and labels are what model, loss and metrics take."""
    trainee, params, counts = rehearsal.begin(), rehearsal.params, []
    inputs, labels = trainee.on_device(next(rehearsal.batches()))
    trainee.model.eval()
    with torch.no_grad():
        match = Match(trainee.model(inputs), labels, trainee.loss_fn)
    position = next((i for i, tensor in enumerate(tensors((inputs, labels))) if tensor is match.label), -1)
    for split in ("train", "val"):
        limits = {}
        for number, batch in enumerate(within(SECONDS / 2, rehearsal.batches(split)), 1):
            where = f"batch {number} of {split}"
            for place, part in enumerate(tensors(tuple(batch))):
                low, high = limits_of(part, where)
                for value in (low, high) if place == position and match.kind == "classes" else ():
                    if not (0 <= value < match.output.shape[1] or value in NOT_LABELS):
                        raise Failed(
                            f"{where} has class {value}, but the model gives {match.output.shape[1]}, from 0 "
                            f"on; renumber them, or let it give as many as there are"
                        )
                before = limits.setdefault(place, (low, high))
                limits[place] = min(low, before[0]), max(high, before[1])
        counts.append(f"{number} {split}")
        samples = batch_size(batch[1]) if number == 1 else number
        if split == "val" and number < len(rehearsal.dataloaders[split]):  # it may be sorted by class
            continue
        for name, places in {"inputs": range(len(tensors(batch[0]))), "labels": [position]}.items():
            if samples > 1 and all(place in limits and len(set(limits[place])) == 1 for place in places):
                raise Failed(f"all {name} of {split} are {limits[places[0]][0] + 0.0:g}; nothing is to be learned so")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        smoke_test(trainee.model, trainee.loss_fn, rehearsal.dataloaders, rehearsal.task.metrics, params)
    for warning in [str(warning.message) for warning in caught if "broadcast" in str(warning.message)]:
        raise Failed(f"{warning.split('.')[0]}: each is compared to all of the other; squeeze one of them")
    return f"{' and '.join(counts)} batches looked at"


def limits_of(tensor, where):
    """The smallest and the largest number in a tensor, which should be finite; 0 and 0 of one that has none."""
    if not tensor.numel() or tensor.is_complex():
        return 0, 0
    low, high = tensor.min().item(), tensor.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise Failed(f"{where} holds NaN or infinite numbers; mend or leave out what they come from")
    return low, high


def check_scale(rehearsal):
    """The first layer with weights gets numbers of about 1 in size."""
    trainee, sizes = rehearsal.begin(), []

    def look(module, args):
        floats = [a[a != 0].float() for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        sizes.append(floats[0].square().mean().nan_to_num().sqrt().item() if floats else None)  # of a one-hot, the one

    for layer in trainee.model.modules():
        if not list(layer.children()) and any(p.ndim > 1 for p in layer.parameters()):  # normalisations have vectors
            layer.register_forward_pre_hook(look)
    trainee.outputs(rehearsal.first_batches[0])
    if not sizes or sizes[0] is None:
        raise NotApplicable("the first layer takes no real numbers")
    message = f"the first layer gets numbers of about {sizes[0]:.2g}"
    if not FIRST_LAYER[0] < sizes[0] < FIRST_LAYER[1]:
        raise Failed(f"{message}; scale the inputs to a mean of 0 and a deviation of 1")
    return message


def check_first_loss(rehearsal):
    """The loss at the start is about that of a guess: of all classes alike, or of the mean of the numbers."""
    trainee, found = rehearsal.begin(), []
    trainee.model.train()
    for outputs, labels, loss in trainee.forward(rehearsal.first_batches):
        match = Match(outputs, labels, trainee.loss_fn)
        if match.kind is None:
            raise NotApplicable("no guess is known for outputs and labels of this kind")
        others = [match.loss(other) for other in (match.uniform, match.frequent, match.right)]
        found.append(torch.stack([loss, *others]).detach())
    start, guess, shares, right = torch.stack(found).mean(0).tolist()
    message = f"{start:.4g}, and {'the mean' if match.kind == 'numbers' else 'a uniform guess'} gives {guess:.4g}"
    if not math.isfinite(start):
        raise Failed(f"{message}; look for the logarithm of 0, or a division by it, in Net and loss_fn")
    if match.kind == "numbers":
        if guess == right:
            raise NotApplicable("the labels of a batch are all the same")
        if guess < right:
            raise Failed(f"{message}, but to be right {right:.4g}; has loss_fn the wrong sign?")
        if start - right > 3 * (max(guess, shares) - right):
            raise Failed(f"{message}; standardise inputs and targets")
        return message
    if guess <= 0:
        raise Failed(
            f"{message}, which should be above 0; has loss_fn the wrong sign, or does it take log "
            f"probabilities, and Net gives others?"
        )
    if match.kind == "classes" and are_shares(match.output) and right > 0.2 * guess:
        raise Failed(
            f"{message}, but to be right {right:.4g}; loss_fn takes a softmax of probabilities: Net should give logits"
        )
    if start > 1.5 * guess + 0.3:
        raise Failed(f"{message}; make the first outputs smaller, or standardise inputs")
    if start < 0.6 * min(guess, shares) and not hasattr(rehearsal.task.net, "load_pretrained"):
        raise Failed(f"{message}: too good for weights that know nothing; do the inputs hold the labels?")
    return message


def check_gradients(rehearsal):
    """Every parameter gets a gradient in the first steps, and those of all layers are comparable."""
    trainee = rehearsal.begin()
    named = {name: p for name, p in trainee.model.named_parameters() if p.requires_grad}
    if hidden := list(hidden_parameters(trainee.model)):
        raise Failed(
            f"{some(hidden)}: in a list or dict alone, and so not trained; make that an nn.ModuleList or nn.ModuleDict"
        )
    optimized = {id(p) for p in trainee.steps.parameters}
    if left := [name for name, p in named.items() if id(p) not in optimized]:
        raise Failed(f"{some(left)}: not given to the optimizer; give it, or set requires_grad False")
    norms = {name: [] for name in named}
    for _ in trainee.train(rehearsal.first_batches):
        for name, p in named.items():
            norms[name] += [p.grad.float().norm().item()] if p.grad is not None else []
    if none := [name for name, values in norms.items() if not values]:
        raise Failed(f"{some(none)}: no gradient; is it used, and without detach()? Else set requires_grad False")
    finite = {name: [value for value in values if math.isfinite(value)] for name, values in norms.items()}
    if broken := [name for name, values in finite.items() if not values]:
        raise Failed(f"{some(broken)}: gradients are NaN or infinite; look for divisions by 0, and roots of it")
    layers = {name: max(values) for name, values in finite.items() if named[name].ndim > 1}
    if dead := [name for name, norm in layers.items() if norm == 0]:
        raise Failed(f"{some(dead)}: gradients are all 0; is it multiplied by 0, or do its units never fire?")
    if len(layers) < 2:
        return f"all {len(norms)} parameters get one"
    small, large = min(layers, key=lambda name: layers[name]), max(layers, key=lambda name: layers[name])
    ratio = layers[small] / layers[large]
    if ratio < VANISHED:
        what = "vanish" if list(layers).index(small) < list(layers).index(large) else "explode"
        raise Failed(
            f"they {what} on the way back: {layers[small]:.1e} in {small}, {layers[large]:.1e} in {large}; "
            f"try normalisation layers, residual connections, ReLU, or another initialisation"
        )
    return f"all {len(norms)} parameters get one; the least, in {small}, is {ratio:.2g} of that in {large}"


def hidden_parameters(model):
    """Yield "name[key]" of what only lists and dicts of a model's modules hold, though it should be trained."""
    known = {id(thing) for thing in (*model.modules(), *model.parameters())}
    for prefix, module in model.named_modules():
        for name, held in vars(module).items():
            if isinstance(held, list | tuple | dict) and not name.startswith("_"):
                for key, value in held.items() if isinstance(held, dict) else enumerate(held):
                    parameters = value.parameters() if isinstance(value, nn.Module) else [value]
                    to_train = any(isinstance(p, nn.Parameter) and p.requires_grad for p in parameters)
                    if to_train and id(value) not in known:
                        yield f"{prefix}.{name}[{key!r}]".strip(".")


def check_neighbours(rehearsal):
    """A sample's output does not depend on the others of its batch: in eval mode, in train mode but for batch norm."""
    indices = rehearsal.indices("val")
    if len(indices) < 4:
        raise NotApplicable("the loader of val gives no batches of chosen samples")
    tried = within(SECONDS / 4, indices[:TRIES], least=4)
    by_length = sorted((numbers_in(rehearsal.batch_of("val", [index])), index) for index in tried)
    first, one, two, last = chosen = [index for _, index in (by_length[0], *by_length[-3:])]
    trainee, draw = rehearsal.begin(), random.Random(0)
    batch, again, alone = (rehearsal.batch_of("val", each) for each in (chosen, chosen, [first]))
    for middle in (*(draw.sample(indices, 2) for _ in range(TRIES)), (two, one)):
        other = rehearsal.batch_of("val", [first, *middle, last])
        if [t.shape for t in tensors(other)] == [t.shape for t in tensors(batch)]:  # and so the same random numbers
            break
    for mode in ("eval", "train"):
        each = [trainee.outputs(each, mode, batch_norm=False) for each in (batch, again, other)]
        for output, repeated, changed in zip(*each, strict=True):
            if differ(output, repeated, output):
                raise NotApplicable(f"in {mode} mode, one batch gives other outputs each time")
            if differ(output[[0, -1]], changed[[0, -1]], output):
                raise Failed(f"in {mode} mode it changes with the other samples; {OF_OTHERS}")
    for output, own in zip(*(trainee.outputs(each, batch_norm=False) for each in (batch, alone)), strict=True):
        if differ(output[tuple(map(slice, own.shape))], own, output):
            raise Failed(f"in eval mode it is another one for the sample alone; {OF_OTHERS}")
    return "no output changes with the other samples"


def check_modes(rehearsal):
    """Nothing is random or changes in eval mode, and train mode differs from it only where code asks for the mode."""
    trainee, batch = rehearsal.begin(), rehearsal.first_batches[0]
    before = {name: value.clone() for name, value in trainee.model.state_dict().items()}
    one, two = (trainee.outputs(batch, number=number) for number in (1, 2))
    if stuck := [name for name, module in trainee.model.named_modules() if module.training]:
        raise Failed(f"{some(stuck)}: in train mode after model.eval(); does its train() or forward() see to that?")
    if any(map(differ, one, two, one)):
        raise Failed("two evaluations of one batch differ; does forward draw at random without asking self.training?")
    if changed := [name for name, value in trainee.model.state_dict().items() if not same(value, before[name])]:
        raise Failed(f"{some(changed)}: changed by an evaluation; change it where self.training only")
    asking = sorted({type(module).__name__ for module in trainee.model.modules() if asks_for_mode(type(module))})
    modes = {name: module.training for name, module in trainee.model.train().named_modules()}
    in_training = trainee.outputs(batch, "train")
    if lost := [name for name, module in trainee.model.named_modules() if module.training != modes[name]]:
        raise Failed(f"{some(lost)}: taken out of train mode by forward(); leave that to model.eval()")
    if not any(map(differ, one, in_training, one)):
        return "they give the same"
    if not asking:
        raise Failed("outputs differ, but no layer asks for self.training; on what do they depend then?")
    return f"they differ by {', '.join(asking)}"


def asks_for_mode(kind):
    """Whether the code of a module's class does one thing in training and another in evaluation."""
    try:
        kinds = kind.__mro__[: kind.__mro__.index(nn.Module)]
        return any(".training" in inspect.getsource(part) for part in kinds)
    except (OSError, TypeError):
        return True


def some(names):
    """The first of some names, and how many more there are."""
    names = [name or "Net" for name in names]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
