"""Checkpoints that are taken between two steps and written to the disk while the training goes on."""

import threading
import time

import torch

import utils
from toolkit.core.trees import tree_map
from utils import UserError


class Checkpoints:
    """The checkpoints of a run, one after the other: each is on the disk, as a whole, before the next one is taken.

    Args:
        folder: the experiment's folder.
        lock: the ExperimentLock on it.
        minutes: between two of them within an epoch.

    Attributes:
        position: where the run stood, in words, in the last one that is on the disk; None: there is none.
        within_epochs: whether some are taken between the steps of an epoch, too.
    """

    def __init__(self, folder, lock, minutes):
        self.folder, self.lock, self.seconds, self.within_epochs = folder, lock, 60 * minutes, True
        self.position, self.taken_at = None, time.monotonic()
        self.thread, self.error = None, None

    @property
    def is_due(self):
        """Whether one is to be taken within the epoch, now."""
        return self.within_epochs and time.monotonic() - self.taken_at > self.seconds

    def save(self, state, position, is_best=False, and_then=None):
        """Take one, and begin to write it.

        Args:
            state: dict of tensors and plain values, which may change afterwards.
            position: where the run stands.
            is_best: whether it is the best one, too.
            and_then: function without arguments, called once it is on the disk.

        Raises:
            UserError: the folder is not that of the run any more, or the one before could not be written.
        """
        self.wait()
        self._check_folder()
        state, self.taken_at = copied(state), time.monotonic()
        # a daemon, which Ctrl-C for the second time does not wait for
        self.thread = threading.Thread(target=self._write, args=[state, position, is_best, and_then], daemon=True)
        self.thread.start()

    def wait(self):
        """Wait for the one that is being written.

        Raises:
            UserError: it could not be; that is said once.
        """
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _write(self, state, position, is_best, and_then):
        try:
            try:
                self._check_folder()
                utils.save_checkpoint(state, is_best, self.folder)
                self.position = position
                if and_then is not None:
                    and_then()
            except UserError:
                self._check_folder()  # moved just now
                raise
        except Exception as error:
            self.error = error

    def _check_folder(self):
        if not self.lock.is_held:
            raise UserError(f"{self.folder}: was moved or replaced while it was trained; nothing more is written")


def copied(state):
    """A tree with its tensors copied to main memory. Those that are one, as tied weights are, are one in the copy."""
    copies = {}

    def copy(tensor):
        if tensor.layout != torch.strided:  # a sparse one, whose numbers lie in several places
            return tensor.detach().to("cpu", copy=True)
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in copies or not tensor.numel():
            copies[key] = tensor.detach().to("cpu", copy=True)
        return copies[key]

    return tree_map(copy, state)
