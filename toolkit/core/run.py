"""A training run in an experiment's folder: where it stands, the epochs it still has to do, when it is saved."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import utils
from toolkit.core import experiment_folder as experiment
from toolkit.core import processes
from toolkit.core.checkpoints import Checkpoints
from toolkit.core.history import History
from toolkit.core.lock import ExperimentLock
from toolkit.core.monitor import check_results, is_better, monitored
from toolkit.core.optimizer_steps import Steps
from toolkit.core.provenance import sha256
from toolkit.core.restore import LARGE, change_learning_rate, collect, restore
from toolkit.core.resumable_batches import resumable_batches
from toolkit.core.run_record import RunRecord
from toolkit.core.script import close_bars
from toolkit.core.seeds import MODEL, generators_of, seed_all
from toolkit.core.state import Best, TrainState, reading
from toolkit.core.stop_signals import EndOfSession, Pruned, StopSignals, way_of_ending
from toolkit.core.totals import NonFiniteLoss
from utils import UserError

# whether what model and optimizer hold at this moment is a state that a run can go on from
NOTHING_NEW, READY, NOT_READY = "nothing new", "ready", "not ready"


class Run:
    """A training run; one that was interrupted goes on where it was.

        with Run(model, optimizer, params, model_dir) as run:
            for epoch in run.epochs():
                train_metrics = train(model, ..., run=run)      # takes its batches from `run.batches`
                with run.averaged_weights():
                    val_metrics = evaluate(model, ...)
                run.record(epoch, train_metrics, val_metrics)

    Of several processes each has one, and calls the same methods in the same order; the main one writes.

    Args:
        model, optimizer: what is trained; they get the state of the last checkpoint.
        params: hyperparameters.
        model_dir: the experiment's folder.
        restore_file: name in the folder, or path, of a checkpoint whose weights a new run begins with. A run that was
            begun so goes on when it is named again.
        restart, partial: begin anew, whatever is there; take from `restore_file` the weights that fit.
        max_steps: stop, as if asked to, once so many steps are done in all.
        stateful: dict from name to what else has a state_dict and a load_state_dict: a loss with weights, for one.
        report: called after each epoch with its number and the value of the monitored metric; what it returns, if
            anything, is why to stop here, in words.

    Raises:
        UserError: another process trains there, or a checkpoint is damaged, does not fit, or is of another run.
    """

    def __init__(
        self,
        model,
        optimizer,
        params,
        model_dir,
        restore_file=None,
        *,
        restart=False,
        partial=False,
        max_steps=None,
        stateful=None,
        report=None,
    ):
        self.model, self.optimizer, self.params, self.folder = model, optimizer, params, Path(model_dir)
        self.restore_file = None if restore_file is None else str(restore_file)
        self.restart, self.partial, self.max_steps = restart, partial, max_steps
        self.steps = Steps(model, optimizer, params, run=self)
        self.stateful = (stateful or {}) | self.steps.stateful
        self.state, self.report, self.generators = TrainState(), report, generators_of(model)
        self.goes_on, self.changed, self.unreadable = False, {}, []
        self.phase, self.gradients_used = NOTHING_NEW, True
        self.tally: Any = None  # the Totals of the epoch that is under way
        self.signals, self.lock, self.journal = StopSignals(), ExperimentLock(model_dir), RunRecord(model_dir, params)
        self.checkpoints, self.begun = Checkpoints(self.folder, self.lock, params.checkpoint_minutes), False

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.signals)
            undo.callback(self.lock.release)
            # a folder that is not there has nothing to read, and nothing is made before all is checked
            processes.on_rank_zero(lambda: self.lock.acquire() if self.folder.is_dir() else None)
            self._restore()
            self.history = History(self.state.history, self.folder / "history.csv")
            self.state.history = self.history.rows
            collect(self.state, self.model, self.optimizer, self.stateful, False)  # what cannot be saved is said now
            self.steps.trained = processes.wrap_in_ddp(self.model, self.params)
            undo.callback(self.optimizer.register_step_post_hook(self._after_optimizer_step).remove)
            undo.callback(self.journal.close)
            self.undo = undo.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        with self.undo:
            if kind is None:
                self.signals.agreement.finish()
                processes.on_rank_zero(self.checkpoints.wait)
            elif self.begun and not self.signals.at_once:
                self._leave(error)
            if isinstance(error, Exception):
                self.signals.stop(self.signals.code)  # it failed because a worker got the signal, too
        return isinstance(error, EndOfSession)

    def _leave(self, error):
        """Save what is done, and say how to go on."""
        close_bars()
        self.signals.in_step = True  # what comes now is Ctrl-C for the second time, or has to wait
        # of several processes, the others know nothing of an error in this one
        together = processes.world_size() == 1 or isinstance(error, EndOfSession) or not isinstance(error, Exception)
        try:
            if self.phase == READY and together and not isinstance(error, NonFiniteLoss):  # its weights are spoilt
                self.save()
            self.checkpoints.wait()
            if self.lock.is_held:  # else the folder is not that of this run any more
                self.journal.end_session(self.model, self.state, way_of_ending(error), str(error))
        except UserError as problem:
            logging.error("%s", problem)
        if not isinstance(error, UserError):  # which says itself what to do
            self.journal.say_stopped(error, self.state, self.checkpoints.position, self.signals.received, self.restart)

    def _restore(self):
        if not self.restart:
            state, file, self.unreadable = processes.on_rank_zero(lambda: experiment.read_last(self.folder))
            self.goes_on = state is not None and self.restore_file in (None, state.restored_from)
        if self.goes_on:
            self._resume(state, file)
        elif self.restore_file is not None:
            checkpoint = experiment.find_checkpoint(self.folder, self.restore_file)
            utils.load_checkpoint(checkpoint, self.model, partial=self.partial)
            self.state.restored_from, self.state.restored_sha256 = self.restore_file, sha256(checkpoint)
            self.steps.average.begin()

    def _resume(self, state, file):
        experiment.check_same_data(state.dataset, self.params, file, way_out="--restart begins anew on this one")
        self.changed = experiment.changed_params(state.params, self.params, file, state.best)
        restore(state, file, self.model, self.optimizer, self.stateful)
        if "learning_rate" in self.changed:
            change_learning_rate(self.optimizer, self.stateful.values(), *self.changed["learning_rate"])
        self.steps.resume(state)
        self.gradients_used = not state.gradients
        self.state = state.model_copy(update={name: {} for name in LARGE})

    def epochs(self):
        """Yield the numbers of the epochs that are still to be done, 1 to `params.num_epochs`.

        This is where the first file is written; a new run moves what an earlier one left to a folder `replaced-<n>`.
        """
        if self.is_over:
            self.journal.say_finished(self.state)
            if not processes.on_rank_zero(
                lambda: self.journal.is_complete(self.state)
            ):  # killed when all but that was done
                self._begin()
                self._finish()
            return
        self._begin()
        for row in self.state.history:  # a sweep may not have been told
            self._tell(row)
        for epoch in range(self.state.epoch + 1, self.params.num_epochs + 1):
            self.params.add_facts({"epoch": epoch})
            seed_all(self.params.seed, epoch, 0, MODEL)
            self.journal.begin_epoch()
            self.phase = NOT_READY  # until `batches` is asked, which alone knows what is done of the epoch
            yield epoch
            if self.is_over:
                break
        self._finish()

    def averaged_weights(self):
        """A context in which the model has the weights to evaluate: their moving average, if `ema_decay` is not 0."""
        return self.steps.average.in_place()

    @property
    def is_over(self):
        """Whether no epoch is left to do: all are done, or `early_stopping_patience` says so."""
        return self.state.epoch >= self.params.num_epochs or self.steps.progress.is_over

    def _begin(self):
        unreadable = self.unreadable if self.goes_on else ()
        processes.on_rank_zero(
            lambda: experiment.take_folder(self.folder, self.lock, self.goes_on, self.state, unreadable)
        )
        self.checkpoints.position = self.state.position if self.goes_on else None
        if not self.goes_on and self.restore_file is not None:  # to go on from here, though what it names was moved
            self.save()
        begins = self.model, self.state, self.changed, self.history if self.goes_on else None, self.restore_file
        self.signals.in_step = True  # no signal between the two: what begins in run.json is to end there
        processes.on_rank_zero(lambda: self.journal.begin_session(*begins))
        self.begun, self.signals.in_step = True, False

    def batches(self, dataloader, tally):
        """An iterator over the batches of the epoch that are still to be done; see `begin_batch` and `end_batch`.

        Args:
            dataloader: the training data.
            tally: what sums up the epoch; gets back what it had summed up when the run was interrupted.
        """
        order, self.tally = resumable_batches(dataloader, self.params.seed), tally
        if self.state.tally is not None:
            with reading(self.folder / "last.pth.tar"):
                tally.load_state_dict(self.state.tally.model_dump())
            self.state.tally = None
        done = self.state.batches_done
        self.steps.begin_epoch(self.state.epoch, done, len(dataloader))
        if done and not order.can_skip:
            order.check_replay(done, self.changed)
        self.phase = NOTHING_NEW
        return order.batches(self.state.epoch + 1, done, joins=True) if tally.results is None else iter(())

    def begin_batch(self):
        """To be called before each batch: seeds what the model draws, in each process something else.

        Raises:
            EndOfSession: `max_steps` are done.
        """
        if self.max_steps is not None and self.state.step >= self.max_steps:
            raise EndOfSession
        self.phase, self.signals.in_step, self.gradients_used = NOT_READY, True, False
        epoch, number = self.state.epoch + 1, self.state.batches_done
        seed_all(self.params.seed, epoch, number, MODEL, self.generators, processes.rank())

    def end_batch(self, is_step):
        """To be called after each batch, with whether the optimizer has stepped. Then it may be time to save.

        Raises:
            KeyboardInterrupt, SystemExit: a signal asked for it.
        """
        self.state.batches_done += 1
        if not is_step:  # what was accumulated of the gradient is not saved
            return
        self.state.step += 1
        self.phase, self.signals.in_step = READY, False
        if self.signals.check(self.checkpoints.is_due and processes.is_rank_zero()):
            self.signals.in_step = True
            self.save()
            self.signals.agreement.finish()  # the wish of a moment ago
            self.signals.in_step = False
            self.signals.check()

    def end_steps(self):
        """To be called after the last step of an epoch: what follows must not depend on where the run was resumed."""
        seed_all(self.params.seed, 0, 0, MODEL)
        processes.broadcast_buffers(self.model, self.steps.average.kept)

    def record(self, epoch, train_metrics, val_metrics):
        """Keep what an epoch gave: checkpoints, metrics, history, events, a line in the log.

        Args:
            epoch, train_metrics, val_metrics: its number, and dicts from name to float.

        Raises:
            UserError: the validation loss is NaN, or `params.monitor` names no result.
            Pruned: `report` said so.
        """
        self.phase, self.signals.in_step = NOT_READY, True
        processes.on_rank_zero(self.checkpoints.wait)  # it may be writing the history
        processes.on_rank_zero(lambda: check_results(val_metrics, self.state.best, epoch, self.optimizer, self.params))
        row = {"epoch": epoch} | self.steps.summary()
        for split, metrics in (("train", train_metrics), ("val", val_metrics)):
            row |= {f"{split}_{name}": value for name, value in metrics.items()}
        monitor, mode = monitored(self.params, val_metrics)
        if is_best := is_better(val_metrics[monitor], self.state.best and self.state.best.value, mode):
            self.state.best = Best(epoch=epoch, monitor=monitor, value=val_metrics[monitor])
        self.history.append(row)
        self.steps.take_in(row)
        speed = self.tally.samples_per_second
        self.state.epoch, self.state.batches_done, self.tally, self.steps.gradient_norms = epoch, 0, None, []
        self.save(is_best, and_then=lambda: self.journal.write_results(self.history, is_best))
        processes.on_rank_zero(lambda: self.journal.show_epoch(self.state, is_best, speed))
        self.signals.in_step = False
        self.signals.check()
        self._tell(row)

    def _tell(self, row):
        assert self.state.best is not None
        value = row[f"val_{self.state.best.monitor}"]
        reason = processes.on_rank_zero(lambda: self.report and self.report(row["epoch"], value))
        if reason and row["epoch"] == self.state.epoch < self.params.num_epochs:
            raise Pruned(reason)

    def save(self, is_best=False, and_then=None):
        """Take a checkpoint of this moment between two steps; see `Checkpoints.save`.

        Raises:
            UserError: it cannot be taken, or the one before could not be written; what is on the disk is kept.
        """
        self.phase = NOT_READY
        with self.averaged_weights():
            self.state.gradient_norms = self.steps.read_gradient_norms()
            state = collect(self.state, self.model, self.optimizer, self.stateful, not self.gradients_used)
            state["params"] = experiment.as_json(self.params.hyperparameters)
            state["dataset"] = experiment.dataset_of(self.params)
            state["history"] = self.history.packed()
            if self.tally is not None:
                try:
                    state["tally"] = self.tally.state_dict()
                except TypeError as error:
                    logging.warning(
                        "No checkpoints within epochs: outputs, labels or a metric hold %s, which they "
                        "cannot (a metric can have state_dict and load_state_dict)",
                        error,
                    )
                    self.checkpoints.within_epochs, state = False, None
            processes.on_rank_zero(
                lambda: state and self.checkpoints.save(state, self.state.position, is_best, and_then)
            )
        self.phase = NOTHING_NEW

    def _after_optimizer_step(self, optimizer, args, kwargs):
        self.gradients_used = type(optimizer).__module__.startswith("torch.optim.")  # others may accumulate them

    def _finish(self):
        processes.on_rank_zero(self.checkpoints.wait)
        processes.on_rank_zero(lambda: self.journal.finish(self.model, self.state))
