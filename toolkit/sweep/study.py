"""The Optuna study of a sweep: which experiment is next, and what became of each, for any number of machines.

Every experiment of a sweep has a place, a number from 0. Its configuration is a function of the seed and the place
(with TPE, of the results so far as well), so that a sweep which was interrupted is the one that was not. It is one
trial of the study; where its process died, or it failed and is retried, one more each time that it is begun again.
"""

import contextlib
import copy
import hashlib
import itertools
import json
import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from toolkit.core.lock import Presence
from toolkit.core.seeds import mix
from toolkit.sweep.space import as_choice, name_of
from toolkit.sweep.storage import HEARTBEAT, make_pruner, open_storage, quiet, reaching
from utils import UserError

SWEEPERS = ".sweep"  # the folder that shows which processes run the sweep
WITHOUT_OWNER = 10  # seconds after which a trial that nobody has claimed belongs to a process that was killed
BETWEEN_LOOKS = 5  # seconds, for trials whose process is gone
STARTUP = 10  # configurations that TPE draws at random before it learns from them
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
KEPT = ("params", "distributions", "system_attrs", "intermediate_values")  # of a trial that is begun again

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass
class Experiment:
    """An experiment for this process to train: its Optuna trial, its folder's name, and the values that it sets."""

    trial: optuna.Trial
    name: str
    values: dict


class Study:
    """A sweep's study, which any number of processes work on at the same time.

    Args:
        parent_dir: the sweep's folder.
        space: its Space.
        params: Params of its reference.
        metric, mode: what is searched for, "max" or "min" of a metric.
        method: "grid", "random" or "tpe".
        trials: number of configurations; None: all of the grid.
        seeds, folds: replicates of each: so many seeds, and folds of a cross-validation (0: none).
        pruner: "asha", "median" or "none".
        storage: URL of a database; None: a journal in the sweep's folder.

    Raises:
        UserError: the storage cannot be used, or there are fewer configurations than `trials`.
    """

    def __init__(self, parent_dir, space, params, metric, mode, *, method, trials, seeds, folds, pruner, storage):
        self.folder, self.space, self.params, self.metric, self.pruner = Path(parent_dir), space, params, metric, pruner
        self.mode, self.seeds, self.folds = mode, seeds, folds
        self.grid = space.grid() if method == "grid" or (method == "random" and space.is_grid) else None
        if method == "random" and self.grid is not None:
            random.Random(params.seed).shuffle(self.grid)
        if self.grid is not None and (trials or 0) > len(self.grid):
            raise UserError(f"--trials is {trials}, but the grid of {space.source} has {len(self.grid)} configurations")
        self.replicates = seeds * max(folds, 1)
        self.configurations = trials or len(self.grid or [])
        self.total = self.configurations * self.replicates
        self.method = method
        self.presence = Presence(self.folder / SWEEPERS)
        self.twins = []  # experiments that another trial, which is under way, is of, too: its result will be theirs
        self.seen, self.looked_at, self.beaten_at = {}, -math.inf, 0.0
        reference = {k: v for k, v in params.given.items() if not k.startswith(("$", "_"))}
        dimensions = {name: dimension.model_dump() for name, dimension in space.dimensions.items()}
        definition = json.dumps([dimensions, reference, metric, mode, method, seeds, folds])
        where = self.folder.resolve().name if storage else "sweep"  # so that the folder may be renamed
        name = f"{where}-{hashlib.sha256(definition.encode()).hexdigest()[:8]}"
        self.storage = open_storage(storage, self.folder)
        self.has_heartbeats = isinstance(self.storage, RDBStorage)
        with reaching(storage, opening=True), quiet():
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=name,
                direction="maximize" if mode == "max" else "minimize",
                pruner=make_pruner(pruner, params.num_epochs),
                sampler=RandomSampler(),
                load_if_exists=True,
            )

    def __enter__(self):
        """Begin to work on it: what other processes left, and what failed before, is to be done again."""
        self.presence.begin(tidy=not self.has_heartbeats)
        if not self.has_heartbeats:  # else it may be in the folder of another machine
            self.note_deleted()
        self.take_back(failed_too=True)
        return self

    def __exit__(self, kind, error, trace):
        try:
            for experiment in self.twins:
                self.release(experiment)
        finally:  # after an error it may not have given back what it trained; that it is gone can then be seen
            self.presence.end(keep=isinstance(error, Exception))

    def next(self):
        """The Experiment to train next, now this process's own; None where all are done or taken."""
        if time.monotonic() - self.looked_at > BETWEEN_LOOKS:
            self.take_back()
        waiting, self.twins = self.twins, []
        alone = [experiment for experiment in waiting if not self._has_twin(experiment)]
        self.twins += alone[1:]
        if alone:  # the other one failed
            return alone[0]
        while True:
            trials = self.study.get_trials(deepcopy=False)
            begun = sum("place" not in trial.user_attrs for trial in trials)
            if begun >= self.total and not any(trial.state == TrialState.WAITING for trial in trials):
                return None
            with quiet():
                trial = self.study.ask()
            attempts = self.attempts()
            place = next(place for place, tried in attempts.items() if any(t.number == trial.number for t in tried))
            if place >= self.total:  # other processes were faster
                self._end(trial.number, TrialState.FAIL)
            elif any(t.number < trial.number and t.state != TrialState.FAIL for t in attempts[place]):
                trial.set_user_attr("superseded", True)
                self._end(trial.number, TrialState.FAIL)
            else:
                experiment = self._claim(trial, place)
                if not self._has_twin(experiment):
                    return experiment

    def _claim(self, trial, place):
        trial.set_user_attr("owner", self.presence.name)
        self.heartbeat([trial], now=True)
        configuration, replicate = divmod(place, self.replicates)
        seed_number, fold = divmod(replicate, max(self.folds, 1))
        with quiet():
            fixed = self._drawn(place - replicate) if replicate else {}
            self.study.sampler = self._sampler(configuration, fixed)
            values = self.space.suggest(trial)
        own = {"seed": self.params.seed + seed_number} if seed_number else {}
        own |= {"fold": fold} if self.folds else {}
        name = name_of(values, own)
        trial.set_user_attr("experiment", name)
        return Experiment(trial, name, values | own | ({"num_folds": self.folds} if self.folds else {}))

    def _has_twin(self, experiment):
        """Whether an earlier trial is of the same folder, as that configuration was drawn twice. If so, sees to it."""
        deleted = self.study.user_attrs.get("deleted", [])
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number in deleted:
                continue
            same = trial.user_attrs.get("experiment") == experiment.name and trial.number < experiment.trial.number
            if same and trial.state in ENDED:
                self._end(experiment.trial.number, trial.state, trial.value if trial.state == ENDED[0] else None)
                return True
            if same and trial.state != TrialState.FAIL:
                self.twins.append(experiment)
                return True
        return False

    def _drawn(self, place):
        """What was drawn for an experiment, which another process may be about to do: a dict of Optuna's parameters."""
        deadline = time.monotonic() + WITHOUT_OWNER
        while True:
            trial = self.attempts()[place][-1]
            if "experiment" in trial.user_attrs or time.monotonic() > deadline:
                return trial.params
            time.sleep(0.1)

    def _sampler(self, configuration, fixed):
        """What draws a configuration, with the values of those that are `fixed`, a dict by name."""
        seed = mix(self.params.seed, configuration) % 2**32
        if self.grid is not None:
            fixed = {name: as_choice(value) for name, value in self.grid[configuration].items()}
        startup = STARTUP * self.replicates
        tpe = TPESampler(seed=seed, constant_liar=True, n_startup_trials=startup)
        return PartialFixedSampler(fixed, tpe if self.method == "tpe" else RandomSampler(seed))

    def attempts(self):
        """The trials of each experiment, oldest first, as Optuna's FrozenTrials: a dict from its place."""
        count, attempts, deleted = itertools.count(), {}, self.study.user_attrs.get("deleted", [])
        for trial in sorted(self.study.get_trials(deepcopy=False), key=lambda trial: trial.number):
            if trial.number in deleted:
                trial = copy.copy(trial)
                trial.state = TrialState.FAIL
            attributes = trial.user_attrs
            place = attributes["place"] if "place" in attributes else next(count)
            if "superseded" not in attributes:
                attempts.setdefault(place, []).append(trial)
        return attempts

    def note_deleted(self):
        """Have those experiments trained again that were finished, and whose folder was deleted since."""
        deleted = self.study.user_attrs.get("deleted", [])
        for trial in self.study.get_trials(deepcopy=False, states=ENDED):
            name = trial.user_attrs["experiment"]
            if trial.number not in deleted and not (self.folder / name / "run.json").exists():
                logging.info("%s: was finished, and its folder is gone; it is trained again", name)
                deleted.append(trial.number)
        if deleted != self.study.user_attrs.get("deleted", []):
            self.study.set_user_attr("deleted", deleted)

    def take_back(self, failed_too=False):
        """Have those experiments begun again whose process is gone; with `failed_too`, also those that failed."""
        self.looked_at = time.monotonic()
        if self.has_heartbeats:
            with quiet():
                optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if self._is_abandoned(trial):
                self._end(trial.number, TrialState.FAIL)
        for place, tried in self.attempts().items():
            again = failed_too or "failed" not in tried[-1].user_attrs
            if place < self.total and again and all(trial.state == TrialState.FAIL for trial in tried):
                kept = {name: getattr(tried[-1], name) for name in KEPT}
                self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"place": place}, **kept))

    def _is_abandoned(self, trial):
        owner = trial.user_attrs.get("owner")
        if owner is None:  # created just now, or by a process that was killed in that moment
            return time.monotonic() - self.seen.setdefault(trial.number, time.monotonic()) > WITHOUT_OWNER
        if self.has_heartbeats and not self.presence.is_known(owner):
            return False  # of a machine with a disk of its own, which heartbeats tell of
        return self.presence.has_left(owner)

    @property
    def is_undecided(self):
        """Whether there may be something to train soon, though nothing is now."""
        trials = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return bool(self.twins) or any("owner" not in trial.user_attrs for trial in trials)

    def heartbeat(self, trials, now=False):
        """Tell a database that the processes of `trials`, which are this one's, live; when it is time, or `now`."""
        if self.has_heartbeats and (now or time.monotonic() - self.beaten_at > HEARTBEAT):
            self.beaten_at = self.beaten_at if now else time.monotonic()
            for trial in trials:
                self.storage.record_heartbeat(trial._trial_id)  # which Optuna does in `optimize` alone

    def report(self, experiment, epoch, value):
        """Note what an epoch gave. Returns why the experiment is to be stopped, in words, or None."""
        with quiet(), contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process has taken it
            experiment.trial.report(value, epoch)
            if experiment.trial.should_prune():
                return f"{self.metric} {value:.4g} after epoch {epoch} is too far behind other trials ({self.pruner})"
        return None

    def finish(self, experiment, value):
        """Note the result of an experiment; None: it was pruned."""
        self._end(experiment.trial.number, TrialState.PRUNED if value is None else TrialState.COMPLETE, value)

    def fail(self, experiment, error):
        """Note that an experiment failed, and why; the same command retries it."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            experiment.trial.set_user_attr("failed", error)
        self._end(experiment.trial.number, TrialState.FAIL)

    def release(self, experiment):
        """Note that an experiment was stopped on the way: another process, or the same command, goes on with it."""
        self._end(experiment.trial.number, TrialState.FAIL)

    def _end(self, number, state, value=None):
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another process has done so
            self.study.tell(number, value, state)

    def standing(self):
        """How far the sweep is: (counts, best).

        counts: how many experiments are "finished", "pruned", "failed", and "running" (here or elsewhere), a dict.
        best: of the configurations whose replicates are all finished the best one's mean and first folder, or None.
        """
        attempts, means = self.attempts(), []
        counts = dict.fromkeys(("finished", "pruned", "failed", "running"), 0)
        for tried in (tried for place, tried in attempts.items() if place < self.total):
            states = {trial.state for trial in tried}
            if states.intersection(ENDED):
                counts["finished" if TrialState.COMPLETE in states else "pruned"] += 1
            else:
                counts["failed" if states == {TrialState.FAIL} else "running"] += 1
        for first in range(0, self.total, self.replicates):
            group = [attempts[place][-1] for place in range(first, first + self.replicates) if place in attempts]
            if len(group) == self.replicates and all(trial.state == TrialState.COMPLETE for trial in group):
                means.append((math.fsum(trial.value for trial in group) / len(group), first))
        if not means:
            return counts, None
        best = (max if self.mode == "max" else min)(mean for mean, _ in means)
        names = [attempts[place][-1].user_attrs["experiment"] for mean, place in means if mean == best]
        return counts, (best, min(names))  # of equals the first by name, as in the table of results
