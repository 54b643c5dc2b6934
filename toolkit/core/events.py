"""Scalars in a file that TensorBoard reads, written at once: what an epoch gave is there when the next one begins."""

import os
import socket
import time
from pathlib import Path


class EventFile:
    """A file of events in a folder.

    Args:
        folder: where it is made, the folder too.
        first_step: from which step on it replaces what earlier files in the folder have.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder, first_step):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # not before the first epoch is done
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.Event, self.Summary = Event, Summary
        folder = Path(folder)
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = open(folder / name, "wb")  # noqa: SIM115 (open for the whole run)
        self.records = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, scalars, step):
        """Write down the values of an epoch.

        Args:
            scalars: dict from name to float.
            step: the epoch.

        Raises:
            OSError: the disk is full, for one.
        """
        values = [self.Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(step=step, summary=self.Summary(value=values))
        self.file.flush()

    def _write(self, **content):
        self.records.write(self.Event(wall_time=time.time(), **content).SerializeToString())

    def close(self):
        """Close the file."""
        self.file.close()
