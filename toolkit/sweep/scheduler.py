"""The scheduler of a sweep on this machine: keeps one trial running on each device, and records the results."""

import contextlib
import logging
import math
from collections import Counter
from itertools import zip_longest
from multiprocessing import connection

from toolkit.core.experiment_folder import MAY_CHANGE
from toolkit.core.progress_bar import progress_bar
from toolkit.core.setup import derive
from toolkit.core.stop_signals import StopSignals
from toolkit.sweep.trial_process import TrialProcess, note_failure
from utils import UserError

SECONDS_BETWEEN_CHECKS = 0.5  # for signals
SECONDS_TO_EXIT = 10  # for the process of a trial that has sent its result
MAY_CHANGE_IN_TRIALS = MAY_CHANGE.keys() - {"learning_rate"}  # another learning rate is another trial


class Scheduler:
    """Trains the experiments of a Study of a Task, each in its own folder, until there are none left.

    `data_dir` is the dataset's folder or None; each of `devices`, a list of names, runs one trial at a time, with
    `threads` CPU threads; a trial whose process crashes is resumed `retries` times.
    """

    def __init__(self, study, task, data_dir, devices, threads, retries):
        self.study, self.task, self.data_dir, self.devices = study, task, data_dir, devices
        self.threads, self.retries = threads, retries
        self.running = {}  # from slot (an index of `devices`) to the TrialProcess on that device
        self.crashes = Counter()  # number of crashes by the name of the experiment
        self.best, self.bar = None, progress_bar("sweep", study.total, leave=True)

    def run(self):
        """Train all experiments, and return the result of `Study.standing`.

        Raises:
            OSError, SQLAlchemyError, StorageInternalError: the storage cannot be used any more.
            KeyboardInterrupt, SystemExit: after a signal; the trials have been saved.
        """
        with StopSignals() as signals, self.study:
            try:
                self.show()
                while self.step():
                    signals.stop_if_agreed(alone=True)
            finally:
                self.stop()
                self.bar.close()
        return self.study.standing()

    def step(self):
        """Start trials on free devices and handle messages of trials. Return False if nothing is left to do."""
        while len(self.running) < len(self.devices) and (experiment := self.study.next()) is not None:
            self.start(min(set(range(len(self.devices))) - self.running.keys()), experiment)
        self.study.heartbeat(trial.experiment for trial in self.running.values())
        slots = {trial.connection: slot for slot, trial in self.running.items()}
        for ready in connection.wait(list(slots), SECONDS_BETWEEN_CHECKS) if slots else ():
            self.handle(slots[ready])
        return bool(slots)

    def start(self, slot, experiment):
        """Start an experiment in a new folder, or resume it; it fails if its folder has other hyperparameters."""
        folder, parent = self.study.folder / experiment.name, self.study.folder
        try:
            params = self.task.read_params(parent / "params.json", experiment.values)
            derive(params, folder, parent, MAY_CHANGE_IN_TRIALS)
            folder.mkdir(exist_ok=True)
            params.save(folder / "params.json")
        except (UserError, OSError) as error:
            failure = f"{folder}: cannot be created: {error.strerror}" if isinstance(error, OSError) else str(error)
            self.end(experiment, "failed", failure)
            return
        options = self.study.options
        arguments = (folder, self.data_dir, self.devices[slot], self.threads, options.accept_code_changes)
        self.running[slot] = TrialProcess(experiment, *arguments, prunes=options.pruner != "none")

    def handle(self, slot):
        """Handle the next message of a trial, or its death."""
        trial = self.running[slot]
        experiment, message = trial.experiment, trial.message()
        if message is not None and message[0] == "epoch":
            trial.answer(self.study.report(experiment, *message[1:]))
            return
        del self.running[slot]
        if message is not None:
            trial.process.join(SECONDS_TO_EXIT)  # so that the next trial has all memory of the device
            trial.process.kill()
            self.end(experiment, *message)
        elif self.crashes[experiment.name] < self.retries:
            self.crashes[experiment.name] += 1
            self.say(f"{experiment.name}: {trial.death}; resuming it")
            self.start(slot, experiment)
        else:
            with contextlib.suppress(UserError):  # the disk is full, perhaps
                note_failure(self.study.folder / experiment.name, trial.death)
            self.end(experiment, "failed", trial.death)

    def end(self, experiment, outcome, result=None):
        """Record and print how an experiment has ended; arguments as for `Study.end`."""
        metric = self.study.metric
        if outcome == "finished" and (result is None or not math.isfinite(result)):
            outcome, result = "failed", f"{metric} is {math.nan if result is None else result}"
        self.study.end(experiment, outcome, result)
        if outcome == "finished":
            self.show(f"{experiment.name}: {metric} {result:.4f}", star="  *")
        elif outcome != "interrupted":
            self.show(f"{experiment.name}: {outcome}: {result}")

    def show(self, message=None, star=""):
        """Update the progress bar, and print how an experiment has ended, with a star if it is the new best."""
        counts, best = self.study.standing()
        self.bar.n = counts["finished"] + counts["pruned"] + counts["failed"]
        if message is not None:
            self.say(f"[{self.bar.n}/{self.study.total}] {message}{'' if best == self.best else star}")
        if best is not None:
            mean = "mean " if self.study.replicates > 1 else ""
            self.bar.set_postfix_str(f"best {mean}{self.study.metric} {best[0]:.4f}", refresh=False)
        self.bar.refresh()
        self.best = best

    def say(self, message):
        """Print a line above the progress bar."""
        self.bar.clear()
        logging.info("%s", message)

    def stop(self):
        """Stop all trials. Each saves its state, unless Ctrl-C is pressed a second time."""
        if self.running:
            self.say(f"Stopping {len(self.running)} trials, which save their state. Run the same command to resume.")
        for trial in self.running.values():
            trial.stop()
        last = []
        try:
            for trial in self.running.values():
                while (message := trial.message()) is not None and message[0] == "epoch":
                    trial.answer(None)
                last.append(message)
        finally:
            for trial in self.running.values():
                trial.process.kill()
            for trial, message in zip_longest(self.running.values(), last):
                self.end(trial.experiment, *(message or ["interrupted"]))
