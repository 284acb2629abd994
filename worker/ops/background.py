"""Log lines are written by a thread of their own: a reader that stops reading costs lines, never work."""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from typing import TextIO

_MAX_LINES: Final = 5000
_FLUSH_SECONDS: Final = 1.0

dropped_lines = 0
"""Log lines of this process that could not be written."""


class BackgroundHandler(logging.Handler):
    """Hands each line to a writing thread. When too many wait, lines are dropped and counted; no caller ever waits.

    `log_lines_dropped` is logged with their number as soon as writing works again.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(_MAX_LINES)
        self._reported = dropped_lines
        self._report_lost = False
        self._writer = threading.Thread(target=self._write_lines, name="log writer", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of *record*, or drop it."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            if threading.current_thread() is self._writer:
                self._report_lost = True  # it reports lost lines, will be made again, and is none of them
            else:
                _count_dropped()
        except Exception:  # noqa: BLE001 - as every handler of the standard library: a line never harms its caller
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all is written, for one second at most; called when the process ends."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, _FLUSH_SECONDS)

    def _write_lines(self) -> None:
        while True:
            line = self._lines.get()
            try:
                self._write((line + "\n").encode(self._stream.encoding, self._stream.errors or "replace"))
            except (OSError, ValueError):  # the reader has left, the disk is full, the stream is closed
                _count_dropped()
            else:
                self._report_dropped()
            self._lines.task_done()

    def _write(self, data: bytes) -> None:
        """Write past the stream: while a write to it blocks it holds a lock, and the process could not end."""
        while data:
            try:
                data = data[os.write(self._stream.fileno(), data) :]
            except BlockingIOError:
                select.select((), (self._stream,), ())

    def _report_dropped(self) -> None:
        count = dropped_lines - self._reported
        if count and not self._lines.full():
            self._report_lost = False
            structlog.get_logger().warning("log_lines_dropped", count=count)
            if not self._report_lost:  # the queue may have filled meanwhile; then it is said with the next line
                self._reported += count


def _count_dropped() -> None:
    global dropped_lines  # noqa: PLW0603 - one standard error per process, one count
    dropped_lines += 1
