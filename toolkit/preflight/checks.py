"""Checks of an experiment before its first long run."""

import itertools
import math
import re
import tempfile
import time
import traceback
from pathlib import Path

import utils
from toolkit.core.memory import memory_errors_in_a_line, total_memory
from toolkit.core.restore import collect, restore
from toolkit.core.state import TrainState, read_state
from toolkit.preflight import model_checks
from toolkit.preflight.exact_comparison import NOT_DETERMINISTIC, OWN_DRAWS, UNKNOWN, pairs, same, unsaved_values
from toolkit.preflight.model_checks import SECONDS, Failed, NotApplicable
from toolkit.preflight.rehearsal import FIRST, Rehearsal, numbers_in, range_test, step_memory, within
from toolkit.preflight.task_type import Match
from utils import UserError

SLOW = 0.3  # seconds of a step, above which most checks take smaller batches
FEW = 16  # samples that are learned by heart; the least that a batch is cut to
STEPS, STEPS_TO_TIME, STEPS_BY_HEART = 3, 20, 500  # that are compared, timed, and may be taken to learn them
ENOUGH = 100  # steps, after which samples that were not learned are no matter of time
FAR = 100  # times the suggested learning rate


def run_checks(rehearsal):
    """Make all checks. Yields of each a dict with "check", "ok" (None: does not apply), "message" and "seconds".

    What fails in code of the user's is a check that failed; without data and model that fit, the rest is not tried.

    Raises:
        UserError: data, model or optimizer cannot be made.
    """
    needed = None
    for name, check in CHECKS.items():
        started = time.monotonic()
        try:
            if needed:
                raise NotApplicable(f'not tried; mend "{needed}" first')
            with memory_errors_in_a_line(rehearsal.params):
                ok, message = True, check(rehearsal)
        except NotApplicable as reason:
            ok, message = None, str(reason)
        except (Failed, UserError) as error:
            if isinstance(error, UserError) and check is model_checks.check_parts:
                raise  # with which train.py ends, too
            ok, message = False, str(error)
        except Exception as error:
            ok, message = False, in_a_line(error, rehearsal.task.project)
        if ok is False and check in (model_checks.check_parts, model_checks.check_batches):
            needed = name
        yield {"check": name, "ok": ok, "message": message, "seconds": round(time.monotonic() - started, 2)}


def in_a_line(error, project):
    """An exception with the place in the user's code that it came from."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    text = str(error).strip().splitlines() or [""]
    if in_worker := re.findall(r'File "(.+?)", line (\d+)', str(error)):  # of a data loader
        frames, text = in_worker, text[-1:]
    own = [frame for frame in frames if Path(frame[0]).is_relative_to(project / "model")] or frames
    file, line = own[-1]
    return f"{type(error).__name__}: {text[0]} ({utils.relative(file)}:{line})"


def check_speed(rehearsal):
    """The data loader is faster than the training steps, or an epoch is loaded in a second."""
    some_steps = itertools.islice(itertools.cycle(list(itertools.islice(rehearsal.batches(), FIRST))), STEPS_TO_TIME)
    load = time_of(itertools.chain(rehearsal.batches(epoch=2), rehearsal.batches(epoch=3)))
    step = time_of(loss.item() for *_, loss in rehearsal.begin().train(some_steps))  # which waits for the device
    if step > SLOW and rehearsal.indices("train"):
        rehearsal.most = max(FEW, int(len(rehearsal.keys(1)[0]) * SLOW / step))
    message = f"{1 / load:.3g} batches a second are loaded, {1 / step:.3g} trained on"
    if load > step and load * len(rehearsal.dataloaders["train"]) > 1:
        raise Failed(
            f"{message}: the model waits for data; more num_workers, if the loader uses them, or keep in "
            f"memory what it decodes"
        )
    return message + (f"; the checks below take {rehearsal.most} samples of a batch" if rehearsal.most else "")


def time_of(things):
    """The seconds that each of some things takes to come, but for the first, which takes longer."""
    times = [time.monotonic() for _ in within(SECONDS / 3, things)]
    return (times[-1] - times[0]) / (len(times) - 1)


def check_order(rehearsal):
    """Two epochs of the training split come in different orders."""
    orders = [
        rehearsal.keys(epoch) or [labels for _, labels in itertools.islice(rehearsal.batches(epoch=epoch), FEW)]
        for epoch in (1, 2)
    ]
    if len(orders[0]) == 1:
        raise NotApplicable("an epoch is one batch")
    if len(orders[0]) == len(orders[1]) and first_difference(*orders) is None:
        raise Failed("the second epoch has the order of the first; shuffle=True, or a sampler that draws from torch")
    return "the second epoch has another order than the first"


def first_difference(one, other):
    """The path of the first thing in which two trees differ, or None."""
    return next((path.strip("/") for path, a, b in pairs(one, other, "") if not same(a, b)), None)


def check_repeat(rehearsal):
    """Two runs from one seed are the same to the bit: their batches, and after some steps losses and weights."""
    runs = []
    for _ in range(2):
        own = Rehearsal(rehearsal.task, rehearsal.params, rehearsal.data_dir)
        own.most, trainee = rehearsal.most, own.begin()
        batches = own.first_batches[:STEPS]
        losses = [loss.item() for *_, loss in trainee.train(batches)]
        runs.append([list(map(list, batches)), {"losses": losses, "weights": trainee.model.state_dict()}])
    if difference := first_difference(runs[0][0], runs[1][0]):
        raise Failed(f"batch {int(difference.split('/')[0]) + 1} differs; {OWN_DRAWS}")
    if difference := first_difference(runs[0][1], runs[1][1]):
        if rehearsal.params.cuda and not rehearsal.params.deterministic:
            raise NotApplicable(f'{difference} differs, as it may on a GPU without "deterministic": true')
        raise Failed(f"{difference} differs; {NOT_DETERMINISTIC}")
    rehearsal.repeats = True
    return f"no bit differs after {len(batches)} steps"


def check_rate(rehearsal):
    """The learning rate is one at which the loss falls, by a range test."""
    rehearsal.range_test, own = range_test(rehearsal, 2 * SECONDS), rehearsal.params.learning_rate
    suggested, diverges = rehearsal.range_test["suggested"], rehearsal.range_test["diverges"]
    if suggested is None:
        raise NotApplicable("within so few steps the loss falls at no learning rate, so none can be suggested")
    message = f"{own:.2g} in params.json; the range test suggests {suggested:.2g}"
    rises = diverges is not None and own >= diverges
    if (rises or own > FAR * suggested) and not rehearsal.most:  # with fewer samples it rises earlier
        raise Failed(f"{message}{f', and the loss rises from {diverges:.2g} on' * rises}; take a smaller one")
    if own * FAR < suggested and diverges is not None:  # else the steps are normalised, and none is too large
        raise Failed(f"{message}, {FAR} times as much or more; take a larger one")
    return message


def check_overfit(rehearsal):
    """A few samples can be learned by heart, at the experiment's learning rate or at the suggested one."""
    indices = rehearsal.indices("train")
    batch = rehearsal.batch_of("train", indices[:FEW]) if indices else rehearsal.first_batches[0]
    for rate in filter(None, dict.fromkeys([rehearsal.params.learning_rate, rehearsal.range_test.get("suggested")])):
        trainee, losses, right = rehearsal.begin(), [], None
        trainee.at_rate(rate)
        steps = trainee.train(itertools.repeat(batch, STEPS_BY_HEART), is_random=False)
        for outputs, labels, loss in within(SECONDS, steps):
            losses.append(loss.item())
            if len(losses) == 1:
                match = Match(outputs, labels, trainee.loss_fn)
                if match.kind and len(match.label.unique()) == 1:
                    raise NotApplicable("their labels are all the same, which a constant output gives")
                goal = half_way(match, losses[0])
            if match.kind in ("classes", "binary") and match.label.numel() <= FEW:
                right = match.share_right(outputs)
            if right == 1 or (right is None and losses[-1] < goal):
                return f"learned in {len(losses)} steps, at learning rate {rate:.2g}"
            if not math.isfinite(losses[-1]):
                break
    share = f", {right:.0%} are right" if right is not None else ""
    message = f"in {len(losses)} steps the loss went from {losses[0]:.3g} to {losses[-1]:.3g}{share}"
    if len(losses) < ENOUGH and losses[-1] < losses[0]:
        raise NotApplicable(f"{message}; there was no time for more")
    raise Failed(
        f"{message}; do outputs depend on inputs, is the sign of loss_fn right, are the labels those of the inputs?"
    )


def half_way(match, start):
    """The loss half the way from what is to be had without the inputs, `start` at most, to that of being right."""
    if match.kind is None:
        return start - 0.5 * abs(start)
    blind = match.uniform if match.kind == "numbers" else match.frequent
    best = match.loss(match.right).item() if match.kind == "numbers" else 0
    return (min(start, match.loss(blind).item()) + best) / 2


def check_memory(rehearsal):
    """A training step of the largest batch fits into memory."""
    sizes, largest = [], None
    for batch in within(SECONDS / 2, rehearsal.batches()):
        sizes.append(numbers_in(batch))
        largest = batch if sizes[-1] == max(sizes) else largest
    needed, there = step_memory(rehearsal, largest), total_memory(rehearsal.params.device)
    message = f"the largest batch, of {len(sizes)} looked at, takes {needed / 2**20:.0f} MiB"
    message += f" of {there / 2**30:.0f} GiB" if there is not None else ""
    if there is not None and needed > 0.9 * there:
        raise Failed(f"{message}; a smaller batch_size, with more accumulation_steps")
    return message


def check_round_trip(rehearsal):
    """A checkpoint, loaded into a new model and optimizer, gives the same outputs and the same next steps."""
    if not rehearsal.repeats:
        raise NotApplicable("two runs of one seed are not the same anyway")
    trainee, other = rehearsal.begin(), rehearsal.begin(rehearsal.params.seed + 1)
    batches, both = rehearsal.first_batches[:STEPS], []
    list(trainee.train(batches))
    with tempfile.TemporaryDirectory() as folder:
        state = collect(TrainState(), trainee.model, trainee.optimizer, trainee.stateful, False)
        utils.save_checkpoint(state, False, folder)
        file = Path(folder) / "last.pth.tar"
        restore(read_state(utils.read_checkpoint(file), file), file, other.model, other.optimizer, other.stateful)
    other.steps.batches = trainee.steps.batches  # where the schedule is
    for each in (trainee, other):
        outputs, unsaved = each.outputs(batches[0]), unsaved_values(each.model) | unsaved_values(each.optimizer)
        losses = [loss.item() for *_, loss in each.train(batches)]
        both.append([{"outputs": outputs, "losses": losses, "weights": each.model.state_dict()}, unsaved])
    results, kept = zip(*both, strict=True)
    if difference := first_difference(*results):
        cause = first_difference(*kept)
        cure = f"{cause} is in no state_dict; make it a buffer (register_buffer)" if cause else UNKNOWN
        raise Failed(f"{difference} differs after loading: {cure}")
    return "the same outputs, losses and weights to the bit"


CHECKS = {
    "model and data": model_checks.check_parts,
    "inputs and labels": model_checks.check_batches,
    "speed of loading": check_speed,
    "scale of the inputs": model_checks.check_scale,
    "loss at the start": model_checks.check_first_loss,
    "gradients": model_checks.check_gradients,
    "neighbours in a batch": model_checks.check_neighbours,
    "train and eval mode": model_checks.check_modes,
    "order of epochs": check_order,
    "two runs of one seed": check_repeat,
    "learning rate": check_rate,
    f"{FEW} samples by heart": check_overfit,
    "memory": check_memory,
    "checkpoint": check_round_trip,
}
