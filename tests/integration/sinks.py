"""What the sinks' tests share: events, and a checkpoint that tells what was acknowledged."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from bridge.change import INSERT
from bridge.checkpoint import Checkpoint
from bridge.event import Event
from bridge.sinks.base import Rejection, Sink
from tests.servers.waiting import PATIENCE

TABLE = ("public", "book")


def an_event(number: int = 1, **changed: Any) -> Event:
    """The INSERT of a row of public.book."""
    event_id = f"7409-1/00000000015E4E50/{number:016X}/00000000/public.book/authenticated"
    event = Event(
        id=event_id,
        schema="public",
        table="book",
        kind=INSERT,
        key=b'{"id":%d}' % number,
        value=b'{"wal":{"record":{"id":%d}}}' % number,
        headers=[("id", event_id), ("lsn", f"0/{number:X}"), ("type", INSERT), ("content-type", "application/json")],
        subscription_ids=("af68a1b5-fbb3-4154-84cc-a2ee1a7048f9",),
        commit_seconds=1_651_259_063,
    )
    return msgspec.structs.replace(event, **changed)


class Driver:
    """Drives a sink as the pipeline does."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.checkpoint = Checkpoint()
        self.rejections: list[Rejection] = []

    @property
    def in_flight(self) -> int:
        return self.checkpoint.in_flight_events

    def send(self, *events: Event, seconds: float = PATIENCE) -> None:
        """Each event is taken, however often the sink says that it is full."""
        end = time.monotonic() + seconds
        for event in events:
            while not self.sink.send(event, self.checkpoint.current):
                assert time.monotonic() < end, "the sink stays full"
                self.poll(0.005)

    def send_while_it_takes(self, events: Iterable[Event]) -> int:
        """How many it took before it said that it is full."""
        taken = 0
        for event in events:
            if not self.sink.send(event, self.checkpoint.current):
                break
            taken += 1
            self.poll()
        return taken

    def poll(self, seconds: float = 0.0) -> None:
        self.rejections += self.sink.poll(seconds)

    def poll_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.poll(min(left, 0.05))

    def poll_until(self, condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {seconds} s"
            self.poll(0.02)

    def replaced(self, rejection: Rejection) -> None:
        """What is sent in its place has been sent."""
        rejection.ticket.acknowledge(rejection.event.size)
        self.sink.replaced(rejection)
        if rejection in self.rejections:
            self.rejections.remove(rejection)

    def drain(self, seconds: float = PATIENCE) -> None:
        self.poll_until(lambda: self.in_flight == len(self.rejections), "all acknowledged", seconds)
