"""What a run leaves beside its checkpoints: results, the log's lines, events, curves, and what reproduces it."""

import contextlib
import csv
import json
import logging
import time
from pathlib import Path

import utils
from toolkit.core import processes
from toolkit.core.curves import plot_curves
from toolkit.core.events import EventFile
from toolkit.core.experiment_folder import as_json, dataset_of
from toolkit.core.history import as_csv
from toolkit.core.memory import peak_memory
from toolkit.core.monitor import MODES
from toolkit.core.provenance import name_of_device, now, provenance
from toolkit.core.stop_signals import EndOfSession, Pruned
from utils import UserError

SECONDS_BETWEEN_PICTURES = 60
ENDS = {"finished", "stopped", "pruned", "failed"}  # of a session; one without was killed, or is under way


class RunRecord:
    """The record of a run in its folder: history.csv, speed.csv, metrics, train.log, run.json, curves.png, events.

    Args:
        folder: the experiment's folder.
        params: hyperparameters.
    """

    def __init__(self, folder, params):
        self.folder, self.params = Path(folder), params
        self.sessions, self.events = [], None
        self.headed, self.can_draw, self.can_write_events = False, True, True
        self.started = self.pictured = self.epoch_started = time.monotonic()

    def begin_session(self, model, state, changed, history=None, restored_from=None):
        """Note in run.json what this process is, and say how it begins.

        Args:
            model: the network.
            state: TrainState that it begins with.
            changed: what differs from the params of the session before, a dict from name to [then, now].
            history: the History of a run that is gone on with.
            restored_from: the checkpoint whose weights a new run begins with.
        """
        path = self.folder / "params.json"
        if not path.exists():
            self.params.save(path)
        self.sessions = self.read_sessions()
        project = getattr(self.params, "model_folder", ".")
        device = next((p.device for p in model.parameters()), "cpu")
        began = {"device": str(device), "processes": processes.world_size()}
        began |= {"started": now(), "first_epoch": state.epoch + 1, "first_step": state.step + 1}
        self.sessions.append(provenance(project) | began | ({"changed_params": changed} if changed else {}))
        self.write_run_json(model, state)
        name, many = type(model).__name__, ""
        if processes.world_size() > 1:
            name, many = name.removeprefix("FSDP"), f" and {processes.world_size() - 1} more ({self.params.parallel})"
        logging.info(
            "Training %s: %s of %s parameters, on %s%s",
            self.folder,
            name,
            f"{count_parameters(model):,}",
            name_of_device(device),
            many,
        )
        if hasattr(self.params, "data_dir"):
            logging.info("Model: %s/net.py; data: %s", self.params.model_folder, self.params.data_dir)
        if history is not None:
            logging.info("Going on %s", state.position)
            self.mend(state, history)
            if state.best and not (self.folder / "best.pth.tar").exists():
                logging.warning("best.pth.tar, of epoch %d, is missing; a better epoch makes it", state.best.epoch)
        elif restored_from is not None:
            logging.info("The weights to begin with are those of %s", restored_from)

    def begin_epoch(self):
        """Start the clock of an epoch."""
        self.epoch_started = time.monotonic()

    def show_epoch(self, state, is_best, samples_per_second):
        """Say what the epoch that has just ended gave: in the log, the events, from time to time in curves.png."""
        row = state.history[-1]
        self._log(row, is_best)
        peak = self.peak_memory()
        speed = {"samples_per_second": samples_per_second} | ({"peak_memory_mb": peak / 1e6} if peak else {})
        if self.can_write_events:
            self._write_events(row | speed)
        with contextlib.suppress(OSError):  # which the checkpoint that is being written says, too
            self._note_speed({"epoch": state.epoch} | speed)
        if time.monotonic() - self.pictured > SECONDS_BETWEEN_PICTURES:
            self.draw(state)

    def _note_speed(self, row):
        path = self.folder / "speed.csv"
        text = as_csv([row])
        with open(path, "a", encoding="utf-8", newline="") as file:
            file.write(text.partition("\n")[2] if file.tell() else text)

    def peak_memory(self):
        """The most memory that the device had to give so far, in bytes, or None; a notebook may not say which it is."""
        return peak_memory(getattr(self.params, "device", "cpu"))

    def read_speeds(self):
        """What speed.csv holds, a dict by epoch; it is not the same on each machine, and so no part of the history."""
        try:
            with open(self.folder / "speed.csv", encoding="utf-8", newline="") as file:
                return {int(row.pop("epoch")): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def write_results(self, history, is_best):
        """Write the validation metrics of the last epoch, which may be the best too, and history.csv after them."""
        row = history.rows[-1]
        metrics = {name.removeprefix("val_"): value for name, value in row.items() if name.startswith("val_")}
        if is_best:
            utils.save_dict_to_json(metrics, self.folder / "metrics_val_best_weights.json")
        utils.save_dict_to_json(metrics, self.folder / "metrics_val_last_weights.json")
        history.write()

    def mend(self, state, history):
        """Write again what a process that was killed, or could not write, just after an epoch left out."""
        if not state.history or state.batches_done:
            return
        is_best = False
        if state.best.epoch == state.epoch and not (self.folder / "metrics_val_best_weights.json").exists():
            with contextlib.suppress(UserError):  # of the next epoch, if that was being saved
                is_best = utils.read_checkpoint(self.folder / "best.pth.tar").get("epoch") == state.epoch
        self.write_results(history, is_best)

    def is_complete(self, state):
        """Whether all that is written down of a finished run is there, and as `state` has it."""
        if not state.history:  # of CS230's template
            return True
        try:
            history = (self.folder / "history.csv").read_bytes()
            best = (self.folder / "metrics_val_best_weights.json").exists()
            return best and history == as_csv(state.history).encode() and "finished" in self.read_sessions()[-1]
        except (OSError, LookupError, TypeError):
            return False

    def read_sessions(self):
        """The sessions that run.json lists so far."""
        path = self.folder / "run.json"
        if not path.exists():
            return []
        try:
            sessions = utils.read_json(path).get("sessions")
        except UserError as error:
            logging.warning("%s; a new one is begun", error)
            sessions = None
        return sessions if isinstance(sessions, list) else []

    def draw(self, state):
        """Draw curves.png. Where it cannot be written the training goes on."""
        self.pictured = time.monotonic()
        if self.can_draw:
            try:
                speeds = self.read_speeds()
                history = [row | speeds.get(row["epoch"], {}) for row in state.history]
                utils.write_whole(self.folder / "curves.png", plot_curves(history, state.best.model_dump()))
            except UserError as error:
                logging.warning("%s; going on without pictures", error)
                self.can_draw = False

    def write_run_json(self, model, state):
        """Write run.json, what reproduces the run."""
        stated = self.params.hyperparameters
        mode = self.params.monitor_mode or (state.best and MODES.get(state.best.monitor))
        content = {
            "model_dir": str(self.folder),
            "seed": self.params.seed,
            "params": as_json(stated),
            "facts": as_json({name: value for name, value in self.params.values.items() if name not in stated}),
            "dataset": dataset_of(self.params),
            "parameters_of_the_model": count_parameters(model),
            "restored_from": state.restored_from,
            "restored_sha256": state.restored_sha256,
            "best": state.best and state.best.model_dump() | {"mode": mode},
            "epochs": state.epoch,
            "steps": state.step,
            "sessions": self.sessions,
        }
        utils.write_whole(self.folder / "run.json", json.dumps(content, indent=2) + "\n")

    def end_session(self, model, state, how, why=""):
        """Note in run.json when, where and how ("finished", "stopped", "pruned" or "failed") this process ended."""
        seconds = round(time.monotonic() - self.started, 1)
        self.sessions[-1] |= {how: now(), "seconds": seconds, "last_step": state.step}
        reasons = {"pruned": "reason", "failed": "error"}
        self.sessions[-1] |= {reasons[how]: why} if how in reasons else {}
        self.write_run_json(model, state)

    def finish(self, model, state):
        """Draw and note what is left when all epochs are done, or no better one has come for long."""
        if state.epoch < self.params.num_epochs:
            waited = self.params.early_stopping_patience
            logging.info("Stopped early: no better %s in %d epochs", state.best.monitor, waited)
        self.draw(state)
        self.end_session(model, state, "finished")
        if peak := self.peak_memory():
            logging.info("Memory: %.2f GB at most", peak / 1e9)
        best, seconds = state.best, time.monotonic() - self.started
        logging.info(
            "Done in %.0f seconds. Best %s on val: %.4f, after epoch %d (marked *).",
            seconds,
            best.monitor,
            best.value,
            best.epoch,
        )

    def say_finished(self, state):
        """Say that there is nothing left to do."""
        total = self.params.num_epochs
        logging.info("%s is finished: %d of %d epochs are done", self.folder, state.epoch, total)
        longer = "early_stopping_patience" if state.epoch < total else "num_epochs"
        logging.info("(a larger %s goes on, --restart begins anew)", longer)

    @staticmethod
    def say_stopped(error, state, position, signal, restart):
        """Say why a run stopped before its end, and how to go on.

        Args:
            error: the exception that ended it.
            state: its TrainState.
            position: where the last checkpoint has it, in words; None: there is none.
            signal: name of the signal that came, or None.
            restart: whether the command said --restart.
        """
        why = "by " + (signal or ("an error" if isinstance(error, Exception) else "request"))
        again = "The same command" + (" without --restart" if restart else "")
        if isinstance(error, Pruned):
            why = f"by the sweep: {error}"
        elif isinstance(error, EndOfSession):
            why, again = f"after {state.step} steps", "The same command without --max_steps"
        saved = f"saved {position}" if position else "nothing is saved yet"
        logging.info("Stopped %s; %s. %s goes on.", why, saved, again)

    def close(self):
        """Close the file of events."""
        if self.events is not None:
            with contextlib.suppress(OSError):  # what is left to be written was said to be lost
                self.events.close()

    def _log(self, row, is_best):
        names = [name for name in row if name.startswith(("train_", "val_")) and "/" not in name]
        if not self.headed:
            for name in self.params.unread:
                logging.warning("params.json: %s has no effect: no code has read it", name)
            logging.info("  ".join([" epoch", *names, "seconds"]))
            self.headed = True
        cells = [f"{row['epoch']:>6}", *(f"{row[name]:{len(name)}.4f}" for name in names)]
        seconds = time.monotonic() - self.epoch_started
        logging.info("  ".join([*cells, f"{seconds:7.1f}"]) + ("  *" if is_best else ""))

    def _write_events(self, row):
        epoch, scalars = row["epoch"], {}
        for name, value in row.items():
            split, _, result = name.partition("_")
            scalars[f"{result}/{split}" if split in ("train", "val") else name] = value
        try:
            if self.events is None:
                self.events = EventFile(self.folder / "tensorboard", first_step=epoch)
            self.events.write(scalars, epoch)
        except OSError as error:
            logging.warning("%s/tensorboard: cannot be written: %s; going on without it", self.folder, error.strerror)
            self.can_write_events = False


def note_failure(folder, error):
    """Note in run.json that a training which could not do so itself has failed, and why, in words."""
    path = Path(folder) / "run.json"
    try:
        content = utils.read_json(path)
        sessions = content.setdefault("sessions", [])
        if sessions and sessions[-1].get("error") == error:
            return
    except (UserError, AttributeError, LookupError):
        content = {"sessions": []}
    if not content["sessions"] or ENDS & content["sessions"][-1].keys():
        content["sessions"].append({"started": now()})
    content["sessions"][-1] |= {"failed": now(), "error": error}
    utils.write_whole(path, json.dumps(content, indent=2) + "\n")


def count_parameters(model):
    """How many numbers the parameters of a model are."""
    return sum(p.numel() for p in model.parameters())
