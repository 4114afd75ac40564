"""Events to stdout, one JSON value a line; dead letters to stderr.

A reader that is slow fills the pipe: then the sink says "full" until there is room. An event is acknowledged when the
last of its bytes is in the pipe.
"""

import errno
import os
import select
from collections import deque
from collections.abc import Iterable, Sequence

from bridge.checkpoint import Ticket
from bridge.errors import NameRefused, SinkRefused
from bridge.event import Event
from bridge.sinks.base import Rejection, Sink

BUFFER_BYTES = 1 << 20


class StdoutSink(Sink):
    """Writes to two descriptors; stdout's and stderr's unless others are given."""

    def __init__(self, stdout: int = 1, stderr: int = 2) -> None:
        self._outputs = {False: _Output(stdout, "stdout"), True: _Output(stderr, "stderr")}

    def open(self, tables: Iterable[tuple[str, str]]) -> list[NameRefused]:
        """Nothing to connect to."""
        return []

    def send(self, event: Event, ticket: Ticket) -> bool:
        output = self._outputs[event.dead_letter]
        if output.is_full:
            return False
        ticket.sent(event.size)
        output.add(event, ticket)
        return True

    def poll(self, timeout_seconds: float) -> Sequence[Rejection]:
        waiting = [output for output in self._outputs.values() if output.write()]
        if timeout_seconds > 0:
            poller = select.poll()
            for output in waiting:
                poller.register(output.descriptor, select.POLLOUT)
            if poller.poll(timeout_seconds * 1000):
                for output in waiting:
                    output.write()
        return ()

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        """What is not written yet was not acknowledged: it comes again."""


class _Output:
    """A descriptor, and the lines that are not written yet.

    The descriptor stays in blocking mode, as others may share it. A write of at most PIPE_BUF bytes to a pipe that
    polls as writable never blocks, so that is how much goes at once while it is nearly full.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self._name = name
        self._poller = select.poll()
        self._poller.register(descriptor, select.POLLOUT)
        self._waiting: deque[tuple[Event, Ticket, int]] = deque()
        """With the number of bytes that must have been written for it to be done."""
        self._buffer = bytearray()
        self._added = self._written = 0

    @property
    def is_full(self) -> bool:
        return len(self._buffer) >= BUFFER_BYTES

    def add(self, event: Event, ticket: Ticket) -> None:
        self._buffer += event.value
        self._buffer += b"\n"
        self._added += len(event.value) + 1
        self._waiting.append((event, ticket, self._added))

    def write(self) -> bool:
        """Write what the descriptor takes without blocking; whether something is left."""
        while self._buffer:
            ready = self._poller.poll(0)
            if not ready:
                break
            if ready[0][1] & (select.POLLERR | select.POLLNVAL):
                raise self._closed(None)
            try:
                count = os.write(self.descriptor, memoryview(self._buffer)[: select.PIPE_BUF])
            except BlockingIOError:
                break
            except OSError as error:
                raise self._closed(error) from error
            del self._buffer[:count]
            self._written += count
        while self._waiting and self._waiting[0][2] <= self._written:
            event, ticket, _ = self._waiting.popleft()
            ticket.acknowledge(event.size)
        return bool(self._buffer)

    def _closed(self, error: OSError | None) -> SinkRefused:
        if error is None or error.errno == errno.EPIPE:
            return SinkRefused(
                f"{self._name} is closed: nobody reads the events any more. What to do: keep the reader of the pipe"
                " running; what it did not get comes again"
            )
        return SinkRefused(
            f"{self._name} cannot be written to: {error.strerror}. What to do: mend that and start again; what was not"
            " written comes again"
        )
