"""The record of a run: the epochs it still has to do, and all that is kept of each one in the experiment's folder."""

import csv
import io
import json
import logging
import math
import time
from pathlib import Path

import utils
from toolkit.experiment import (
    as_json,
    check_same_data,
    check_same_params,
    dataset_of,
    find_checkpoint,
    move_results_aside,
)
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
        restore_file: name in the folder, or path, of a checkpoint whose weights a new run begins with. A run that was
            begun so goes on when it is named again.
        restart: begin anew, whatever is there.

    Raises:
        UserError: a checkpoint is damaged or does not fit, or the run had other data or hyperparameters.
    """

    def __init__(self, model, optimizer, params, model_dir, restore_file=None, restart=False):
        self.model, self.optimizer, self.params = model, optimizer, params
        self.folder = Path(model_dir)
        self.restore_file = None if restore_file is None else str(restore_file)
        self.epoch, self.history, self.best, self.sessions = 0, [], None, []
        self.started, self.pictured = time.monotonic(), time.monotonic()
        self.events, self.logged = None, False
        last = self.folder / "last.pth.tar"
        state = utils.read_checkpoint(last) if last.exists() and not restart else None
        self.goes_on = state is not None and self.restore_file in (None, state.get("restored_from"))
        if self.goes_on:
            self._resume(state, last)
        elif restore_file is not None:
            utils.load_checkpoint(find_checkpoint(self.folder, restore_file), model)

    def _resume(self, state, last):
        check_same_data(state, self.params, last, way_out="--restart begins anew on this one")
        check_same_params(state, self.params, last)
        utils.load_checkpoint(last, self.model, self.optimizer)
        self.epoch = state.get("epoch")
        self.history, self.best = state.get("history", []), state.get("best")
        if not isinstance(self.epoch, int) or not isinstance(self.history, list):
            raise UserError(f"{last}: its epoch or history is not what train.py writes; --restart begins anew")

    def epochs(self):
        """Yield the numbers of the epochs that are still to be done, 1 to `params.num_epochs`.

        This is where the first file is written; a new run moves what an earlier one left to a folder `replaced-<n>`.
        """
        total = self.params.num_epochs
        if self.epoch >= total:
            logging.info("%s is finished: %d of %d epochs are done", self.folder, self.epoch, total)
            logging.info("(a larger num_epochs goes on, --restart begins anew)")
            return
        self._begin()
        for epoch in range(self.epoch + 1, total + 1):
            self.params.add_facts({"epoch": epoch})
            utils.set_seed(self.params.seed, epoch)
            self.epoch_started = time.monotonic()
            yield epoch
        self._finish()

    def _begin(self):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made: {error.strerror}") from None
        if not self.goes_on:
            move_results_aside(self.folder)
            if self.restore_file is not None:  # so that it can go on from here, though what it names was moved
                self._save_state(is_best=False)
        path = self.folder / "params.json"
        if not path.exists():
            self.params.save(path)
        path = self.folder / "run.json"
        if path.exists():
            self.sessions = utils.read_json(path).get("sessions", [])
        project = getattr(self.params, "model_folder", ".")
        self.sessions.append(provenance(project) | {"started": now(), "first_epoch": self.epoch + 1})
        self._save_run_json()
        device = next((p.device for p in self.model.parameters()), "cpu")
        logging.info("Training %s: %s of %s parameters, on %s", self.folder, type(self.model).__name__,
                     f"{count_parameters(self.model):,}", device)  # fmt: skip
        if hasattr(self.params, "data_dir"):
            logging.info("Model: %s/net.py; data: %s", self.params.model_folder, self.params.data_dir)
        if self.goes_on:
            logging.info("Going on after epoch %d", self.epoch)
        elif self.restore_file is not None:
            logging.info("The weights to begin with are those of %s", self.restore_file)

    def record(self, epoch, train_metrics, val_metrics):
        """Keep what an epoch gave: checkpoints, metrics, history, events, a line in the log.

        Args:
            epoch: its number.
            train_metrics, val_metrics: dicts from name to float.

        Raises:
            UserError: the validation loss is NaN, or `params.monitor` names no result.
        """
        self._check_results(epoch, val_metrics)
        row = {"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= {f"train_{name}": value for name, value in train_metrics.items()}
        row |= {f"val_{name}": value for name, value in val_metrics.items()}
        self.history.append(row)
        self.epoch = epoch
        monitor, mode = monitored(self.params, val_metrics)
        is_best = self._is_best(val_metrics[monitor], mode)
        if is_best:
            self.best = {"epoch": epoch, "monitor": monitor, "value": val_metrics[monitor]}
            for outdated in self.folder.glob("metrics_*_best.json"):  # of the checkpoint that was best so far
                outdated.unlink()
        self._save_state(is_best)
        if is_best:
            utils.save_dict_to_json(val_metrics, self.folder / "metrics_val_best_weights.json")
        utils.save_dict_to_json(val_metrics, self.folder / "metrics_val_last_weights.json")
        utils.write_whole(self.folder / "history.csv", as_csv(self.history))
        self._log(row, is_best)
        self._write_events(epoch, train_metrics, val_metrics)
        if time.monotonic() - self.pictured > SECONDS_BETWEEN_PICTURES:
            self._draw()

    def _check_results(self, epoch, val_metrics):
        if math.isnan(val_metrics["loss"]):
            rate = self.optimizer.param_groups[0]["lr"]
            raise UserError(
                f"the validation loss became nan in epoch {epoch}, with learning rate {rate:g}; stopped (what was "
                f"saved up to epoch {epoch - 1} is kept). Try a smaller learning_rate, and --restart"
            )
        monitor, _ = monitored(self.params, val_metrics)
        if self.best and self.best["monitor"] != monitor:
            raise UserError(
                f"the best checkpoint so far was chosen by {self.best['monitor']}, and now it would be by {monitor}: "
                f'put "monitor" into params.json, or begin anew with --restart'
            )

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
            "params": as_json(self.params.stated),
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

    def _save_run_json(self):
        content = {
            "model_dir": str(self.folder),
            "seed": self.params.seed,
            "params": as_json(self.params.values),
            "dataset": dataset_of(self.params),
            "parameters_of_the_model": count_parameters(self.model),
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


def count_parameters(model):
    """How many numbers the parameters of a model are."""
    return sum(p.numel() for p in model.parameters())


def as_csv(rows):
    """Rows (dicts) as the text of a csv file. Floats have all their digits."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
