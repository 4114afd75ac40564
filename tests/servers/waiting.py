"""Waiting for a condition rather than for a time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 90.0
"""How long a test waits for what must come, in seconds: the bridge's longest pause between two attempts, and as long again
and more for a machine that is busy."""


def wait_until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The condition's first true value. AssertionError naming `what` when there is none in time."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)
    return found


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """`work` goes on in a thread of its own until the event that it is given is set."""
    done = threading.Event()
    worker = threading.Thread(target=work, args=(done,))
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()
