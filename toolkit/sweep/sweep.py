"""A sweep on this machine: hands the experiments of a study to workers, and notes what comes of them."""

import contextlib
import logging
import math
import time
from collections import Counter
from multiprocessing import connection

from toolkit.core.experiment_folder import MAY_CHANGE
from toolkit.core.progress_bar import progress_bar
from toolkit.core.run_record import note_failure
from toolkit.core.setup import derive
from toolkit.core.stop_signals import StopSignals
from toolkit.sweep.pool import Worker
from utils import UserError

LONGEST_WAIT = 0.5  # seconds between looks for signals and other processes
MAY_CHANGE_IN_TRIALS = MAY_CHANGE.keys() - {"learning_rate"}  # which would make it another trial


class Sweep:
    """Trains the experiments of a study, each in a folder of the sweep's, until none is left to begin.

    Args:
        study: the Study.
        task: the Task.
        data_dir: the dataset's folder, as given on the command line, or None.
        devices: list of the names of its devices, a list, for each worker.
        threads: how many each computes with on the CPU.
        retries: how often an experiment whose process died is gone on with.
    """

    def __init__(self, study, task, data_dir, devices, threads, retries):
        self.study, self.task, self.data_dir, self.threads, self.retries = study, task, data_dir, threads, retries
        self.devices, self.workers, self.deaths = devices, [], Counter()
        self.bar = progress_bar("sweep", study.total, leave=True)

    def run(self):
        """Train. Returns what `Study.standing` does.

        Raises:
            OSError, SQLAlchemyError, StorageInternalError: the storage cannot be used any more.
            KeyboardInterrupt, SystemExit: a signal asked for it; what was trained is saved.
        """
        with StopSignals() as signals, self.study:
            signals.in_step = True  # they are looked after here, between two things
            try:
                self.show()
                while self.step():
                    signals.check()
            finally:
                self.stop()
                self.bar.close()
        return self.study.standing()

    def step(self):
        """Hand out experiments and hear what there is to hear. Returns whether there is anything left to do."""
        for number in range(len(self.devices)):
            if not self.occupy(number):
                break
        busy = {worker.connection: worker for worker in self.workers if worker.experiment is not None}
        if not busy:
            undecided = self.study.is_undecided
            time.sleep(LONGEST_WAIT if undecided else 0)
            return undecided
        for ready in connection.wait(list(busy), LONGEST_WAIT):
            self.hear(busy[ready])
        mine = [worker.experiment for worker in busy.values() if worker.experiment is not None] + self.study.twins
        self.study.heartbeat([experiment.trial for experiment in mine])
        return True

    def occupy(self, number):
        """Give a worker something to train, if it has nothing. Returns whether it has now."""
        while len(self.workers) <= number or self.workers[number].experiment is None:
            experiment = self.study.next()
            if experiment is None:
                return False
            if len(self.workers) <= number:
                self.workers.append(Worker(self.devices[number], self.threads))
            self.begin(self.workers[number], experiment)
        return True

    def begin(self, worker, experiment):
        """Let a worker train an experiment, whose folder is made, or gone on with. It fails if another one is in it."""
        folder, parent = self.study.folder / experiment.name, self.study.folder
        try:
            params = self.task.read_params(parent / "params.json", experiment.values)
            derive(params, folder, parent, MAY_CHANGE_IN_TRIALS)
            folder.mkdir(exist_ok=True)
            params.save(folder / "params.json")
        except UserError as error:
            self.fail(experiment, str(error))
            return
        except OSError as error:
            self.fail(experiment, f"{folder}: cannot be made: {error.strerror}")
            return
        worker.train(experiment, folder, self.data_dir, waits=self.study.pruner != "none")

    def hear(self, worker):
        """Take in what a worker has to say, or that it died."""
        experiment, message = worker.experiment, worker.message()
        if message is None:
            self.deaths[experiment.name] += 1
            replacement = self.replace(worker)
            if self.deaths[experiment.name] <= self.retries:
                self.say(f"{experiment.name}: {worker.death}; going on with it")
                self.begin(replacement, experiment)
            else:
                self.fail(experiment, worker.death)
                with contextlib.suppress(UserError):  # on a full disk
                    note_failure(self.study.folder / experiment.name, worker.death)
            return
        kind, *content = message
        if kind == "epoch":
            reason = self.study.report(experiment, *content)
            if self.study.pruner != "none":
                worker.answer(reason)
            return
        worker.experiment = None
        self.end(experiment, kind, *content)
        if kind == "failed":  # its error may have left something behind in that process
            worker.stop()
            self.replace(worker)

    def end(self, experiment, kind, *content):
        """Note how an experiment ended."""
        if kind == "failed":
            self.fail(experiment, *content)
        elif kind == "pruned":
            self.study.finish(experiment, None)
            self.show(f"{experiment.name}: pruned: {content[0]}")
        elif math.isnan(content[0]):
            self.fail(experiment, f"{self.study.metric} is nan")
        else:
            _, before = self.study.standing()
            self.study.finish(experiment, *content)
            standing = self.study.standing()
            mark = "" if standing[1] == before else "  *"
            self.show(f"{experiment.name}: {self.study.metric} {content[0]:.4f}{mark}", standing)

    def fail(self, experiment, why):
        """Note that an experiment failed."""
        self.study.fail(experiment, why)
        self.show(f"{experiment.name}: failed: {why}")

    def replace(self, worker):
        """A new worker in the place of one that is gone."""
        number = self.workers.index(worker)
        self.workers[number] = Worker(self.devices[number], self.threads)
        return self.workers[number]

    def say(self, message):
        """Print a line above the bar."""
        self.bar.clear()
        logging.info("%s", message)

    def show(self, message=None, standing=None):
        """Bring the bar up to date, after a line about the experiment that has ended."""
        counts, best = standing or self.study.standing()
        done = counts["finished"] + counts["pruned"] + counts["failed"]
        if message is not None:
            self.say(f"[{done}/{self.study.total}] {message}")
        self.bar.n = done
        if best is not None:
            mean = "mean " if self.study.replicates > 1 else ""
            self.bar.set_postfix_str(f"best {mean}{self.study.metric} {best[0]:.4f}", refresh=False)
        self.bar.refresh()

    def stop(self):
        """End the workers. What they train is saved, unless Ctrl-C is pressed a second time."""
        busy = [worker for worker in self.workers if worker.experiment is not None]
        if busy:
            self.say(f"Stopping {len(busy)} trials, which save what they have. The same command goes on.")
        for worker in self.workers:
            worker.stop()
        last = {}
        try:
            for worker in busy:
                last[worker] = self.last_message(worker)
        finally:
            for worker in self.workers:
                worker.process.kill()
            for worker in busy:
                if last.get(worker) is None:
                    self.study.release(worker.experiment)
                else:
                    self.end(worker.experiment, *last[worker])

    def last_message(self, worker):
        """Wait for a worker that was asked to stop. Returns how its experiment ended, if it did; else None."""
        while True:
            while not worker.connection.poll(1):  # a second Ctrl-C ends this
                continue
            message = worker.message()
            if message is None or message[0] != "epoch":
                return message
            if self.study.pruner != "none":
                worker.answer(None)
