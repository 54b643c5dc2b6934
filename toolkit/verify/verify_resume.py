"""Prove that an experiment resumes exactly: train it without interruption, train it interrupted, and compare."""

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import utils
from toolkit.core.experiment_folder import version_of
from toolkit.core.setup import set_up
from toolkit.core.trees import tensors
from toolkit.verify.comparison import differing_numbers, first_difference, read_history
from utils import UserError

SECONDS_OF_TRAINING, MOST_EPOCHS = 10, 3  # of the uninterrupted run
EACH_STEP, NEVER = 1e-9, 1e9  # values of checkpoint_minutes

NOT_DETERMINISTIC = """likely cause: an operation that is not deterministic on this device, or a value that no seed \
controls, such as the time"""
NOT_SAVED = """likely cause: model, loss or optimizer keep a value that is in no state_dict (make it a buffer), or the \
items of the data loader depend on what was loaded before (draw random numbers from torch, numpy or random)"""


def verify_resume(model_dir, data_dir=None, device=None):
    """Train an experiment in separate processes, once without interruption and once with several, and compare.

    It is killed in the first epoch, and stopped in the middle and at the end of each of the epochs.

    Args:
        model_dir: the experiment's folder; a temporary folder is made in it and removed at the end.
        data_dir, device: as for `set_up`.

    Raises:
        UserError: the results differ; the message names the first difference and its likely cause.
    """
    _, params, data_dir = set_up(model_dir, data_dir, device)
    for leftover in Path(model_dir).glob(".verify-*"):  # of a proof that was killed
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=model_dir) as folder:
        copies = ExperimentCopies(Path(folder), Path(model_dir), params, data_dir)
        logging.info("Training for some steps without interruption ...")
        uninterrupted = copies.train("uninterrupted", seconds=SECONDS_OF_TRAINING)
        if uninterrupted is None or uninterrupted["step"] < 2:
            logging.info("Steps are slow; training for two of them ...")
            shutil.rmtree(copies.folder / "uninterrupted")
            uninterrupted = copies.train("uninterrupted", max_steps=2)
        steps, stops = uninterrupted["step"], places_to_stop(uninterrupted, params.accumulation_steps)
        logging.info("Training for the same %d steps, with a kill after about %d of them ...", steps, stops[0])
        killed_at = copies.train("interrupted", kill_at=stops[0], checkpoint_minutes=EACH_STEP)["step"]
        if killed_at == steps:
            raise UserError(f"{model_dir}: the {steps} steps ended before the process was killed; raise num_epochs")
        stops = [stop for stop in stops if stop > killed_at]
        logging.info(
            "Killed after %d saved steps. Resuming, and stopping after steps %s ...", killed_at, [*stops, steps]
        )
        for stop in [*stops, steps]:
            resumed = copies.train("interrupted", max_steps=stop)
        difference = difference_of_runs(uninterrupted, resumed)
        if difference is None:
            count, times = len(tensors(uninterrupted)), f"{len(stops) + 1} time{'s' * bool(stops)}"
            epochs = uninterrupted["epoch"] + bool(uninterrupted["batches_done"])
            places = f"in {epochs} epochs and between them" if epochs > 1 else "in the first epoch only"
            print(f"Identical to the last bit after {steps} steps: {count} tensors, all losses and metrics.")
            print(f"Interrupted {times}, {places}.")
            return
        logging.info("The results differ. Looking for the cause ...")
        repeated = difference_of_runs(uninterrupted, copies.train("repeated", max_steps=steps))
    if repeated is not None:
        raise UserError(f"two uninterrupted runs differ: {repeated}; {NOT_DETERMINISTIC}")
    places = ", ".join(map(str, [killed_at, *stops]))
    raise UserError(f"resuming after {places} of {steps} steps is not exact: {difference}; {NOT_SAVED}")


def places_to_stop(checkpoint, accumulation_steps):
    """Return numbers of steps: in the middle of each epoch of a run, and after it, before the place of `checkpoint`."""
    steps, epochs = checkpoint["step"], checkpoint["epoch"]
    in_this_epoch = -(-checkpoint["batches_done"] // accumulation_steps)
    per_epoch = (steps - in_this_epoch) // epochs if epochs else steps
    places = {epoch * per_epoch + step for epoch in range(epochs + 1) for step in (per_epoch // 2, per_epoch)}
    return sorted(place for place in places if 0 < place < steps)


class ExperimentCopies:
    """Copies of an experiment, each in its own folder in `folder` and trained by train.py in separate processes."""

    def __init__(self, folder, model_dir, params, data_dir):
        self.folder, self.values = folder, utils.read_json(model_dir / "params.json")
        self.values["num_epochs"] = min(MOST_EPOCHS, params.num_epochs)
        train = Path(__file__).resolve().parents[2] / "train.py"
        self.command = [sys.executable, str(train), "--data_dir", str(data_dir), "--device", params.device]

    def train(self, name, *, seconds=None, kill_at=None, max_steps=None, checkpoint_minutes=NEVER):
        """Train the copy `name`, or resume its training.

        Args:
            seconds: time after which the process is asked to stop.
            kill_at: number of checkpoints after which the process is killed.
            max_steps: number of steps of the run after which the process stops.
            checkpoint_minutes: time between checkpoints.

        Returns:
            The last checkpoint, with the rows of history.csv as "rows"; None if there is no checkpoint yet.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        values = self.values | {"checkpoint_minutes": checkpoint_minutes}
        utils.write_whole(folder / "params.json", json.dumps(values))
        limit = ["--max_steps", str(max_steps)] if max_steps is not None else []
        with open(self.folder / "output", "w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen([*self.command, "--model_dir", folder, *limit], stdout=output, stderr=output)
            try:
                killed = wait(process, folder, seconds, kill_at)
            finally:
                process.kill()
                process.wait()
            if not killed and process.returncode not in (0, 143):
                output.seek(0)
                raise UserError(f"training failed:\n{output.read().strip()}")
        last = folder / "last.pth.tar"
        return utils.read_checkpoint(last) | {"rows": read_history(folder)} if last.exists() else None


def wait(process, folder, seconds, kill_at):
    """Wait until a training process has ended or has to be killed, and return whether it has to be killed."""
    training_since, saved = None, set()
    while process.poll() is None:
        if training_since is None and (folder / "run.json").exists():
            training_since = time.monotonic()
        if seconds is not None and training_since is not None and time.monotonic() - training_since > seconds:
            if sys.platform == "win32":  # where a process cannot be asked to stop
                return True
            process.terminate()
            seconds = None
        saved.add(version_of(folder / "last.pth.tar"))  # the file stays closed: Windows cannot replace an open file
        if kill_at is not None and len(saved - {None}) >= kill_at:
            return True
        time.sleep(0.002)
    return False


def difference_of_runs(one, other):
    """Return the first difference between the checkpoints of two runs after the same steps, as text, or None.

    One of them may have been saved before the evaluation at the end of an epoch, and the other after it.
    """
    for text, *_ in differing_numbers(one["rows"], other["rows"]):
        return text
    names = ["state_dict", "optim_dict", "stateful", "gradients"]
    if one["batches_done"] == other["batches_done"] and one["epoch"] == other["epoch"]:
        names.append("tally")
    path = first_difference({name: one[name] for name in names}, {name: other[name] for name in names})
    return path and f"{path} differs"
