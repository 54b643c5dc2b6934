"""Writes checkpoints in the background, one after the other, while training continues."""

import math
import threading
import time

import torch

import utils
from toolkit.core.trees import tree_map
from utils import UserError


class CheckpointWriter:
    """Writes the checkpoints of a run: each is completely on the disk before the next one is taken.

    Args:
        folder: Path of the experiment.
        lock: the ExperimentLock on it.
        minutes: float, time between two checkpoints within an epoch.

    Attributes:
        position: str, `TrainState.position` of the last checkpoint that is on the disk; None if there is none.
        due_at: float, the time (of time.monotonic) of the next checkpoint within an epoch.
    """

    def __init__(self, folder, lock, minutes):
        self.folder, self.lock, self.seconds = folder, lock, 60 * minutes
        self.position, self.due_at = None, time.monotonic() + self.seconds
        self.thread, self.error = None, None

    def save(self, content, position, is_best=False, and_then=None):
        """Copy a checkpoint to main memory, and start writing it.

        Args:
            content: dict of tensors and plain values; they may change afterwards.
            position: str, `TrainState.position`.
            is_best: bool, True if it becomes best.pth.tar, too.
            and_then: function without arguments, called when the checkpoint is on the disk.

        Raises:
            UserError: the folder is not the one of this run any more, or the previous one could not be written.
        """
        self.wait()
        self._check_folder()
        content, self.due_at = copied(content), time.monotonic() + self.seconds
        # a daemon thread, which a second Ctrl-C does not wait for
        self.thread = threading.Thread(target=self._write, args=[content, position, is_best, and_then], daemon=True)
        self.thread.start()

    def leave_out_those_within_epochs(self):
        """From now on, no checkpoint is due before the end of an epoch."""
        self.due_at = self.seconds = math.inf

    def wait(self):
        """Wait for the checkpoint that is being written. If it could not be written, raise the error, once."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _write(self, content, position, is_best, and_then):
        try:
            try:
                self._check_folder()
                utils.save_checkpoint(content, is_best, self.folder)
                self.position = position
                if and_then is not None:
                    and_then()
            except UserError:
                self._check_folder()  # if it was moved just now, say that instead
                raise
        except Exception as error:
            self.error = error

    def _check_folder(self):
        if not self.lock.is_held:
            raise UserError(f"{self.folder}: was moved or replaced during training; nothing more is written")


def copied(tree):
    """Return a tree with its tensors copied to main memory; tensors that share memory (tied weights) share a copy."""
    copies = {}

    def copy(tensor):
        if tensor.layout != torch.strided:  # a sparse tensor keeps its numbers in several places
            return tensor.detach().to("cpu", copy=True)
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in copies or not tensor.numel():
            copies[key] = tensor.detach().to("cpu", copy=True)
        return copies[key]

    return tree_map(copy, tree)
