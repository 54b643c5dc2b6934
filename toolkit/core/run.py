"""A training run in an experiment's folder: its epochs and steps, when it is saved, and where it resumes."""

import contextlib
import itertools
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import utils
from toolkit.core import processes
from toolkit.core.checkpoint import Best, TrainState, change_learning_rate, errors_as_damage, pack, read_last, restore
from toolkit.core.checkpoint_writer import CheckpointWriter
from toolkit.core.code_changes import code_of, refuse_changed_code
from toolkit.core.device_batches import device_batches
from toolkit.core.experiment_folder import (
    as_json,
    changed_params,
    check_same_data,
    dataset_of,
    find_checkpoint,
    prepare_folder,
)
from toolkit.core.lock import ExperimentLock
from toolkit.core.monitor import check_results, is_better, monitored, monitored_in
from toolkit.core.optimizer_steps import OptimizerStep, Updates
from toolkit.core.provenance import sha256
from toolkit.core.resumable_batches import Batches, resumable_batches
from toolkit.core.run_record import RunRecord
from toolkit.core.script import close_bars
from toolkit.core.sharded_tensors import divided_like
from toolkit.core.sized_batches import join_last_sample
from toolkit.core.stop_signals import EndOfSession, Pruned, StopSignals, way_of_ending
from toolkit.core.totals import NonFiniteLoss
from toolkit.core.weights import load_weights
from utils import UserError


@dataclass
class RunOptions:
    """Options that say how a run starts and ends."""

    restore_file: str | None = None  # checkpoint whose weights a new run starts with: a name in the folder, or a path
    restart: bool = False  # start over; the results of an earlier run are moved aside
    partial: bool = False  # take only the weights of restore_file that fit
    accept_code_changes: bool = False  # resume a run although the code in model/ has changed since
    max_steps: int | None = None  # stop, as Ctrl-C does, after this number of steps in all
    report: Any = None  # called with (epoch, monitored metric) after each epoch; returns why to stop there, or None

    def __post_init__(self):
        if self.restore_file is not None:
            self.restore_file = str(self.restore_file)  # a Path could not be written to run.json
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"--max_steps is {self.max_steps}; it should be 1 or more")
        if self.partial and self.restore_file is None:
            raise UserError("--partial needs --restore_file, which names the checkpoint")


class Run:
    """A training run. If it was interrupted, it resumes at the same step.

        with Run(model, optimizer, params, model_dir) as run:
            for epoch in run.epochs():
                train_metrics = train(model, ..., run=run)  # which loops over `run.steps`
                with run.evaluation():
                    val_metrics = evaluate(model, ...)
                run.record(epoch, train_metrics, val_metrics)

    With several processes, each of them calls the same methods in the same order, and rank 0 writes.

    Args:
        model, optimizer: what is trained; the state of the last checkpoint is loaded into them.
        params: hyperparameters.
        model_dir: the experiment's folder. None: for a single epoch in a loop of your own, which saves nothing.
        stateful: dict from name to a further object with state_dict and load_state_dict, such as a loss with weights.
        options: fields of RunOptions.

    Attributes:
        state: TrainState, the position in the run and its results so far.
        updates: Updates, which the optimizer steps share.

    Raises:
        UserError: another process trains there, or a checkpoint is damaged, does not fit, or is of another run.
    """

    def __init__(self, model, optimizer, params, model_dir=None, *, stateful=None, **options):
        self.model, self.optimizer, self.params, self.options = model, optimizer, params, RunOptions(**options)
        self.state, self.updates = TrainState(), Updates(model, optimizer, params, is_scheduled=model_dir is not None)
        self.stateful = (stateful or {}) | self.updates.stateful
        self.totals: Any = None  # the Totals of the current epoch
        self.has_unsaved_step = False  # True between two steps, if there is something to save when the run is stopped
        self.is_last_step = False  # True between the last step of an epoch and its results
        self.is_recording = False  # True once this session is in run.json
        self.resumed: Any = None  # the Checkpoint that this session started from
        self.changed = {}  # hyperparameters that differ from those of the session before: name -> [then, now]
        self.signals, self.is_alone = StopSignals(), model_dir is None or processes.world_size() == 1
        if model_dir is None:
            self.folder, self.checkpoints = None, CheckpointWriter(None, None, math.inf)
        else:
            self.folder, self.lock = Path(model_dir), ExperimentLock(model_dir)
            self.run_record = RunRecord(self.folder, params)
            self.checkpoints = CheckpointWriter(self.folder, self.lock, params.checkpoint_minutes)

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.signals)
            undo.callback(self.lock.release)
            # a folder that does not exist has nothing to read; it is created when everything is checked
            processes.on_rank_zero(lambda: self.lock.acquire() if self.folder.is_dir() else None)
            self._restore()
            pack(self.state, self.model, self.optimizer, self.stateful)  # raises if it cannot be saved
            undo.callback(self.run_record.close)
            self.undo = undo.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        with self.undo:
            if kind is None:
                self.signals.agreement.finish()
                processes.on_rank_zero(self.checkpoints.wait)
            elif self.is_recording and not self.signals.is_urgent:
                self._save_and_say_why(error)
            if way_of_ending(error) == "failed":
                self.signals.stop_if_agreed(alone=True)  # a worker may have died of the signal, which is the reason
        return isinstance(error, EndOfSession)

    def _restore(self):
        """Load the last checkpoint if the run can be resumed, else the weights of `restore_file` if it is given."""
        options = self.options
        if not options.restart:
            checkpoint = processes.on_rank_zero(lambda: read_last(self.folder))
            if checkpoint and options.restore_file in (None, checkpoint.state.restored_from):
                self.resumed = checkpoint
        if self.resumed:
            advice = "--restart starts over with this one"
            check_same_data(self.resumed.state.dataset, self.params, self.resumed.file, advice)
            self.changed = changed_params(self.resumed, self.params)
            restore(self.resumed, self.model, self.optimizer, self.stateful)
            refuse_changed_code(self.resumed.state.code, self.params, self.resumed.file, options.accept_code_changes)
            self.state = self.resumed.state
            if "learning_rate" in self.changed:
                change_learning_rate(self.optimizer, self.stateful.values(), *self.changed["learning_rate"])
            self.updates.resume(self.state, has_average="average" in self.resumed.content.get("stateful", {}))
            self.resumed = self.resumed._replace(content={})  # free the weights that were read
        elif options.restore_file is not None:
            checkpoint = find_checkpoint(self.folder, options.restore_file)
            content = utils.read_checkpoint(checkpoint)
            load_weights(content, checkpoint, self.model, partial=options.partial, shard_like=divided_like)
            self.state.restored_from, self.state.restored_sha256 = options.restore_file, sha256(checkpoint)
            self.updates.average.start()
        self.state.code = code_of(self.params)

    def epochs(self):
        """Yield the numbers of the epochs that are still to be done, from 1 to `params.num_epochs`.

        The first file is written here; a new run moves what an earlier one left to a folder `replaced-<n>`.
        """
        if self.is_over:
            self.run_record.say_finished(self.state)
            is_complete = processes.on_rank_zero(lambda: self.run_record.is_complete(self.state))
            if not is_complete:  # the process was killed after the last epoch, before it had written all files
                self._start()
                self._finish()
            return
        self._start()
        for row in self.state.history:  # a sweep that was killed and resumed does not have these results yet
            self._report(row)
        while not self.is_over:
            self.stop_if_requested()
            self.params.add_facts({"epoch": self.state.epoch + 1})
            yield self.state.epoch + 1
        self._finish()

    @property
    def is_over(self):
        """True if all epochs are done, or early stopping ends the run."""
        return self.state.epoch >= self.params.num_epochs or self.updates.progress.is_over

    def steps(self, dataloader, totals):
        """Yield the OptimizerSteps of the epoch that are still to be done.

        Args:
            dataloader: the training data.
            totals: the Totals of the epoch; if the run was interrupted in this epoch, its earlier batches are loaded.
        """
        self.totals = totals
        self.updates.start_epoch(len(dataloader))
        batches = device_batches(self._remaining_batches(dataloader), self.model)
        for batch in batches:
            self.has_unsaved_step = False
            yield OptimizerStep(self.updates, itertools.chain([batch], batches), self.state)

    def _remaining_batches(self, dataloader):
        if self.folder is None:
            size = getattr(dataloader, "batch_size", None)
            return Batches(join_last_sample(itertools.islice(dataloader, len(dataloader)), size), lambda number: size)
        done, batches = self.state.batches_done, resumable_batches(dataloader, self.params.seed)
        if self.state.tally is not None:
            with errors_as_damage(self.folder / "last.pth.tar"):
                self.totals.load_state_dict(vars(self.state.tally))
            self.state.tally = None
        if done and not batches.can_skip:
            batches.check_replay(done, self.changed)
        if self.totals.results is not None:  # the run was interrupted during the evaluation: nothing is left to train
            return ()
        return batches.batches(self.state.epoch + 1, done, join_last=True)

    def count(self, step):
        """Count an optimizer step and its batches: from here on a checkpoint holds it."""
        self.state.step += 1
        self.state.batches_done += step.num_batches
        self.is_last_step = step.is_last_batch
        self.has_unsaved_step = True

    def checkpoint_if_due(self):
        """Save a checkpoint if `checkpoint_minutes` have passed since the last one."""
        is_due = time.monotonic() > self.checkpoints.due_at
        if self.is_alone and not is_due:
            return
        if self.signals.agree(is_due and processes.is_rank_zero()):
            self.save()
            self.signals.agreement.finish()  # drop what was requested before this checkpoint

    def stop_if_requested(self):
        """Stop here if a signal came, or `max_steps` is reached.

        Raises:
            KeyboardInterrupt, SystemExit: a signal came.
            EndOfSession: `max_steps` is reached. The last step of an epoch is still followed by its evaluation.
        """
        if self.signals.received or not self.is_alone:
            self.signals.stop_if_agreed()
        max_steps = self.options.max_steps
        if max_steps is not None and self.state.step >= max_steps and not self.is_last_step:
            raise EndOfSession

    @contextlib.contextmanager
    def evaluation(self):
        """Prepare the model for the evaluation in this context.

        It has its averaged weights if `ema_decay` is not 0, and all processes have the buffers of rank 0.
        """
        processes.broadcast_buffers(self.model, self.updates.average.kept)
        with self.updates.average.in_place():
            yield

    def record(self, epoch, train_metrics, val_metrics):
        """Record the results of an epoch (dicts from name to float): checkpoints, history, TensorBoard, a log line.

        Raises:
            UserError: the validation loss is NaN, or `params.monitor` is not the name of a result.
            Pruned: `report` returned a reason to stop.
        """
        self.has_unsaved_step = False
        processes.on_rank_zero(self.checkpoints.wait)  # the thread that writes it may be writing the history, too
        best = self.state.best
        processes.on_rank_zero(lambda: check_results(val_metrics, best, epoch, self.optimizer, self.params))
        row = {"epoch": epoch} | self.updates.summary()
        for split, metrics in (("train", train_metrics), ("val", val_metrics)):
            row |= {f"{split}_{name}": value for name, value in metrics.items()}
        monitor, mode = monitored(self.params, val_metrics)
        if is_best := is_better(val_metrics[monitor], best and best.value, mode):
            self.state.best = Best(epoch=epoch, monitor=monitor, value=val_metrics[monitor])
        elif math.isnan(val_metrics[monitor]) and not any(math.isnan(r[f"val_{monitor}"]) for r in self.state.history):
            logging.warning("val %s selects the best checkpoint, but is nan in epoch %d", monitor, epoch)
        self.state.history.append(row)
        self.updates.end_epoch(row)
        self.run_record.add_speed(epoch, self.totals.samples_per_second)
        self.state.epoch, self.state.batches_done, self.totals, self.is_last_step = epoch, 0, None, False
        self.save(is_best, and_then=lambda: self.run_record.write_results(self.state.history, is_best))
        processes.on_rank_zero(lambda: self.run_record.show_epoch(self.state, is_best))
        self.signals.agree()
        self._report(row)

    def _report(self, row):
        """Call `options.report` with the monitored metric in `row`; raise Pruned if it says why to stop here."""
        value = row[f"val_{monitored_in(row, self.params)[0]}"]
        reason = processes.on_rank_zero(lambda: self.options.report and self.options.report(row["epoch"], value))
        if reason and row["epoch"] == self.state.epoch < self.params.num_epochs:
            raise Pruned(reason)

    def save(self, is_best=False, and_then=None):
        """Save a checkpoint of this moment between two steps; see `CheckpointWriter.save`."""
        with self.updates.average.in_place():
            self.state.gradient_norms = self.updates.read_gradient_norms()
            content = pack(self.state, self.model, self.optimizer, self.stateful)
            content |= {"params": as_json(self.params.defaults | self.params.given), "dataset": dataset_of(self.params)}
            try:
                content["tally"] = self.totals and self.totals.state_dict()
            except TypeError as error:
                logging.warning(
                    "No checkpoints within epochs: outputs, labels or a metric hold %s, which a checkpoint cannot hold "
                    "(a metric can have state_dict and load_state_dict)",
                    error,
                )
                self.checkpoints.leave_out_those_within_epochs()
                content = None  # on rank 0 only, which has all outputs; so the next line is for all ranks
            position = self.state.position
            processes.on_rank_zero(lambda: content and self.checkpoints.save(content, position, is_best, and_then))
        self.has_unsaved_step = False

    def _start(self):
        """Write the first files of this session."""
        processes.on_rank_zero(lambda: prepare_folder(self.folder, self.lock, self.resumed))
        if self.resumed:
            self.checkpoints.position = self.state.position
        elif self.options.restore_file is not None:  # so that the run can be resumed even if that file is gone
            self.save()
        start = self.run_record.start_session
        processes.on_rank_zero(lambda: start(self.model, self.state, self.changed, self.resumed is not None))
        self.is_recording = True

    def _finish(self):
        processes.on_rank_zero(self.checkpoints.wait)
        processes.on_rank_zero(lambda: self.run_record.finish(self.state))

    def _save_and_say_why(self, error):
        """Save what is done if an exception ends the session, and log why and how to resume."""
        close_bars()
        ending = way_of_ending(error)
        # with several processes, all must take part in saving; an error in one of them is unknown to the others
        can_save = ending != "failed" or (processes.world_size() == 1 and not isinstance(error, NonFiniteLoss))
        try:
            if self.has_unsaved_step and can_save:
                self.save()
            self.checkpoints.wait()
            if self.lock.is_held:  # else another run has replaced the folder
                self.run_record.end_session(self.state, ending, str(error))
        except UserError as problem:
            logging.error("%s", problem)
        if isinstance(error, UserError) and error.__cause__ is None:  # a mistake, whose message says what to do
            return
        why = "by " + (self.signals.received or ("an error" if isinstance(error, Exception) else "request"))
        without = " without --restart" if self.options.restart else ""
        if isinstance(error, Pruned):
            why = f"by the sweep: {error}"
        elif isinstance(error, EndOfSession):
            why, without = f"after {self.state.step} steps", " without --max_steps"
        saved = f"saved {self.checkpoints.position}" if self.checkpoints.position else "nothing is saved yet"
        logging.info("Stopped %s; %s. To resume, run the same command again%s.", why, saved, without)
