"""A training run in an experiment's folder: where it stands, the epochs it still has to do, when it is saved."""

import contextlib
import logging
import time
from pathlib import Path

import utils
from toolkit import experiment
from toolkit.checkpoints import Checkpoints
from toolkit.history import History
from toolkit.journal import Journal
from toolkit.lock import ExperimentLock
from toolkit.monitor import check_results, is_better, monitored
from toolkit.order import MODEL, generators_of, order_of, seed_all
from toolkit.restore import LARGE, change_learning_rate, collect, restore
from toolkit.script import close_bars
from toolkit.state import Best, TrainState, reading
from toolkit.stop import EndOfSession, Pruned, StopSignals, way_of_ending
from utils import UserError

# whether what model and optimizer hold at this moment is a state that a run can go on from
NOTHING_NEW, READY, NOT_READY = "nothing new", "ready", "not ready"


class Run:
    """A training run; one that was interrupted goes on where it was.

    ```
    with Run(model, optimizer, params, model_dir) as run:
        for epoch in run.epochs():
            train_metrics = train(..., run=run)     # takes its batches from `run.batches`
            run.record(epoch, train_metrics, val_metrics)
    ```

    Args:
        model, optimizer: what is trained; they get the state of the last checkpoint.
        params: hyperparameters.
        model_dir: the experiment's folder.
        restore_file: name in the folder, or path, of a checkpoint whose weights a new run begins with. A run that was
            begun so goes on when it is named again.
        restart, partial: begin anew, whatever is there; take from `restore_file` the weights that fit.
        max_steps: stop, as if asked to, once so many steps are done in all.
        stateful: dict from name to what else has a state_dict and a load_state_dict: a schedule, a gradient scaler, a
            moving average, a loss with weights.
        report: called after each epoch with its number and the value of the monitored metric; what it returns, if
            anything, is why to stop here, in words.

    Raises:
        UserError: another process trains there, or a checkpoint is damaged, does not fit, or is of another run.
    """

    def __init__(self, model, optimizer, params, model_dir, restore_file=None, *, restart=False, partial=False,
                 max_steps=None, stateful=None, report=None):  # fmt: skip
        self.model, self.optimizer, self.params = model, optimizer, params
        self.folder = Path(model_dir)
        self.restore_file = None if restore_file is None else str(restore_file)
        self.restart, self.partial, self.max_steps, self.stateful = restart, partial, max_steps, stateful or {}
        self.state, self.report, self.generators = TrainState(), report, generators_of(model)
        self.goes_on, self.changed, self.unreadable = False, {}, []
        self.phase, self.gradients_used, self.tally = NOTHING_NEW, True, None
        self.signals, self.lock, self.journal = StopSignals(), ExperimentLock(model_dir), Journal(model_dir, params)
        self.checkpoints, self.begun = Checkpoints(self.folder, self.lock, params.checkpoint_minutes), False

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.signals)
            undo.callback(self.lock.release)
            if self.folder.is_dir():  # else there is nothing to read, and nothing is made before all is checked
                self.lock.acquire()
            self._restore()
            self.history = History(self.state.history, self.folder / "history.csv")
            self.state.history = self.history.rows
            collect(self.state, self.model, self.optimizer, self.stateful, False)  # what cannot be saved is said now
            undo.callback(self.optimizer.register_step_post_hook(self._after_optimizer_step).remove)
            undo.callback(self.journal.close)
            self.undo = undo.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        with self.undo:
            if kind is None:
                self.checkpoints.wait()
            elif self.begun and not self.signals.at_once:
                self._leave(error)
            if isinstance(error, Exception):
                self.signals.check()  # it failed because a worker got the signal, too
        return kind is not None and issubclass(kind, EndOfSession)

    def _leave(self, error):
        """Save what is done, and say how to go on."""
        close_bars()
        self.signals.in_step = True  # what comes now is Ctrl-C for the second time, or has to wait
        try:
            if self.phase == READY:
                self.save()
            self.checkpoints.wait()
            if self.lock.is_held:  # else the folder is not that of this run any more
                self.journal.end_session(self.model, self.state, way_of_ending(error), str(error))
        except UserError as problem:
            logging.error("%s", problem)
        if isinstance(error, UserError):  # says itself what to do
            return
        why = "by " + (self.signals.received or ("an error" if isinstance(error, Exception) else "request"))
        again = "The same command" + (" without --restart" if self.restart else "")
        if isinstance(error, Pruned):
            why = f"by the sweep: {error}"
        elif isinstance(error, EndOfSession):
            why, again = f"after {self.state.step} steps", "The same command without --max_steps"
        saved = f"saved {self.checkpoints.position}" if self.checkpoints.position else "nothing is saved yet"
        logging.info("Stopped %s; %s. %s goes on.", why, saved, again)

    def _restore(self):
        if not self.restart:
            state, file, self.unreadable = experiment.read_last(self.folder)
            self.goes_on = state is not None and self.restore_file in (None, state.restored_from)
            if self.goes_on:
                self._resume(state, file)
                return
        if self.restore_file is not None:
            checkpoint = experiment.find_checkpoint(self.folder, self.restore_file)
            utils.load_checkpoint(checkpoint, self.model, partial=self.partial)

    def _resume(self, state, file):
        experiment.check_same_data(state.dataset, self.params, file, way_out="--restart begins anew on this one")
        self.changed = experiment.changed_params(state.params, self.params, file, state.best)
        restore(state, file, self.model, self.optimizer, self.stateful)
        if "learning_rate" in self.changed:
            change_learning_rate(self.optimizer, self.stateful.values(), *self.changed["learning_rate"])
        self.gradients_used = not state.gradients
        self.state = state.model_copy(update={name: {} for name in LARGE})

    def epochs(self):
        """Yield the numbers of the epochs that are still to be done, 1 to `params.num_epochs`.

        This is where the first file is written; a new run moves what an earlier one left to a folder `replaced-<n>`.
        """
        total = self.params.num_epochs
        if self.state.epoch >= total:
            logging.info("%s is finished: %d of %d epochs are done", self.folder, self.state.epoch, total)
            logging.info("(a larger num_epochs goes on, --restart begins anew)")
            if self.state.history and not self.journal.is_complete(self.state):  # killed when all but that was done
                self._begin()
                self._finish()
            return
        self._begin()
        for row in self.state.history:  # a sweep may not have been told
            self._tell(row)
        for epoch in range(self.state.epoch + 1, total + 1):
            self.params.add_facts({"epoch": epoch})
            seed_all(self.params.seed, epoch, 0, MODEL)
            self.journal.begin_epoch()
            self.phase = NOT_READY  # until `batches` is asked, which alone knows what is done of the epoch
            yield epoch
        self._finish()

    def _begin(self):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            experiment.remove_unfinished(self.folder)
            for file, error in self.unreadable if self.goes_on else ():
                experiment.set_aside(file, error)
            if not self.goes_on:
                experiment.move_results_aside(self.folder)
            elif not self.state.params:  # of CS230's template: what it calls best is not known to be worse
                experiment.move_results_aside(self.folder, ["best.pth.tar", "metrics_*_best*.json"])
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written to: {error.strerror}") from None
        self.state.restored_from = self.restore_file if not self.goes_on else self.state.restored_from
        if not self.goes_on and self.restore_file is not None:  # to go on from here, though what it names was moved
            self.save()
        path = self.folder / "params.json"
        if not path.exists():
            self.params.save(path)
        self.journal.begin_session(self.model, self.state, self.changed)
        if self.goes_on:
            self.checkpoints.position = self.state.position
            logging.info("Going on %s", self.state.position)
            self.journal.mend(self.state, self.history)
            if self.state.best and not (self.folder / "best.pth.tar").exists():
                logging.warning("best.pth.tar, of epoch %d, is missing; a better epoch makes it", self.state.best.epoch)
        elif self.restore_file is not None:
            logging.info("The weights to begin with are those of %s", self.restore_file)
        self.begun = True

    def batches(self, dataloader, tally):
        """An iterator over the batches of the epoch that are still to be done; see `begin_step` and `end_step`.

        Args:
            dataloader: the training data.
            tally: what sums up the epoch; gets back what it had summed up when the run was interrupted.
        """
        order, self.tally = order_of(dataloader, self.params.seed), tally
        if self.state.tally is not None:
            with reading(self.folder / "last.pth.tar"):
                tally.load_state_dict(self.state.tally.model_dump())
            self.state.tally = None
        done = self.state.batches_done
        if done and not order.can_skip:
            order.check_replay(done, self.changed)
        self.phase = NOTHING_NEW
        return order.batches(self.state.epoch + 1, done) if tally.results is None else iter(())

    def begin_step(self):
        """To be called before each step: seeds what it draws.

        Raises:
            EndOfSession: `max_steps` are done.
        """
        if self.max_steps is not None and self.state.step >= self.max_steps:
            raise EndOfSession
        self.phase, self.signals.in_step, self.gradients_used = NOT_READY, True, False
        seed_all(self.params.seed, self.state.epoch + 1, self.state.batches_done, MODEL, self.generators)

    def end_step(self, batches):
        """To be called after each step, with how many batches it was of. Saves when it is time.

        Raises:
            KeyboardInterrupt, SystemExit: a signal asked for it.
        """
        self.state.batches_done += batches
        self.state.step += 1
        self.phase, self.signals.in_step = READY, False
        if self.checkpoints.is_due:
            self.signals.in_step = True
            self.save()
            self.signals.in_step = False
        self.signals.check()

    def end_steps(self):
        """To be called after the last step of an epoch: what follows must not depend on where the run was resumed."""
        seed_all(self.params.seed, 0, 0, MODEL)

    def record(self, epoch, train_metrics, val_metrics):
        """Keep what an epoch gave: checkpoints, metrics, history, events, a line in the log.

        Args:
            epoch: its number.
            train_metrics, val_metrics: dicts from name to float.

        Raises:
            UserError: the validation loss is NaN, or `params.monitor` names no result.
            Pruned: `report` said so.
        """
        self.phase, self.signals.in_step = NOT_READY, True
        self.checkpoints.wait()  # it may be writing the history
        check_results(val_metrics, self.state.best, epoch, self.optimizer, self.params)
        row = {"epoch": epoch, "learning_rate": float(self.optimizer.param_groups[0]["lr"])}
        row |= {f"train_{name}": value for name, value in train_metrics.items()}
        row |= {f"val_{name}": value for name, value in val_metrics.items()}
        monitor, mode = monitored(self.params, val_metrics)
        value = val_metrics[monitor]
        is_best = is_better(value, self.state.best and self.state.best.value, mode)
        if is_best:
            self.state.best = Best(epoch=epoch, monitor=monitor, value=value)
        self.history.append(row)
        self.state.epoch, self.state.batches_done, self.tally = epoch, 0, None
        self.save(is_best, and_then=lambda: self.journal.write_results(self.history, is_best))
        self.journal.show_epoch(self.state, is_best, train_metrics, val_metrics)
        self.signals.in_step = False
        self.signals.check()
        self._tell(row)

    def _tell(self, row):
        reason = self.report and self.report(row["epoch"], row[f"val_{self.state.best.monitor}"])
        if reason and row["epoch"] == self.state.epoch < self.params.num_epochs:
            raise Pruned(reason)

    def save(self, is_best=False, and_then=None):
        """Take a checkpoint of this moment between two steps; see `Checkpoints.save`.

        Raises:
            UserError: it cannot be taken, or the one before could not be written; what is on the disk is kept.
        """
        self.phase = NOT_READY
        state = collect(self.state, self.model, self.optimizer, self.stateful, not self.gradients_used)
        state |= {"params": experiment.as_json(self.params.stated), "dataset": experiment.dataset_of(self.params)}
        state["history"] = self.history.packed()
        if self.tally is not None:
            try:
                state["tally"] = self.tally.state_dict()
            except TypeError as error:
                logging.warning("No checkpoints within epochs: outputs, labels or a metric hold %s, which they cannot "
                                "(a metric can have state_dict and load_state_dict)", error)  # fmt: skip
                self.checkpoints.within_epochs = False
                return
        self.checkpoints.save(state, self.state.position, is_best, and_then)
        self.phase = NOTHING_NEW

    def _after_optimizer_step(self, optimizer, args, kwargs):
        self.gradients_used = type(optimizer).__module__.startswith("torch.optim.")  # others may accumulate them

    def _finish(self):
        self.checkpoints.wait()
        self.journal.draw(self.state)
        self.journal.end_session(self.model, self.state, "finished")
        best = self.state.best
        logging.info("Done in %.0f seconds. Best %s on val: %.4f, after epoch %d (marked *).",
                     time.monotonic() - self.journal.started, best.monitor, best.value, best.epoch)  # fmt: skip
