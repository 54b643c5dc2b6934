"""Checks of an experiment at its very beginning: its data, and what its model makes of them.

Each returns what it found, or raises what is wrong and the cure.
"""

import inspect
import itertools
import math
import random
import warnings

import torch
from torch import nn

from toolkit.monitor import monitored
from toolkit.rehearsal import differ, numbers_in, within
from toolkit.trees import batch_size, tensors, tree_map
from toolkit.trial import try_one_batch
from toolkit.verify import same

SECONDS = 8  # that a check takes at most, where it can take fewer steps
TRIES = 50  # to find samples of the same lengths
FIRST_LAYER = 0.01, 50  # how large the numbers that it gets may be
VANISHED = 1e-6  # what the gradient of a layer is of the largest
NOT_LABELS = (-1, -100)  # CS230's padding, and torch's ignore_index
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
    inputs, labels = trainee.on_device(rehearsal.first_batches[0])
    trainee.model.eval()
    with torch.no_grad():
        output, label, kind = matched(trainee.model(inputs), labels) or (None, None, None)
    position = next((i for i, tensor in enumerate(tensors((inputs, labels))) if tensor is label), None)
    for split in ("train", "val"):
        limits = {}
        for number, batch in enumerate(within(SECONDS / 2, rehearsal.batches(split)), 1):
            where = f"batch {number} of {split}"
            for place, part in enumerate(tensors(tuple(batch))):
                low, high = limits_of(part, where)
                for value in (low, high) if place == position and kind == "classes" else ():
                    if value >= output.shape[1] or (value < 0 and value not in NOT_LABELS):
                        raise Failed(f"{where} has class {value}, but the model gives {output.shape[1]}, numbered from "
                                     f"0; renumber them, or let it give as many as there are")  # fmt: skip
                before = limits.setdefault(place, (low, high))
                limits[place] = min(low, before[0]), max(high, before[1])
        counts.append(f"{number} {split}")
        samples = batch_size(batch[1]) if number == 1 else number
        for name, places in {"inputs": range(len(tensors(batch[0]))), "labels": [position]}.items():
            if samples > 1 and all(place in limits and len(set(limits[place])) == 1 for place in places):
                raise Failed(f"all {name} of {split} are {limits[places[0]][0] + 0.0:g}; nothing is to be learned so")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = try_one_batch(trainee.model, trainee.loss_fn, rehearsal.dataloaders, rehearsal.task.metrics, params)
    monitored(params, results)
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
        floats = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        sizes.append(floats[0].float().square().mean().sqrt().item() if floats else None)

    for layer in trainee.model.modules():
        if not list(layer.children()) and any(p.ndim > 1 for p in layer.parameters()):  # normalisations have vectors
            layer.register_forward_pre_hook(look)
    trainee.outputs(rehearsal.light_batches[0])
    if not sizes or sizes[0] is None:
        raise NotApplicable("the first layer takes no real numbers")
    message = f"the first layer gets numbers of about {sizes[0]:.2g}"
    if not FIRST_LAYER[0] < sizes[0] < FIRST_LAYER[1]:
        raise Failed(f"{message}; scale the inputs to a mean of 0 and a deviation of 1")
    return message


def check_first_loss(rehearsal):
    """The loss at the start is about that of a guess: of all classes alike, or of the mean of the numbers."""
    trainee, starts, guesses = rehearsal.begin(), [], []
    trainee.model.train()
    for outputs, labels, loss in trainee.forward(rehearsal.light_batches):
        if (found := matched(outputs, labels)) is None:
            raise NotApplicable("no guess is known for outputs and labels of this kind")
        output, label, kind = found
        guesses.append(trainee.loss_fn(instead(outputs, output, guess_of(*found)), labels).detach())
        starts.append(loss.detach())
    start, guess = (torch.stack(losses).mean().item() for losses in (starts, guesses))
    message = f"{start:.4g}, and {'the mean' if kind == 'numbers' else 'a uniform guess'} gives {guess:.4g}"
    if not math.isfinite(start):
        raise Failed(f"{message}; look for the logarithm of 0, or a division by it, in Net and loss_fn")
    if kind == "numbers" and guess == 0:
        raise NotApplicable("the labels of a batch are all the same")
    if guess <= 0:
        raise Failed(f"{message}, which should be above 0; has loss_fn the wrong sign, or does it take log "
                     f"probabilities, and Net gives others?")  # fmt: skip
    if kind == "classes" and are_shares(output):
        right = torch.zeros_like(output).scatter_(1, label.clamp(min=0).view(len(output), 1, *output.shape[2:]), 1)
        if (best := trainee.loss_fn(instead(outputs, output, right), labels).item()) > 0.2 * guess:
            raise Failed(f"{message}, but to be right {best:.4g}; loss_fn takes a softmax of probabilities: Net should "
                         f"give logits")  # fmt: skip
    low, high = (0.3 * guess, 3 * guess) if kind == "numbers" else (0.6 * guess, 1.5 * guess + 0.3)
    if start > high:
        raise Failed(f"{message}; make the first outputs smaller, or standardise inputs and targets")
    if start < low:
        raise Failed(f"{message}: too good for weights that know nothing; do the inputs hold the labels?")
    return message


def check_gradients(rehearsal):
    """Every parameter gets a gradient in the first steps, and those of all layers are comparable."""
    trainee = rehearsal.begin()
    named = {name: p for name, p in trainee.model.named_parameters() if p.requires_grad}
    if hidden := [name for name, value in listed(trainee.model) if isinstance(value, nn.Module | nn.Parameter)]:
        raise Failed(f"{some(hidden)}: in a list or dict alone, and so not trained; make that an nn.ModuleList or "
                     f"nn.ModuleDict")  # fmt: skip
    optimized = {id(p) for p in trainee.steps.parameters}
    if left := [name for name, p in named.items() if id(p) not in optimized]:
        raise Failed(f"{some(left)}: not given to the optimizer; give it, or set requires_grad False")
    norms = {name: [] for name in named}
    for _ in trainee.train(rehearsal.light_batches):
        for name, p in named.items():
            norms[name] += [p.grad.float().norm().item()] if p.grad is not None else []
    if none := [name for name, values in norms.items() if not values]:
        raise Failed(f"{some(none)}: no gradient; is it used, and without detach()? Else set requires_grad False")
    norms = {name: max([v for v in values if math.isfinite(v)], default=math.nan) for name, values in norms.items()}
    if broken := [name for name, norm in norms.items() if math.isnan(norm)]:
        raise Failed(f"{some(broken)}: gradients are NaN or infinite; look for divisions by 0, and roots of it")
    layers = {name: norm for name, norm in norms.items() if named[name].ndim > 1}
    if dead := [name for name, norm in layers.items() if norm == 0]:
        raise Failed(f"{some(dead)}: gradients are all 0; is it multiplied by 0, or do its units never fire?")
    if len(layers) < 2:
        return f"all {len(norms)} parameters get one"
    small, large = min(layers, key=layers.get), max(layers, key=layers.get)
    ratio = layers[small] / layers[large]
    if ratio < VANISHED:
        what = "vanish" if list(layers).index(small) < list(layers).index(large) else "explode"
        raise Failed(f"they {what} on the way back: {layers[small]:.1e} in {small}, {layers[large]:.1e} in {large}; "
                     f"try normalisation layers, residual connections, ReLU, or another initialisation")  # fmt: skip
    return f"all {len(norms)} parameters get one; the least, in {small}, is {ratio:.2g} of that in {large}"


def listed(model):
    """Yield ("name[key]", value) of what lists and dicts of a model's modules hold that it does not know otherwise."""
    known = {id(thing) for thing in (*model.modules(), *model.parameters())}
    for prefix, module in model.named_modules():
        for name, held in vars(module).items():
            if isinstance(held, list | tuple | dict) and not name.startswith("_"):
                for key, value in held.items() if isinstance(held, dict) else enumerate(held):
                    if id(value) not in known:
                        yield f"{prefix}.{name}[{key!r}]".strip("."), value


def check_neighbours(rehearsal):
    """A sample's output does not depend on the others of its batch: in eval mode, in train mode but for batch norm."""
    indices = rehearsal.indices("val")
    if indices is None or len(indices) < 4:
        raise NotApplicable("the loader of val gives no batches of chosen samples")
    by_length = sorted(indices[:TRIES], key=lambda index: numbers_in(rehearsal.batch_of("val", [index])))
    trainee, chosen, draw = rehearsal.begin(), [by_length[0], *by_length[-3:]], random.Random(0)
    first, one, two, last = chosen
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
    trainee, batch = rehearsal.begin(), rehearsal.light_batches[0]
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
    if not asking and any(map(differ, one, in_training, one)):
        raise Failed("outputs differ, but no layer asks for self.training; on what do they depend then?")
    return f"they differ by {', '.join(asking)}" if asking else "they give the same"


def asks_for_mode(kind):
    """Whether the code of a module's class does one thing in training and another in evaluation."""
    try:
        kinds = kind.__mro__[: kind.__mro__.index(nn.Module)]
        return any(".training" in inspect.getsource(part) for part in kinds)
    except (OSError, TypeError):
        return True


def matched(outputs, labels):
    """The first tensors of outputs and labels that are of the same samples.

    Returns:
        (output, label, kind), or None where none are: "classes" (dimension 1 of the output has a score for each),
        "binary" (labels 0 and 1 of one score), "numbers".
    """
    for label, output in itertools.product(tensors(labels), tensors(outputs)):
        each = output.ndim == label.ndim + 1 and output.shape[:1] + output.shape[2:] == label.shape
        flat = output.ndim == 2 and len(output) == label.numel()
        if not label.is_floating_point() and (each or flat) and output.shape[1] > 1:
            return output, label, "classes"
        is_table = label.shape == output.shape and output.ndim == 2 and output.shape[1] > 1
        if is_table and ((label == 1).sum(1) == 1).all() and label.sum() == len(label):
            return output, label.argmax(1), "classes"  # that were one-hot
        if label.numel() == output.numel():
            return output, label, "binary" if ((label == 0) | (label == 1)).all() else "numbers"
    return None


def instead(outputs, output, other):
    """The tree `outputs` with another tensor in the place of `output`, of which a gradient could be computed."""
    return tree_map(lambda tensor: other.detach().requires_grad_() if tensor is output else tensor, outputs)


def guess_of(output, label, kind):
    """What a model would give that knows nothing of the sample, a tensor like `output`."""
    if kind == "numbers":
        return label.float().mean(0).expand(label.shape).reshape(output.shape)
    if kind == "classes" and are_shares(output.exp()):
        return torch.full_like(output, -math.log(output.shape[1]))
    if kind == "classes":
        return torch.full_like(output, 1 / output.shape[1] if are_shares(output) else 0)
    return torch.full_like(output, middle_of(output))


def are_shares(output):
    """Whether dimension 1 of a tensor, (B, C, ...), holds probabilities."""
    return bool(output.min() >= 0 and ((output.sum(1) - 1).abs() < 1e-2).all())


def middle_of(output):
    """The score from which on a class is chosen: 0 of logits, 0.5 of probabilities."""
    return 0.5 if output.min() >= 0 and output.max() <= 1 else 0.0


def share_right(output, label, kind):
    """The share of the labels, those of padding left out, that an output gives, a float."""
    if kind == "classes":
        return (output.argmax(1).reshape(label.shape) == label)[label >= 0].float().mean().item()
    return ((output.reshape(label.shape) > middle_of(output)) == (label > 0.5)).float().mean().item()


def some(names):
    """The first of some names, and how many more there are."""
    names = [name or "Net" for name in names]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
