"""The proof that an experiment resumes exactly: it is trained for some steps, killed, gone on with, and compared."""

import logging
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import utils
from toolkit.core.device_batches import batches_on_device
from toolkit.core.experiment_folder import version_of
from toolkit.core.history import unpacked
from toolkit.core.resumable_batches import ResumableBatches
from toolkit.core.setup import set_up
from toolkit.core.stop_signals import StopSignals
from toolkit.core.trees import tensors
from utils import UserError

SECONDS_OF_TRAINING = 10  # of the run that is not killed
EPOCHS = 2  # that it does at most
MOST_WAITING = 600  # seconds for a process to begin training, or to end
EACH_STEP, NEVER = 1e-9, 1e9  # minutes between checkpoints
BATCHES = 4  # that are loaded to see whether they depend on those before them

OWN_DRAWS = """likely cause: the items or order of the data loader depend on what was loaded before, as with a random \
generator that the code keeps to itself; draw from torch, numpy or random"""
NOT_DETERMINISTIC = """likely cause: an operation that is not deterministic on this device, or something that no seed \
governs, such as the time"""
UNKNOWN = "likely cause: something that model, loss or optimizer keep, and that is not in their state_dict"


def verify_resume(model_dir, data_dir=None, device=None):
    """Train as `train.py` does, in processes of their own: once without an interruption, once killed and gone on with.

    Args:
        model_dir: the experiment's folder, in which a temporary one is made.
        data_dir, device: as for `set_up`.

    Raises:
        UserError: what came out differs: what, where first, and what the likely cause is.
    """
    task, params, data_dir = set_up(model_dir, data_dir, device)
    for left in Path(model_dir).glob(".verify-*"):  # by one that was killed
        shutil.rmtree(left)
    with StopSignals(), tempfile.TemporaryDirectory(prefix=".verify-", dir=model_dir) as folder:
        trial = Trial(folder, model_dir, task, params, data_dir)
        logging.info("Training for some steps without an interruption ...")
        straight = trial.train("straight", seconds=SECONDS_OF_TRAINING)
        if straight is None or straight["step"] < 2:
            logging.info("A step takes long; two of them ...")
            shutil.rmtree(trial.folder / "straight")
            straight = trial.train("straight", max_steps=2)
        steps = straight["step"]
        for kill_at in (max(1, steps // 2), 1):
            logging.info("The same %d steps again, killed on the way ...", steps)
            killed_at = trial.train("killed", kill_at=kill_at, checkpoint_minutes=EACH_STEP)["step"]
            if killed_at < steps:
                break
            shutil.rmtree(trial.folder / "killed")
        else:
            raise UserError(
                f"{model_dir}: {steps} steps are done too fast to be killed on the way; more num_epochs help"
            )
        logging.info("Killed; %d steps were saved. Going on ...", killed_at)
        resumed = trial.train("killed", max_steps=steps, checkpoint_minutes=EACH_STEP)
        difference = first_difference(straight, resumed)
        if difference is None:
            count = len(tensors(straight))
            print(f"Identical to the last bit after {steps} steps: {count} tensors, all losses and metrics.")
            return
        logging.info("It differs. Looking for the cause ...")
        again = first_difference(straight, trial.train("straight again", max_steps=steps))
    if again is not None:
        cause = OWN_DRAWS if batches_differ(task, params, data_dir, start=0) else NOT_DETERMINISTIC
        raise UserError(f"two runs without any interruption differ: {again}; {cause}")
    if batches_differ(task, params, data_dir, start=BATCHES - 1):
        cause = OWN_DRAWS
    else:
        cause = what_is_not_saved(task, params, data_dir) or UNKNOWN
    raise UserError(f"going on after {killed_at} of {steps} steps is not exact: {difference}; {cause}")


class Trial:
    """Copies of an experiment in a temporary folder, each trained by processes of its own."""

    def __init__(self, folder, model_dir, task, params, data_dir):
        self.folder, self.task, self.json_path = Path(folder), task, Path(model_dir) / "params.json"
        self.num_epochs = min(EPOCHS, params.num_epochs)
        train = Path(__file__).resolve().parents[2] / "train.py"
        self.command = [sys.executable, str(train), "--data_dir", str(data_dir), "--device", params.device]

    def train(self, name, *, seconds=None, kill_at=None, max_steps=None, checkpoint_minutes=NEVER):
        """Train the copy `name`, going on with what is there.

        Args:
            seconds: after so many it is asked to stop.
            kill_at: it is killed once so many checkpoints of it, one a step, were seen.
            max_steps: it stops by itself after so many.
            checkpoint_minutes: time between its checkpoints.

        Returns:
            Its checkpoint, a dict, or None where it has none yet.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        values = {"num_epochs": self.num_epochs, "checkpoint_minutes": checkpoint_minutes}
        self.task.read_params(self.json_path, values).save(folder / "params.json")
        command = [*self.command, "--model_dir", str(folder)]
        command += ["--max_steps", str(max_steps)] if max_steps is not None else []
        with open(self.folder / "output", "w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
            try:
                killed = self._watch(process, folder, seconds, kill_at)
            finally:
                process.kill()
                process.wait()
            if not killed and process.returncode not in (0, 143):
                output.seek(0)
                raise UserError(f"training failed:\n{output.read().strip()}")
        last = folder / "last.pth.tar"
        return utils.read_checkpoint(last) if last.exists() else None

    def _watch(self, process, folder, seconds, kill_at):
        """Wait for the end of a process, or for the moment to end it. Returns whether it is to be killed."""
        started, training_since, saved = time.monotonic(), None, set()
        while process.poll() is None:
            now = time.monotonic()
            if now - started > MOST_WAITING:
                raise UserError(f"training took more than {MOST_WAITING} seconds for {EPOCHS} epochs at most")
            if training_since is None and (folder / "run.json").exists():
                training_since = now
            if seconds is not None and training_since is not None and now - training_since > seconds:
                if sys.platform == "win32":  # where a process cannot be asked
                    return True
                process.terminate()
                seconds = None
            saved.add(version_of(folder / "last.pth.tar"))  # it is not opened: Windows would not let it be replaced
            if kill_at is not None and len(saved - {None}) >= kill_at:
                return True
            time.sleep(0.002)
        return False


def first_difference(one, other):
    """The first thing in which two checkpoints of as many steps differ, in words, or None.

    One of them may have been saved before the evaluation at the end of an epoch, and the other after it.
    """
    for row, other_row in zip(unpacked(one["history"]), unpacked(other["history"]), strict=False):
        for name in sorted(row, key=lambda name: not name.endswith("loss")):  # the losses are the first to tell
            if not same(row[name], other_row.get(name)):
                return f"{name} of epoch {row['epoch']} is {row[name]} and {other_row.get(name)}"
    if one["epoch"] == other["epoch"] and one["tally"] and other["tally"]:
        losses = zip(one["tally"]["losses"]["loss"], other["tally"]["losses"]["loss"], strict=False)
        for number, (loss, other_loss) in enumerate(losses):
            if not same(loss, other_loss):
                return f"the loss of batch {number + 1} of epoch {one['epoch'] + 1} is {loss} and {other_loss}"
    tallies = ["tally"] if one["batches_done"] == other["batches_done"] and one["epoch"] == other["epoch"] else []
    for name in ["state_dict", "optim_dict", "stateful", "gradients", *tallies]:
        for path, value, other_value in pairs(one[name], other[name], name):
            if not same(value, other_value):
                return f"{path} differs"
    return None


def pairs(one, other, path):
    """Yield (path, value, other value) for all that two nested dicts, lists and tuples hold."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from pairs(one.get(key), other.get(key), f"{path}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for index, (value, other_value) in enumerate(zip(one, other, strict=True)):
            yield from pairs(value, other_value, f"{path}/{index}")
    else:
        yield path, one, other


def same(one, other):
    """Whether two values are the same, bit by bit; NaN is the same as NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(as_bits(one), as_bits(other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def as_bits(tensor):
    """The bytes of a tensor as integers."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def batches_differ(task, params, data_dir, start):
    """Whether a batch is another one where loading begins with number `start` instead of with the first."""
    loaded = []
    for first in (0, start):
        utils.set_seed(params.seed)
        order = ResumableBatches(task.fetch_dataloader(["train"], data_dir, params)["train"], params.seed)
        batches = order.batches(1, first)
        loaded.append([batch for _, batch in zip(range(BATCHES - first), batches, strict=False)])
    last, other_last = (batches[-1] if batches else () for batches in loaded)
    return any(not same(value, other) for _, value, other in pairs(last, other_last, ""))


def what_is_not_saved(task, params, data_dir):
    """What changes in a few training steps and is in no state_dict, in words, or None."""
    utils.set_seed(params.seed)
    dataloader = task.fetch_dataloader(["train"], data_dir, params)["train"]
    model, loss_fn = task.make_model(params), task.loss_fn(params)
    optimizer = task.make_optimizer(model, params)
    things = {"the model": model, "the optimizer": optimizer}
    if loss_fn.module is not None:
        things["the loss"] = loss_fn.module
    before = {name: unsaved_values(thing) for name, thing in things.items()}
    model.train()
    for _, (inputs, labels) in zip(range(BATCHES), batches_on_device(dataloader, model), strict=False):
        loss = loss_fn(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, thing in things.items():
        after = unsaved_values(thing)
        for path, value in before[name].items():
            if path in after and not same(value, after[path]):
                return (
                    f"likely cause: {path} of {name} changes with each step and is not in its state_dict; "
                    f"make it a buffer (register_buffer), or part of the state_dict"
                )
    return None


def unsaved_values(thing):
    """The numbers, strings and tensors that a model, loss or optimizer keeps outside its state_dict, a dict by path."""
    modules = thing.named_modules() if isinstance(thing, torch.nn.Module) else [("", thing)]
    values = {}
    for name, module in modules:
        own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        held = {k: v for k, v in own.items() if isinstance(v, int | float | str | torch.Tensor)}
        unsaved = getattr(module, "_non_persistent_buffers_set", ())
        held |= {k: v for k, v in getattr(module, "_buffers", {}).items() if k in unsaved and v is not None}
        values |= {f"{name}.{k}".strip("."): v.clone() if isinstance(v, torch.Tensor) else v for k, v in held.items()}
    return values
