"""Checks of a new model: input scale, first loss, gradients, independence of samples, train and eval mode, ReLUs."""

import itertools
import math

import torch
from torch import nn

from toolkit.core.text import list_some
from toolkit.core.trees import tensors, tree_map
from toolkit.preflight.experiment import SECONDS, Failed, NotApplicable, Trainer, shuffled, within

SMALLEST_INPUT, LARGEST_INPUT = 0.01, 50  # root mean square of the inputs of the first layer
VANISHED = 1e-6  # a smaller gradient norm, relative to that of the layer with the largest, has vanished
DEAD_STEPS, LEAST_ALIVE = 40, 0.5  # training steps before units are counted; share of a layer that should be alive
LAYERS = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d  # whose units are counted
CANDIDATES = 16  # samples among which the smallest and the largest are chosen
MIXED = "is a dimension mixed up (batch_first?), a mean taken over the batch, or padding not masked?"


def check_input_scale(experiment):
    """Find inputs of the first layer that are very large or very small."""
    trainer, scales = Trainer(experiment), []

    def measure(layer, inputs):
        floats = [t[t != 0].float() for t in inputs if isinstance(t, torch.Tensor) and t.is_floating_point()]
        scales.append(floats[0].square().mean().sqrt().nan_to_num().item() if floats else None)

    for layer in trainer.model.modules():
        if any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False)):
            layer.register_forward_pre_hook(measure)
    trainer.outputs(experiment.first_batches[0])
    if not scales or scales[0] is None:
        raise NotApplicable("the first layer takes no real numbers")
    message = f"the first layer gets values of about {scales[0]:.2g}"
    if not SMALLEST_INPUT < scales[0] < LARGEST_INPUT:
        raise Failed(f"{message}; scale the inputs to a mean of 0 and a standard deviation of 1")
    return message


def check_initial_loss(experiment):
    """Find outputs, loss and labels that do not fit: the first loss should be that of a model without knowledge."""
    trainer, losses = Trainer(experiment), []
    with torch.no_grad():
        for outputs, labels, loss in trainer.forward(experiment.first_batches):
            uniform, swapped = tree_map(without_knowledge, outputs), shuffled(labels, outputs)
            flipped = tree_map(lambda t: t.flip(1) if t.ndim > 1 and t.shape[1] > 1 else without_knowledge(t), outputs)
            variants = (uniform, labels), (outputs, swapped), (flipped, labels)
            losses.append([loss, *(trainer.loss_fn(*variant) for variant in variants)])
    start, guess, with_swapped_labels, with_flipped_outputs = torch.tensor(losses).mean(0).tolist()
    message = f"{start:.4g}; outputs without knowledge have {guess:.4g}"
    if not math.isfinite(start):
        raise Failed(f"{message}; look for a logarithm of 0 or a division by 0 in Net and loss_fn")
    targets = [t for t in tensors(labels) if t.is_floating_point() and not ((t == 0) | (t == 1)).all()]
    for target, output in itertools.product(targets, tensors(outputs)):
        if target.numel() == output.numel():
            error = (output.float().reshape(target.shape) - target).square().mean().sqrt().item()
            if error > 10 * target.std() > 0:
                raise Failed(f"{message}; outputs are off by {error:.2g}; standardise inputs and targets")
    if targets or math.isclose(start, with_flipped_outputs, rel_tol=1e-4):  # a loss of embeddings, or without labels
        return f"{start:.4g}"
    if guess <= 0:
        question = "does loss_fn expect log probabilities, or have a wrong sign?"
        raise Failed(f"{message}, which should be above 0; {question}")
    if start > 1.5 * guess + 0.3:
        raise Failed(f"{message}; make the first outputs smaller, or standardise the inputs")
    if start < 0.6 * min(guess, with_swapped_labels) and not hasattr(experiment.task.net, "load_pretrained"):
        raise Failed(f"{message}: too good for an untrained model; do the inputs contain the labels?")
    return message


def without_knowledge(output):
    """Return a tensor like `output` that prefers no class: logits of 0, or equal probabilities or log probabilities."""
    if not output.is_floating_point() or output.ndim == 0:
        return output
    count = output.shape[1] if output.ndim > 1 else 1

    def sums_to_1(shares):
        return output.ndim > 1 and bool(((shares.sum(1) - 1).abs() < 1e-2).all())

    if output.min() >= 0 and output.max() <= 1:
        return torch.full_like(output, 1 / count if sums_to_1(output) else 0.5)
    return torch.full_like(output, -math.log(count) if sums_to_1(output.exp()) else 0.0)


def check_gradients(experiment):
    """Find parameters that are not trained, and gradients that are NaN or zero, vanish or explode."""
    trainer = Trainer(experiment)
    named = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    if hidden := list(unregistered(trainer.model)):
        raise Failed(f"{list_some(hidden)}: in a list or dict, and not trained; use nn.ModuleList or nn.ModuleDict")
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    if left := [name for name, p in named.items() if id(p) not in optimized]:
        raise Failed(f"{list_some(left)}: not in the optimizer; add it, or set requires_grad to False")
    norms = {name: [] for name in named}
    for _ in trainer.train(experiment.first_batches):
        for name, p in named.items():
            norms[name] += [p.grad.float().norm().item()] if p.grad is not None else []
    if unused := [name for name, values in norms.items() if not values]:
        raise Failed(
            f"{list_some(unused)}: no gradient; is it unused, or detached? Otherwise set requires_grad to False"
        )
    largest = {name: max(filter(math.isfinite, values), default=math.nan) for name, values in norms.items()}
    if broken := [name for name, norm in largest.items() if math.isnan(norm)]:
        raise Failed(f"{list_some(broken)}: gradients are NaN or infinite; look for divisions by 0 and roots of 0")
    layers = {name: norm for name, norm in largest.items() if named[name].ndim > 1}
    if zero := [name for name, norm in layers.items() if norm == 0]:
        raise Failed(f"{list_some(zero)}: gradients are 0; is the layer multiplied by 0, or do its units never fire?")
    small, large = (choose(layers, key=lambda name: layers[name], default=None) for choose in (min, max))
    if small == large:
        return f"all {len(norms)} parameters have one"
    if layers[small] / layers[large] < VANISHED:
        verb = "vanish" if list(layers).index(small) < list(layers).index(large) else "explode"
        raise Failed(
            f"they {verb} on the way back: {layers[small]:.1e} in {small}, {layers[large]:.1e} in {large}; try "
            f"normalisation layers, residual connections, ReLU, or another initialisation"
        )
    return f"all {len(norms)} parameters have one; that of {small} is {layers[small] / layers[large]:.2g} of {large}"


def unregistered(model):
    """Yield the names of parameters and modules that are in a plain list or dict and so not registered in the model."""
    known = set(map(id, model.parameters()))
    for prefix, module in model.named_modules():
        for name, held in vars(module).items():
            if isinstance(held, list | tuple | dict) and not name.startswith("_"):
                for key, part in held.items() if isinstance(held, dict) else enumerate(held):
                    parameters = part.parameters() if isinstance(part, nn.Module) else [part]
                    if any(isinstance(p, nn.Parameter) and p.requires_grad and id(p) not in known for p in parameters):
                        yield f"{prefix}.{name}[{key!r}]".strip(".")


def check_independence(experiment):
    """Find samples whose output changes with the other samples of the batch (except by batch normalisation)."""
    indices, load = experiment.sample_loader("val")
    if len(indices) < 4:
        raise NotApplicable("the data loader of val cannot load chosen samples")
    by_size = sorted(indices[:CANDIDATES], key=lambda index: sum(t.numel() for t in tensors(tuple(load([index])))))
    short, one, two, long = by_size[0], *by_size[-3:]
    chosen = [short, one, long], [short, one, long], [short, two, long], [short]
    batch, repeated, changed, alone = map(load, chosen)
    if [t.shape for t in tensors(tuple(batch))] != [t.shape for t in tensors(tuple(changed))]:
        changed = batch  # of another shape, random numbers would differ, too
    trainer = Trainer(experiment)
    for mode, other, rows in (("eval", alone, slice(None)), ("train", changed, [0, -1])):
        runs = [trainer.outputs(each, mode == "train", batch_norm=False) for each in (batch, repeated, other)]
        for output, again, own in zip(*map(tensors, runs), strict=True):
            if not torch.equal(output, again):
                raise NotApplicable("the same batch gives different outputs")
            if differ(output[rows][tuple(map(slice, own[rows].shape))], own[rows], output):
                raise Failed(f"in {mode} mode, a sample's output changes with the others in its batch; {MIXED}")
    return "no output changes with the other samples"


def differ(one, other, whole):
    """Return True if two parts of a tensor differ by more than rounding, relative to the whole tensor."""
    tolerance = 1e-2 * whole.float().std(correction=0) + 1e-4 * whole.float().abs().max()
    return not bool((one.float() - other.float()).abs().max() <= tolerance)


def check_modes(experiment):
    """Find randomness, changes of state and dependence on gradients in eval mode, and modules that lose their mode."""
    trainer, batch = Trainer(experiment), experiment.first_batches[0]
    model, before = trainer.model, {name: t.clone() for name, t in trainer.model.state_dict().items()}
    one, two, with_gradients = (trainer.outputs(batch, seed=n, gradients=n == 3) for n in (1, 2, 3))
    if stuck := [name or "Net" for name, module in model.named_modules() if module.training]:
        raise Failed(f"{list_some(stuck)}: in train mode after model.eval(); look at its train() and forward()")
    if any(map(differ, *map(tensors, (one, two, one)))):
        raise Failed("two evaluations of a batch differ; does forward() draw random numbers without self.training?")
    if any(map(differ, *map(tensors, (one, with_gradients, one)))):
        raise Failed("in eval mode, outputs change if gradients are computed; ask self.training instead")
    if changed := [name for name, t in model.state_dict().items() if not torch.equal(t, before[name])]:
        raise Failed(f"{list_some(changed)}: changed by an evaluation; change it only if self.training")
    modes = {name: module.training for name, module in model.train().named_modules()}
    in_training = trainer.outputs(batch, training=True)
    if lost := [name or "Net" for name, module in model.named_modules() if module.training != modes[name]]:
        raise Failed(f"{list_some(lost)}: forward() changes its mode; leave that to model.eval()")
    return f"outputs {'differ' if any(map(differ, *map(tensors, (one, in_training, one)))) else 'are the same'}"


def check_dead_units(experiment):
    """Find layers most of whose units are dead after some training steps: 0 behind a ReLU for all samples.

    The weights of a dead unit get no gradient. It is computed for the sum of the squared outputs, because the gradient
    of the loss is 0 for samples that the model has learned.
    """
    trainer, batches = Trainer(experiment), experiment.first_batches
    repeated = itertools.islice(itertools.cycle(batches), DEAD_STEPS)
    steps = sum(1 for _ in within(SECONDS, trainer.train(repeated)))
    trainer.optimizer.zero_grad()
    for outputs, _, _ in trainer.forward(batches):
        torch.autograd.backward([t.float().square().sum() for t in tensors(outputs) if t.requires_grad])
    layers = [(name, layer.weight.grad) for name, layer in trainer.model.named_modules() if isinstance(layer, LAYERS)]
    alive = {name: (gradient.flatten(1) != 0).any(1) for name, gradient in layers if gradient is not None}
    if not alive:
        raise NotApplicable("no linear or convolutional layer is trained")
    name, units = min(alive.items(), key=lambda item: item[1].float().mean())
    message = f"after {steps} steps, {units.sum()} of {len(units)} units of {name} are alive"
    if units.float().mean() < LEAST_ALIVE:
        raise Failed(
            f"{message}, the others are 0 for all samples and learn nothing; add batch normalisation before the ReLU, "
            f"or take a smaller learning rate"
        )
    return message
