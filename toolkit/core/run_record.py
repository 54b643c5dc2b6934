"""The files of a run beside its checkpoints: history.csv, metrics, run.json, log, curves.png, TensorBoard events."""

import contextlib
import csv
import json
import logging
import threading
import time
from pathlib import Path

import utils
from toolkit.core import processes
from toolkit.core.curves import plot_curves
from toolkit.core.experiment_folder import as_json, dataset_of
from toolkit.core.forward_pass import device_of
from toolkit.core.memory import peak_memory
from toolkit.core.monitor import MODES, monitored_in
from toolkit.core.provenance import name_of_device, now, provenance
from toolkit.core.text import as_csv
from utils import UserError

SECONDS_BETWEEN_PICTURES = 60


def ignore_tensorboard(args, otherwise=threading.excepthook):
    """Print the error of a thread, unless it is TensorBoard's: the next `add_scalar` raises that error again."""
    if not type(args.thread).__module__.startswith("tensorboard."):
        otherwise(args)


class RunRecord:
    """The record of a run in its folder.

    A session is one process that trained the run, from its start or resume to its end; run.json lists them all.
    """

    def __init__(self, folder, params):
        self.folder, self.params = Path(folder), params
        self.sessions = []  # as in run.json; the last one is this process
        self.speeds = {}  # as in speed.csv, a dict from epoch to row
        self.num_parameters = 0  # of the model
        self.events = None  # the SummaryWriter, after the first epoch
        self.has_header = False  # of the table in the log
        self.writes_events = True  # False after TensorBoard's file cannot be written
        self.started = self.drawn_at = self.epoch_started = time.monotonic()

    def start_session(self, model, state, changed, resumes):
        """Add this session to run.json, and log how it starts.

        `changed` are the hyperparameters that differ from those of the session before, a dict from name to [then, now];
        `resumes` is True if a run is resumed.
        """
        path = self.folder / "params.json"
        if not path.exists():
            self.params.save(path)
        self.sessions, self.speeds = self.read_sessions(), self._read_speeds()
        self.num_parameters = sum(p.numel() for p in model.parameters())
        device, count = device_of(model), processes.world_size()
        session = provenance(getattr(self.params, "model_folder", ".")) | {"device": str(device), "processes": count}
        session |= {"started": now(), "first_epoch": state.epoch + 1, "first_step": state.step + 1}
        self.sessions.append(session | ({"changed_params": changed} if changed else {}))
        self._write_run_json(state)
        name = type(model).__name__.removeprefix("FSDP")
        others = f" and {count - 1} more ({self.params.parallel})" if count > 1 else ""
        size, where = f"{self.num_parameters:,}", f"{name_of_device(device)}{others}"
        logging.info("Training %s: %s with %s parameters, on %s", self.folder, name, size, where)
        if hasattr(self.params, "data_dir"):
            logging.info("Model: %s/net.py; data: %s", self.params.model_folder, self.params.data_dir)
        if resumes:
            logging.info("Resuming %s", state.position)
            self._write_missing(state)
        elif state.restored_from is not None:
            logging.info("Starting with the weights of %s", state.restored_from)
        self.epoch_started = time.monotonic()

    def show_epoch(self, state, is_best):
        """Show the results of the epoch that has just ended: in the log, TensorBoard and, now and then, curves.png."""
        row = state.history[-1]
        self._log(row, is_best)
        self._write_events(row | self.speeds[state.epoch])
        if time.monotonic() - self.drawn_at > SECONDS_BETWEEN_PICTURES:
            self.draw(state)
        self.epoch_started = time.monotonic()

    def _peak_memory(self):
        return peak_memory(getattr(self.params, "device", "cpu"))  # a notebook may not set it

    def add_speed(self, epoch, samples_per_second):
        """Add the speed of an epoch, and the peak memory so far, to what speed.csv will hold."""
        self.speeds[epoch] = {"samples_per_second": samples_per_second}
        if peak := self._peak_memory():
            self.speeds[epoch]["peak_memory_mb"] = peak / 1e6

    def _read_speeds(self):
        """Return speed.csv, a dict from epoch to row. Speeds differ between machines, so the history has none."""
        try:
            with open(self.folder / "speed.csv", encoding="utf-8", newline="") as file:
                return {int(row.pop("epoch")): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def write_results(self, rows, is_best):
        """Write the validation metrics of the last epoch, as those of the best one, too, if it is; then the tables."""
        metrics = {name.removeprefix("val_"): value for name, value in rows[-1].items() if name.startswith("val_")}
        if is_best:
            utils.save_dict_to_json(metrics, self.folder / "metrics_val_best_weights.json")
        utils.save_dict_to_json(metrics, self.folder / "metrics_val_last_weights.json")
        utils.write_whole(self.folder / "history.csv", as_csv(rows))
        if self.speeds:
            speeds = [{"epoch": epoch} | speed for epoch, speed in self.speeds.copy().items()]
            utils.write_whole(self.folder / "speed.csv", as_csv(speeds))

    def _write_missing(self, state):
        """Write the results that the previous session did not write because it was killed just after an epoch."""
        best = self.folder / "best.pth.tar"
        if state.best and not best.exists():
            logging.warning("best.pth.tar (epoch %d) is missing; the next better epoch writes it", state.best.epoch)
        if state.history and not state.batches_done:
            is_best, file = False, self.folder / "metrics_val_best_weights.json"
            if state.best and state.best.epoch == state.epoch and not file.exists():
                with contextlib.suppress(UserError):  # best.pth.tar may be that of the next epoch already
                    is_best = utils.read_checkpoint(best).get("epoch") == state.epoch
            self.write_results(state.history, is_best)

    def is_complete(self, state):
        """Return True if the run in the folder is finished, and had written all its files."""
        sessions = self.read_sessions()
        return not state.history or bool(sessions and "finished" in sessions[-1])  # CS230's runs have no history

    def read_sessions(self):
        """Return the sessions that run.json lists so far."""
        path = self.folder / "run.json"
        try:
            sessions = utils.read_json(path).get("sessions") if path.exists() else None
        except UserError as error:
            logging.warning("%s; a new one is started", error)
            sessions = None
        return sessions if isinstance(sessions, list) else []

    def draw(self, state):
        """Draw curves.png. If it cannot be written, training continues without it."""
        self.drawn_at = time.monotonic()
        best = vars(state.best) if state.best else {"epoch": 0, "monitor": "loss"}  # no epoch is marked
        history = [row | self.speeds.get(row["epoch"], {}) for row in state.history]
        try:
            utils.write_whole(self.folder / "curves.png", plot_curves(history, best))
        except UserError as error:
            logging.warning("%s; continuing without pictures", error)

    def _write_run_json(self, state):
        """Write run.json, which says how to reproduce the run."""
        stated = self.params.defaults | self.params.given
        best = None
        if state.best:
            best = vars(state.best) | {"mode": self.params.monitor_mode or MODES.get(state.best.monitor)}
        content = {
            "model_dir": str(self.folder),
            "seed": self.params.seed,
            "params": as_json(stated),
            "facts": as_json({name: value for name, value in self.params.values.items() if name not in stated}),
            "dataset": dataset_of(self.params),
            "parameters_of_the_model": self.num_parameters,
            "restored_from": state.restored_from,
            "restored_sha256": state.restored_sha256,
            "best": best,
            "epochs": state.epoch,
            "steps": state.step,
            "sessions": self.sessions,
        }
        utils.write_whole(self.folder / "run.json", json.dumps(content, indent=2) + "\n")

    def end_session(self, state, how, why=""):
        """Add to run.json when and how this session ended: "finished", "stopped", "pruned" or "failed"."""
        seconds = round(time.monotonic() - self.started, 1)
        self.sessions[-1] |= {how: now(), "seconds": seconds, "last_step": state.step}
        key = {"pruned": "reason", "failed": "error"}.get(how)
        self.sessions[-1] |= {key: why} if key else {}
        self._write_run_json(state)

    def finish(self, state):
        """Draw and log what is left to say when all epochs are done, or early stopping ends the run."""
        best, (monitor, _) = state.best, monitored_in(state.history[-1], self.params)
        if state.epoch < self.params.num_epochs:
            waited = self.params.early_stopping_patience
            logging.info("Stopped early: %s did not improve in %d epochs", monitor, waited)
        self.draw(state)
        self.end_session(state, "finished")
        if peak := self._peak_memory():
            logging.info("Peak memory: %.2f GB", peak / 1e9)
        result = f"No epoch is the best: val {monitor} was always nan"
        if best:
            result = f"Best epoch: {best.epoch} (marked *), with val {monitor} {best.value:.4f}"
        logging.info("Done in %.0f seconds. %s.", time.monotonic() - self.started, result)

    def say_finished(self, state):
        """Log that there is nothing left to do."""
        total = self.params.num_epochs
        key = "early_stopping_patience" if state.epoch < total else "num_epochs"
        logging.info("%s is finished: %d of %d epochs are done", self.folder, state.epoch, total)
        logging.info("(increase %s to train longer, or start over with --restart)", key)
        if state.best and not (self.folder / "best.pth.tar").exists():
            logging.warning("best.pth.tar is missing; evaluate.py --restore_file last evaluates the last epoch instead")

    def close(self):
        """Close the TensorBoard events."""
        if self.events is not None:
            with contextlib.suppress(OSError):
                self.events.close()

    def _log(self, row, is_best):
        names = [name for name in row if name.startswith(("train_", "val_")) and "/" not in name]
        if not self.has_header:
            for name in self.params.unread:
                logging.warning("params.json: %s has no effect: no code has read it", name)
            logging.info("  ".join([" epoch", *names, "seconds"]))
            self.has_header = True
        cells = [f"{row['epoch']:>6}", *(f"{row[name]:{len(name)}.4f}" for name in names)]
        seconds = time.monotonic() - self.epoch_started
        logging.info("  ".join([*cells, f"{seconds:7.1f}"]) + ("  *" if is_best else ""))

    def _write_events(self, row):
        if not self.writes_events:
            return
        from torch.utils.tensorboard import SummaryWriter  # when the first epoch is done: importing it takes a while

        epoch = row["epoch"]
        try:
            if self.events is None:  # purge_step: what follows replaces later epochs of earlier sessions
                threading.excepthook = ignore_tensorboard
                self.events = SummaryWriter(self.folder / "tensorboard", purge_step=epoch)
            for name, value in row.items():
                split, _, result = name.partition("_")
                tag = f"{result}/{split}" if split in ("train", "val") else name
                self.events.add_scalar(tag, value, epoch)
            self.events.flush()
        except (OSError, UnicodeError) as error:  # TensorBoard writes to no folder whose name is not UTF-8
            reason = getattr(error, "strerror", None) or error
            logging.warning("%s/tensorboard: cannot be written: %s; continuing without it", self.folder, reason)
            self.writes_events = False
