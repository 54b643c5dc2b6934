"""The Optuna study of a sweep: the experiment to train next and the result of each, for any number of processes.

Every experiment of a sweep has a place, a number from 0. Its configuration is a function of the seed and the place
(with TPE also of the results so far), so an interrupted sweep tries the same configurations as an uninterrupted one.
An experiment has one trial in the study, plus one for each time that it is retried.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import random
import time
from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState, create_trial

from toolkit.core.seeds import mix
from toolkit.sweep.search_space import as_choice, name_of
from toolkit.sweep.storage import HEARTBEAT_SECONDS, Owner, open_storage, storage_errors, without_optuna_warnings
from utils import UserError

SECONDS_TO_DRAW = 10  # that another process may take to draw the configuration of a trial
SECONDS_BETWEEN_LOOKS = 5  # for abandoned trials
TPE_STARTUP = 10  # random configurations before TPE learns from the results
REDUCTION = 3  # asha continues one of three trials after a ninth and after a third of the epochs
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
KEPT = ("params", "distributions", "system_attrs", "intermediate_values")  # of a trial that is retried

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass
class Experiment:
    """An experiment for this process to train: its Optuna trial, its folder's name, its own hyperparameters."""

    trial: Trial
    name: str
    values: dict


class Study:
    """The study of a sweep. Any number of processes, on any number of machines, may work on it at the same time.

    Args:
        folder: the sweep's folder.
        space: its SearchSpace.
        params: Params of the sweep's folder.
        metric, mode: name of the metric to optimize, and "max" or "min".
        method: "grid", "random" or "tpe".
        trials: number of configurations, or None for the whole grid.
        seeds, folds: number of seeds, and of cross-validation folds (0 for none), of each configuration.
        pruner: "asha", "median" or "none".
        storage: URL of a database, or None for a journal file in the sweep's folder.

    Raises:
        UserError: the storage cannot be used, or the grid has fewer configurations than `trials`.
    """

    def __init__(self, folder, space, params, metric, mode, *, method, trials, seeds, folds, pruner, storage):
        self.folder, self.space, self.params, self.metric, self.mode = folder, space, params, metric, mode
        self.method, self.folds, self.pruner, self.is_database = method, folds, pruner, storage is not None
        self.grid = space.grid() if method == "grid" or (method == "random" and space.is_grid) else None
        if method == "random" and self.grid is not None:
            random.Random(params.seed).shuffle(self.grid)
        if self.grid is not None and (trials or 0) > len(self.grid):
            raise UserError(f"--trials is {trials}, but the grid of {space.source} has {len(self.grid)} configurations")
        self.configurations = trials or len(self.grid or [])
        self.replicates = seeds * max(folds, 1)
        self.total = self.configurations * self.replicates
        self.owner = Owner(folder)
        self.duplicates = []  # own experiments whose folder an earlier trial is training: they get its result
        self.deleted, self.failed_before = set(), set()  # numbers of trials from before this process, to be retried
        self.looked_at = self.heartbeat_at = -math.inf
        self.storage = open_storage(storage, folder)
        reference = {k: v for k, v in params.written.items() if not k.startswith(("$", "_"))}
        dimensions = {name: dimension.model_dump() for name, dimension in space.dimensions.items()}
        definition = json.dumps([dimensions, reference, metric, mode, method, seeds, folds])
        prefix = folder.resolve().name if storage else "sweep"  # a folder with a journal may be renamed
        self.name = f"{prefix}-{hashlib.sha256(definition.encode()).hexdigest()[:8]}"
        with storage_errors(storage, opening=True):
            direction = "maximize" if mode == "max" else "minimize"
            optuna.create_study(study_name=self.name, storage=self.storage, direction=direction, load_if_exists=True)
            self.study = self._load(RandomSampler())

    def _load(self, sampler):
        """Return the Optuna study with a sampler, and without the trials that Optuna caches."""
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.pruner == "asha":
            first_rung = max(1, self.params.num_epochs // REDUCTION**2)
            pruner = optuna.pruners.SuccessiveHalvingPruner(first_rung, REDUCTION)
        elif self.pruner == "median":
            pruner = optuna.pruners.MedianPruner()
        return optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler, pruner=pruner)

    def __enter__(self):
        """Start to work on the study: trials that failed, and those whose folder was deleted, are retried."""
        self.owner.acquire()
        for trial in self.study.get_trials(deepcopy=False):
            name, is_here = trial.user_attrs.get("experiment"), not self.is_database  # else on another machine, perhaps
            if is_here and trial.state in ENDED and not (self.folder / name / "run.json").exists():
                logging.info("%s: finished before, but its folder was deleted; training it again", name)
                self.deleted.add(trial.number)
            elif trial.state == TrialState.FAIL:
                self.failed_before.add(trial.number)
        return self

    def __exit__(self, kind, error, trace):
        try:
            for experiment in self.duplicates:
                self.end(experiment, TrialState.FAIL)
        finally:
            self.owner.release(keep_file=isinstance(error, Exception))

    def next(self):
        """Return the Experiment that this process trains next, or None if all are done or taken."""
        if time.monotonic() - self.looked_at > SECONDS_BETWEEN_LOOKS:
            self._end_abandoned()
        waiting, self.duplicates = self.duplicates, []
        free = [experiment for experiment in waiting if not self._is_duplicate(experiment)]
        self.duplicates += free[1:]
        if free:  # the earlier trial has failed
            return free[0]
        while (place := self._free_place()) is not None:
            experiment = self._claim(place)
            if experiment is not None and not self._is_duplicate(experiment):
                return experiment
        return None

    def _free_place(self):
        """Return the first place that no process is training or has finished, or None."""
        attempts = self.attempts()
        for place in range(self.total):
            tried = attempts.get(place, [])
            failed_now = tried and "failed" in tried[-1].user_attrs and tried[-1].number not in self.failed_before
            if not failed_now and all(self._state(trial) == TrialState.FAIL for trial in tried):
                return place
        return None

    def _claim(self, place):
        """Return the Experiment at a place as this process's own, or None if another process was faster."""
        tried = self.attempts().get(place, [])
        kept = {name: getattr(tried[-1], name) for name in KEPT} if tried else {}
        own = {"place": place, "owner": self.owner.name}
        self.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=own, **kept))
        tried = self.attempts()[place]
        created = next(trial for trial in reversed(tried) if trial.user_attrs.get("owner") == self.owner.name)
        self._record_heartbeat(created)
        configuration, replicate = divmod(place, self.replicates)
        seed_number, fold = divmod(replicate, max(self.folds, 1))
        with without_optuna_warnings():
            fixed = self._drawn(place - replicate) if replicate else {}
            trial = Trial(self._load(self._sampler(configuration, fixed)), created._trial_id)
            if any(t.number < trial.number and self._state(t) != TrialState.FAIL for t in tried):
                trial.set_user_attr("superseded", True)
                self._tell(trial.number, TrialState.FAIL)
                return None
            values = self.space.suggest(trial)
        replicate_values = {"seed": self.params.seed + seed_number} if seed_number else {}
        replicate_values |= {"fold": fold} if self.folds else {}
        name = name_of(values, replicate_values)
        trial.set_user_attr("experiment", name)
        return Experiment(trial, name, values | replicate_values | ({"num_folds": self.folds} if self.folds else {}))

    def _drawn(self, place):
        """Return the Optuna parameters of the experiment at a place, which another process may be drawing now."""
        deadline = time.monotonic() + SECONDS_TO_DRAW
        while True:
            trial = self.attempts()[place][-1]
            if "experiment" in trial.user_attrs or time.monotonic() > deadline:
                return trial.params
            time.sleep(0.1)

    def _sampler(self, configuration, fixed):
        """Return the sampler of a configuration, in which the parameters of the dict `fixed` have given values."""
        seed = mix(self.params.seed, configuration) % 2**32
        if self.grid is not None:
            fixed = {name: as_choice(value) for name, value in self.grid[configuration].items()}
        tpe = TPESampler(seed=seed, constant_liar=True, n_startup_trials=TPE_STARTUP * self.replicates)
        return PartialFixedSampler(fixed, tpe if self.method == "tpe" else RandomSampler(seed))

    def _is_duplicate(self, experiment):
        """Return True if an earlier trial has the same folder: take over its result, or wait for it."""
        for trial in self.study.get_trials(deepcopy=False):
            is_earlier = trial.number < experiment.trial.number
            if is_earlier and trial.user_attrs.get("experiment") == experiment.name:
                if self._state(trial) in ENDED:
                    self.end(experiment, trial.state, trial.value if trial.state == TrialState.COMPLETE else None)
                    return True
                if self._state(trial) == TrialState.RUNNING:
                    self.duplicates.append(experiment)
                    return True
        return False

    def _state(self, trial):
        """Return the state of a trial; it counts as failed if its folder was deleted, or if it only waits."""
        is_lost = trial.number in self.deleted or trial.state == TrialState.WAITING
        return TrialState.FAIL if is_lost else trial.state

    def attempts(self):
        """Return the trials of each experiment, oldest first, as FrozenTrials: a dict by place."""
        count, attempts = itertools.count(), {}
        for trial in self.study.get_trials(deepcopy=False):
            attributes = trial.user_attrs
            place = attributes["place"] if "place" in attributes else next(count)  # earlier versions count these
            if "superseded" not in attributes:
                attempts.setdefault(place, []).append(trial)
        return attempts

    def _end_abandoned(self):
        """Record trials as failed whose process has ended, so that they are retried."""
        self.looked_at = time.monotonic()
        if self.is_database:
            with without_optuna_warnings():
                optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            owner = trial.user_attrs.get("owner")
            if owner is None or self.owner.has_ended(owner, if_unknown=not self.is_database):  # else heartbeats tell
                self._tell(trial.number, TrialState.FAIL)

    def heartbeat(self, experiments):
        """Record in a database, when it is due, that this process still trains `experiments`."""
        if time.monotonic() - self.heartbeat_at > HEARTBEAT_SECONDS:
            self.heartbeat_at = time.monotonic()
            for experiment in [*experiments, *self.duplicates]:
                self._record_heartbeat(experiment.trial)

    def _record_heartbeat(self, trial):
        if self.is_database:  # Optuna does this only within `Study.optimize`
            self.storage.record_heartbeat(trial._trial_id)

    def report(self, experiment, epoch, value):
        """Record the result of an epoch. Return the reason for which the experiment is to be pruned, or None."""
        with without_optuna_warnings(), contextlib.suppress(UpdateFinishedTrialError):  # another process has taken it
            experiment.trial.report(value, epoch)
            if experiment.trial.should_prune():
                return f"{self.metric} {value:.4g} after epoch {epoch} is too far behind other trials ({self.pruner})"
        return None

    def end(self, experiment, state, value=None, error=None):
        """Record the end of an experiment. One that failed without an `error` was interrupted, and is resumed."""
        if error is not None:
            with contextlib.suppress(UpdateFinishedTrialError):
                experiment.trial.set_user_attr("failed", error)
        self._tell(experiment.trial.number, state, value)

    def _tell(self, number, state, value=None):
        with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # another process has done so
            self.study.tell(number, value, state)

    def standing(self):
        """Return how far the sweep is.

        Returns:
            (counts, best): how many experiments are "finished", "pruned", "failed" and "running", a dict; the best
            mean over all replicates of a configuration and the name of its first folder, or None.
        """
        attempts, means = self.attempts(), []
        counts = dict.fromkeys(("finished", "pruned", "failed", "running"), 0)
        for place in attempts.keys() & range(self.total):
            states = {self._state(trial) for trial in attempts[place]}
            names = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.RUNNING: "running"}
            counts[next((name for state, name in names.items() if state in states), "failed")] += 1
        for first in range(0, self.total, self.replicates):
            group = [attempts[place][-1] for place in range(first, first + self.replicates) if place in attempts]
            if len(group) == self.replicates and all(self._state(t) == TrialState.COMPLETE for t in group):
                means.append(
                    (math.fsum(trial.value for trial in group) / len(group), group[0].user_attrs["experiment"])
                )
        sign = -1 if self.mode == "max" else 1  # of equals the first by name, as in the table of results
        return counts, min(means, key=lambda mean: (sign * mean[0], mean[1]), default=None)
