"""SIGTERM and SIGINT: the first asks the loop to stop, the second leaves at once."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self


class Stopping(BaseException):
    """Stop was asked for while something waited: abandon it. What it held comes again after a restart.

    No error, so that nothing that handles errors takes it for one.
    """


class StopSignal:
    """Within the `with` block, `requested` tells whether a signal came, and `fileno` is readable from then on."""

    def __init__(self) -> None:
        self.requested_at: float | None = None
        """time.monotonic() of the first signal."""
        self._interrupting = False
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._reader.setblocking(False)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """For what waits by itself, before anything streams: a signal raises Stopping in the midst of it."""
        if self.requested:
            raise Stopping
        self._interrupting = True
        try:
            yield
        finally:
            self._interrupting = False

    @property
    def requested(self) -> bool:
        return self.requested_at is not None

    def requested_for(self, seconds: float) -> bool:
        """Whether the first signal came at least so long ago."""
        return self.requested_at is not None and time.monotonic() - self.requested_at >= seconds

    def fileno(self) -> int:
        return self._reader.fileno()

    def __enter__(self) -> Self:
        self._previous_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._reader.close()
        self._writer.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested_at = time.monotonic()
        if self._interrupting:
            raise Stopping
