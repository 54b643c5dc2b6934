"""The Optuna study of a sweep: the experiment to train next and the result of each, for any number of processes.

The experiments of a sweep have places 0, 1, 2, ...; the replicates of a configuration (its seeds and folds) have
consecutive ones. The configuration is a function of the seed and the place (with TPE also of the results so far), so an
interrupted sweep tries the same configurations as an uninterrupted one. "Trial" means Optuna's trial here: one attempt
to train an experiment. If it fails, another attempt is another trial at the same place.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import random
import time
import warnings
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState, create_trial

from toolkit.core.seeds import mix
from toolkit.sweep.storage import HEARTBEAT_SECONDS, Owner, open_storage, storage_errors
from utils import UserError, without_notes

SECONDS_BETWEEN_LOOKS = 5  # for abandoned trials
TPE_STARTUP = 10  # random configurations before TPE learns from the results
REDUCTION = 3  # asha continues one of three trials after a ninth and after a third of the epochs
ENDED = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}
STATES = ENDED | {TrialState.RUNNING: "running", TrialState.FAIL: "failed"}
KEPT = ("params", "distributions", "system_attrs", "intermediate_values")  # of a trial that is retried
WARNINGS = "Heartbeat of storage|The reported value is ignored|.*divisible by"  # of Optuna, which are expected here


@dataclass
class Experiment:
    """An experiment for this process to train: its Optuna trial, the name of its folder, its own hyperparameters."""

    trial: Trial
    name: str
    values: dict


class Study:
    """The study of the sweep in a folder. Any number of processes, on any number of machines, may work on it at a time.

    It optimizes a metric, with the `mode` "max" or "min". `options` has `method`, `trials` (None for the whole grid),
    `seeds`, `folds`, `pruner` and `storage` (None for a journal file in the folder), as on the command line. If the
    storage cannot be used, or the grid has fewer configurations than `trials`, a UserError is raised.
    """

    def __init__(self, folder, space, params, metric, mode, options):
        self.folder, self.space, self.params, self.metric, self.mode = folder, space, params, metric, mode
        self.options, method, trials, storage = options, options.method, options.trials, options.storage
        self.grid = space.grid() if method == "grid" or (method == "random" and space.is_grid) else None
        if method == "random" and self.grid is not None:
            random.Random(params.seed).shuffle(self.grid)
        if self.grid is not None and (trials or 0) > len(self.grid):
            raise UserError(f"--trials is {trials}, but the grid of {space.source} has {len(self.grid)} configurations")
        self.configurations, self.replicates = trials or len(self.grid or []), options.seeds * max(options.folds, 1)
        self.total = self.configurations * self.replicates
        self.owner, self.is_database = Owner(folder), storage is not None
        self.to_retry = set()  # numbers of trials that failed before this process started, or lost their folder
        self.looked_at = self.heartbeat_at = -math.inf  # times of the last look for abandoned trials, and heartbeat
        reference = without_notes(params.given)
        dimensions = {name: dimension.model_dump() for name, dimension in space.dimensions.items()}
        definition = json.dumps([dimensions, reference, metric, mode, method, options.seeds, options.folds])
        prefix = folder.resolve().name if storage else "sweep"  # a folder with a journal may be renamed
        self.name = f"{prefix}-{hashlib.sha256(definition.encode()).hexdigest()[:8]}"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        warnings.filterwarnings("ignore", message=WARNINGS)
        self.storage = open_storage(storage, folder)
        with storage_errors(storage):
            direction = StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE
            optuna.create_study(study_name=self.name, storage=self.storage, direction=direction, load_if_exists=True)
            self.study = self._load(RandomSampler())

    def _load(self, sampler):
        """Return a new object for the Optuna study, which has the given sampler, and no cached trials."""
        asha = SuccessiveHalvingPruner(max(1, self.params.num_epochs // REDUCTION**2), REDUCTION)
        pruner = {"asha": asha, "median": MedianPruner(), "none": NopPruner()}[self.options.pruner]
        return optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler, pruner=pruner)

    def __enter__(self):
        """Start to work on the study: trials that failed, and those whose folder was deleted, are retried."""
        self.owner.path.parent.mkdir(exist_ok=True)
        self.owner.lock.acquire()
        for trial in self.study.get_trials(deepcopy=False):
            name, is_lost = trial.user_attrs.get("experiment"), False
            if trial.state in ENDED and not self.is_database and not (self.folder / name / "run.json").exists():
                logging.info("%s: finished before, but its folder was deleted; training it again", name)
                is_lost = True
            if is_lost or trial.state == TrialState.FAIL:
                self.to_retry.add(trial.number)
        return self

    def __exit__(self, kind, error, trace):
        self.owner.lock.release()
        if not isinstance(error, Exception):  # else its trials may still be running in the storage; the file says why
            self.owner.path.unlink(missing_ok=True)

    def next(self):
        """Return the Experiment that this process trains next, or None if all are done or taken."""
        if time.monotonic() - self.looked_at > SECONDS_BETWEEN_LOOKS:
            self._end_abandoned()
        while (place := self._free_place()) is not None:
            if (experiment := self._claim(place)) is not None:
                return experiment
        return None

    def _free_place(self):
        """Return the first place that is neither in training nor finished and can get a configuration, or None."""
        attempts = self.attempts()
        for place in range(self.total):
            first = place - place % self.replicates  # the replicate that draws the configuration for the others
            is_drawn = place == first or any("experiment" in trial.user_attrs for trial in attempts.get(first, []))
            tried = attempts.get(place, [])
            has_failed = any("failed" in t.user_attrs and t.number not in self.to_retry for t in tried)
            if is_drawn and not has_failed and all(self._state(trial) == TrialState.FAIL for trial in tried):
                return place
        return None

    def _claim(self, place):
        """Return the Experiment at a place as this process's own, or None if there is nothing to train."""
        before = self._drawn(place)
        kept = {name: getattr(before, name) for name in KEPT} if before else {}
        own = {"place": place, "owner": self.owner.name}
        self.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=own, **kept))
        tried = self.attempts()[place]
        created = next(trial for trial in reversed(tried) if trial.user_attrs.get("owner") == self.owner.name)
        configuration, replicate = divmod(place, self.replicates)
        first = self._drawn(place - replicate) if replicate else None
        sampler = self._sampler(configuration, first.params if first else {})
        trial = Trial(self._load(sampler), created._trial_id)
        if any(t.number < trial.number and self._state(t) != TrialState.FAIL for t in tried):
            self._tell(trial.number, TrialState.FAIL)
            return None  # another process was faster
        values = self.space.suggest(trial)
        seed_number, fold = divmod(replicate, max(self.options.folds, 1))
        own_values = {"seed": self.params.seed + seed_number} if seed_number else {}
        own_values |= {"fold": fold} if self.options.folds else {}
        name = self.space.name_of(values, own_values)
        trial.set_user_attr("experiment", name)
        for twin in self.study.get_trials(deepcopy=False):  # if the same configuration was drawn and trained before
            if twin.user_attrs.get("experiment") == name and self._state(twin) in ENDED:
                self._tell(trial.number, twin.state, twin.value if twin.state == TrialState.COMPLETE else None)
                return None
        self.heartbeat_at = -math.inf  # the next one is due at once
        own_values |= {"num_folds": self.options.folds} if self.options.folds else {}
        return Experiment(trial, name, values | own_values)

    def _drawn(self, place):
        """Return the last trial at a place whose configuration has been drawn, or None."""
        drawn = [trial for trial in self.attempts().get(place, []) if "experiment" in trial.user_attrs]
        return drawn[-1] if drawn else None

    def _sampler(self, configuration, fixed):
        """Return the sampler for the configuration with that number; `fixed` is a dict of values not to be drawn."""
        seed = mix(self.params.seed, configuration) % 2**32
        if self.grid is not None:
            fixed = self.space.choices(self.grid[configuration])
        tpe = TPESampler(seed=seed, constant_liar=True, n_startup_trials=TPE_STARTUP * self.replicates)
        return PartialFixedSampler(fixed, tpe if self.options.method == "tpe" else RandomSampler(seed))

    def _state(self, trial):
        """Return the state of a trial, which is FAIL if it is to be retried."""
        is_to_retry = trial.number in self.to_retry or trial.state == TrialState.WAITING  # set by an earlier version
        return TrialState.FAIL if is_to_retry else trial.state

    def attempts(self):
        """Return a dict from place to the trials of that experiment, FrozenTrials, oldest first."""
        count, attempts = itertools.count(), {}
        for trial in self.study.get_trials(deepcopy=False):  # earlier versions did not record the place
            place = trial.user_attrs["place"] if "place" in trial.user_attrs else next(count)
            attempts.setdefault(place, []).append(trial)
        return attempts

    def _end_abandoned(self):
        """Record trials as failed whose process has ended, so that they are retried."""
        self.looked_at = time.monotonic()
        if self.is_database:
            optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            owner, if_unknown = trial.user_attrs.get("owner"), not self.is_database  # where heartbeats decide
            if owner is None or self.owner.has_ended(owner, if_unknown):
                self._tell(trial.number, TrialState.FAIL)

    def heartbeat(self, experiments):
        """Record in a database, if it is due, that this process still trains `experiments`."""
        if self.is_database and time.monotonic() - self.heartbeat_at > HEARTBEAT_SECONDS:
            self.heartbeat_at = time.monotonic()
            for experiment in experiments:
                self.storage.record_heartbeat(experiment.trial._trial_id)  # which Optuna only does in `optimize`

    def report(self, experiment, epoch, value):
        """Record the result of an epoch. Return the reason for which the experiment is to be pruned, or None."""
        with contextlib.suppress(UpdateFinishedTrialError):  # another process has taken it over
            experiment.trial.report(value, epoch)
            if experiment.trial.should_prune():
                result = f"{self.metric} {value:.4g} after epoch {epoch}"
                return f"{result} is too far behind other trials ({self.options.pruner})"
        return None

    def end(self, experiment, outcome, result=None):
        """Record that an experiment is "finished" with a value, "failed" for a reason, "pruned", or "interrupted"."""
        if outcome == "failed":
            with contextlib.suppress(UpdateFinishedTrialError):
                experiment.trial.set_user_attr("failed", result)
        state = next((state for state, name in STATES.items() if name == outcome), TrialState.FAIL)
        self._tell(experiment.trial.number, state, result if outcome == "finished" else None)

    def _tell(self, number, state, value=None):
        with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # another process has done so
            self.study.tell(number, value, state)

    def standing(self):
        """Return (counts, best), the state of the sweep.

        `counts` is a dict, the number of experiments that are "finished", "pruned", "running" and "failed". `best` is
        the best mean over all replicates of a configuration, and the name of its first folder, or None.
        """
        counts, results, means = dict.fromkeys(STATES.values(), 0), {}, []
        for place, tried in self.attempts().items():
            if place < self.total:
                states = [self._state(trial) for trial in tried]
                counts[next(name for state, name in STATES.items() if state in states)] += 1
                results[place] = [trial for trial in tried if self._state(trial) == TrialState.COMPLETE]
        for first in range(0, self.total, self.replicates):
            group = [results.get(place, []) for place in range(first, first + self.replicates)]
            if all(group):
                mean = math.fsum(trials[-1].value for trials in group) / len(group)
                means.append((mean, group[0][-1].user_attrs["experiment"]))
        sign = -1 if self.mode == "max" else 1  # of equals the first by name, as in the table of results
        return counts, min(means, key=lambda mean: (sign * mean[0], mean[1]), default=None)
