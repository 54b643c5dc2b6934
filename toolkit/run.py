"""The record of a run: the epochs it still has to do, and all that is kept of each one in the experiment's folder."""

import contextlib
import csv
import io
import json
import logging
import math
import time
from pathlib import Path

import utils
from toolkit.experiment import check_same_data, dataset_of, find_checkpoint, move_results_aside
from toolkit.plots import plot_curves
from toolkit.provenance import now, provenance
from utils import UserError

SECONDS_BETWEEN_PICTURES = 60


class Run:
    """A training run in an experiment's folder; one that was interrupted goes on where its last epoch ended.

    ```
    run = Run(model, optimizer, params, model_dir)
    for epoch in run.epochs():
        ...
        run.record(epoch, train_metrics, val_metrics)
    ```

    Args:
        model, optimizer: what is trained; a run that goes on gives them the state of its last checkpoint.
        params: hyperparameters.
        model_dir: the experiment's folder.
        restore_file: name in the folder, or path, of a checkpoint whose weights a new run begins with.

    Raises:
        UserError: a checkpoint is damaged or does not fit, or the run was on other data.
    """

    def __init__(self, model, optimizer, params, model_dir, restore_file=None):
        self.model, self.optimizer, self.params = model, optimizer, params
        self.folder = Path(model_dir)
        self.restore_file = restore_file
        self.epoch, self.history, self.best, self.sessions = 0, [], None, []
        self.started, self.pictured = time.monotonic(), time.monotonic()
        self.events, self.logged = None, False
        last = self.folder / "last.pth.tar"
        if last.exists() and (restore_file is None or utils.read_checkpoint(last).get("restored_from") == restore_file):
            self._resume(last)
        elif restore_file is not None:
            utils.load_checkpoint(find_checkpoint(self.folder, restore_file), model)
            move_results_aside(self.folder)
            logging.info("The weights are those of %s", restore_file)

    def _resume(self, last):
        state = utils.read_checkpoint(last)
        check_same_data(state, self.params, last, way_out="--restart begins anew on this one")
        utils.load_checkpoint(last, self.model, self.optimizer)
        self.epoch = int(state.get("epoch", 0))
        self.history = state.get("history", [])
        self.best = state.get("best")
        if self.best and self.params.monitor not in (None, self.best["monitor"]):
            raise UserError(
                f"params.json: monitor is {self.params.monitor!r}, but the best checkpoint so far was chosen by "
                f"{self.best['monitor']!r}; keep to that, or begin anew with --restart"
            )
        if self.epoch < self.params.num_epochs:
            logging.info("Going on after epoch %d, from %s", self.epoch, last)

    def epochs(self):
        """Yield the numbers of the epochs that are still to be done, 1 to `params.num_epochs`."""
        total = self.params.num_epochs
        if self.epoch >= total:
            logging.info("%s is finished: %d of %d epochs are done", self.folder, self.epoch, total)
            logging.info("(a larger num_epochs goes on, --restart begins anew)")
            return
        self._write_run_json()
        size = sum(p.numel() for p in self.model.parameters())
        kind, device = type(self.model).__name__, next(self.model.parameters()).device
        logging.info("Training %s: %s of %s parameters, on %s", self.folder, kind, f"{size:,}", device)
        if hasattr(self.params, "data_dir"):
            logging.info("Model: %s/net.py; data: %s", self.params.model_folder, self.params.data_dir)
        for epoch in range(self.epoch + 1, total + 1):
            self.params.add_facts({"epoch": epoch})
            utils.set_seed(self.params.seed, epoch)
            self.epoch_started = time.monotonic()
            yield epoch
        self._finish()

    def record(self, epoch, train_metrics, val_metrics):
        """Keep what an epoch gave: checkpoints, metrics, history, events, a line in the log.

        Args:
            epoch: its number.
            train_metrics, val_metrics: dicts from name to float.
        """
        row = {"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= {f"train_{name}": value for name, value in train_metrics.items()}
        row |= {f"val_{name}": value for name, value in val_metrics.items()}
        self.history.append(row)
        self.epoch = epoch
        monitor, mode = monitored(self.params, val_metrics)
        is_best = self._is_best(val_metrics[monitor], mode)
        if is_best:
            self.best = {"epoch": epoch, "monitor": monitor, "value": val_metrics[monitor]}
        self._save_state(is_best)
        if is_best:
            utils.save_dict_to_json(val_metrics, self.folder / "metrics_val_best_weights.json")
        utils.save_dict_to_json(val_metrics, self.folder / "metrics_val_last_weights.json")
        utils.write_whole(self.folder / "history.csv", as_csv(self.history))
        self._log(row, is_best)
        self._write_events(epoch, train_metrics, val_metrics)
        if time.monotonic() - self.pictured > SECONDS_BETWEEN_PICTURES:
            self._draw()

    def _is_best(self, value, mode):
        """Whether `value` is at least as good as all before (of equals the later is taken, as in CS230's template)."""
        if math.isnan(value):
            return self.best is None
        if self.best is None or math.isnan(self.best["value"]):
            return True
        return value >= self.best["value"] if mode == "max" else value <= self.best["value"]

    def _save_state(self, is_best):
        state = {
            "epoch": self.epoch,
            "state_dict": self.model.state_dict(),
            "optim_dict": self.optimizer.state_dict(),
            "history": self.history,
            "best": self.best,
            "params": as_json(self.params.written),
            "dataset": dataset_of(self.params),
            "restored_from": self.restore_file,
        }
        utils.save_checkpoint(state, is_best, self.folder)

    def _log(self, row, is_best):
        names = [name for name in row if name not in ("epoch", "learning_rate")]
        if not self.logged:
            for name in self.params.unread:
                logging.warning("params.json: %s has no effect: nothing has read it%s", name, self.params.meant(name))
            logging.info("  ".join([" epoch", *names, "seconds"]))
            self.logged = True
        cells = [f"{row['epoch']:>6}", *(f"{row[name]:{len(name)}.4f}" for name in names)]
        seconds = time.monotonic() - self.epoch_started
        logging.info("  ".join([*cells, f"{seconds:7.1f}"]) + ("  *" if is_best else ""))

    def _write_events(self, epoch, train_metrics, val_metrics):
        from torch.utils.tensorboard import SummaryWriter  # half a second: not before the first epoch is done

        if self.events is None:
            self.events = SummaryWriter(self.folder / "tensorboard", purge_step=epoch)
        for split, results in (("train", train_metrics), ("val", val_metrics)):
            for name, value in results.items():
                self.events.add_scalar(f"{name}/{split}", value, epoch)

    def _draw(self):
        utils.write_whole(self.folder / "curves.png", plot_curves(self.history, self.best))
        self.pictured = time.monotonic()

    def _write_run_json(self):
        path = self.folder / "run.json"
        if self.epoch and path.exists():
            self.sessions = utils.read_json(path).get("sessions", [])
        self.sessions.append(
            provenance(getattr(self.params, "model_folder", ".")) | {"started": now(), "first_epoch": self.epoch + 1}
        )
        self._save_run_json()

    def _save_run_json(self):
        content = {
            "model_dir": str(self.folder),
            "seed": self.params.seed,
            "params": as_json(self.params.values),
            "dataset": dataset_of(self.params),
            "parameters_of_the_model": sum(p.numel() for p in self.model.parameters()),
            "best": self.best,
            "epochs": self.epoch,
            "sessions": self.sessions,
        }
        utils.write_whole(self.folder / "run.json", json.dumps(content, indent=2) + "\n")

    def _finish(self):
        self.sessions[-1] |= {"finished": now(), "seconds": round(time.monotonic() - self.started, 1)}
        self._save_run_json()
        self._draw()
        self.events.close()
        seconds = time.monotonic() - self.started
        logging.info("Done in %.0f seconds. Best %s on val: %.4f, after epoch %d (marked *).",
                     seconds, self.best["monitor"], self.best["value"], self.best["epoch"])  # fmt: skip


def monitored(params, results):
    """Which of the results of an evaluation selects the best checkpoint, and in which direction.

    Args:
        params: hyperparameters: `monitor` and `monitor_mode`; where they are not given, accuracy, else loss.
        results: the names of the results, "loss" and the metrics.

    Returns:
        (name, "max" or "min")

    Raises:
        UserError: there is no such result, or its direction cannot be known.
    """
    name, mode = params.monitor, params.monitor_mode
    if name is None:
        name = "accuracy" if "accuracy" in results else "loss"
    if name not in results:
        raise UserError(f"params.json: monitor is {name!r}, but the metrics are {', '.join(results)}")
    mode = mode or {"accuracy": "max", "loss": "min"}.get(name)
    if mode is None:
        raise UserError(f'params.json: monitor is {name!r}; add "monitor_mode": "max" or "min", whichever is better')
    return name, mode


def as_csv(rows):
    """Rows (dicts) as the text of a csv file. Floats have all their digits."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(values):
    """A dict as it would come back from a json file, without the values that json cannot hold."""
    plain = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError, ValueError):
            plain[name] = json.loads(json.dumps(value))
    return plain
