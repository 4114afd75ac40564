"""An I/O loop for pika that takes one step at a time, so that a broker that stalls never holds up the bridge.

pika's own loops run until they are stopped, and its blocking connection waits until its write buffer is empty: long
enough to miss status updates to PostgreSQL.
"""

import contextlib
import heapq
import itertools
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pika.adapters.utils.selector_ioloop_adapter import AbstractSelectorIOLoop

Callback = Callable[[], Any]
Handler = Callable[[int, int], None]


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback


class StepLoop(AbstractSelectorIOLoop):  # type: ignore[misc]
    """What pika needs of a loop, and `step`."""

    READ = 1
    WRITE = 2
    ERROR = 4

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, _Timer]] = []
        self._numbers = itertools.count()
        self._callbacks: deque[Callback] = deque()
        # A name look-up ends in another thread, and wakes us by a byte.
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def step(self, timeout_seconds: float) -> None:
        """Do what is due; wait at most that long for something to do."""
        self._run_due()
        if self._callbacks:
            timeout_seconds = 0.0
        elif self._timers:
            timeout_seconds = max(0.0, min(timeout_seconds, self._timers[0][0] - time.monotonic()))
        for key, events in self._selector.select(timeout_seconds):
            if key.fileobj is self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
            elif (handler := self._handlers.get(key.fd)) is not None:
                handler(key.fd, _of_selector(events))
        self._run_due()

    def fileno(self) -> int:
        """Readable when `step` has something to do (but for timers)."""
        return self._selector.fileno()

    @property
    def is_idle(self) -> bool:
        """No socket is watched."""
        return not self._handlers

    def hang_up(self) -> None:
        """End every connection at once: pika then sees their ends in the next steps."""
        for descriptor in self._handlers:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as other:
                other.shutdown(socket.SHUT_RDWR)

    def _run_due(self) -> None:
        for _ in range(len(self._callbacks)):
            self._callbacks.popleft()()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()

    # -- what pika calls -------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def start(self) -> None:
        raise NotImplementedError("driven by step")

    def stop(self) -> None:
        """Nothing runs."""

    def call_later(self, delay: float, callback: Callback) -> object:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._numbers), timer))
        return timer

    def remove_timeout(self, timeout_handle: Any) -> None:
        timeout_handle.callback = None

    def add_callback(self, callback: Callback) -> None:
        """From any thread."""
        self._callbacks.append(callback)
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody waits
            self._wake_write.send(b"\0")

    def add_handler(self, fd: int, handler: Handler, events: int) -> None:
        self._handlers[fd] = handler
        self._selector.register(fd, _to_selector(events))

    def update_handler(self, fd: int, events: int) -> None:
        self._selector.modify(fd, _to_selector(events))

    def remove_handler(self, fd: int) -> None:
        del self._handlers[fd]
        self._selector.unregister(fd)


def _to_selector(events: int) -> int:
    return (selectors.EVENT_READ if events & StepLoop.READ else 0) | (
        selectors.EVENT_WRITE if events & StepLoop.WRITE else 0
    )


def _of_selector(events: int) -> int:
    return (StepLoop.READ if events & selectors.EVENT_READ else 0) | (
        StepLoop.WRITE if events & selectors.EVENT_WRITE else 0
    )
