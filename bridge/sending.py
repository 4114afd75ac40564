"""Handing events to the sink, in their order: no more than it and the limits take, and what it refuses in another form."""

import time
from collections import deque
from collections.abc import Callable

import structlog

from bridge.checkpoint import Checkpoint, Ticket
from bridge.event import Event
from bridge.health import Health
from bridge.pace import Pace
from bridge.parts import last_resort, smaller
from bridge.sinks.base import Rejection, Sink
from bridge.stopping import Stopping, StopSignal

log = structlog.get_logger()

DRAIN_SECONDS = 20.0
"""After a signal: how long the broker has to acknowledge what was read."""
FULL_SECONDS = 0.005
"""How long to let the sink work before it is offered again what it would not take."""


class Sender:
    """Raises Stopping where a signal came while something waited."""

    def __init__(
        self,
        sink: Sink,
        health: Health,
        stop: StopSignal,
        pace: Pace,
        *,
        in_flight_bytes: int,
        stop_on_failure: bool,
        tick: Callable[[float], None],
        wait: Callable[[float], None],
    ) -> None:
        """`tick` does what must go on whatever else waits, `poll` among it, for so many seconds; `wait` lets nothing but
        the reading wait for so long."""
        self.pace = pace
        self.checkpoint = Checkpoint()
        """What is sent counts here. Another one with each start of a stream."""
        self._sink = sink
        self._health = health
        self._stop = stop
        self._in_flight_bytes = in_flight_bytes
        self._stop_on_failure = stop_on_failure
        self._tick = tick
        self._wait = wait
        self._rejections: deque[Rejection] = deque()
        self._paced = ""
        """`order` of the change whose events are let go now."""

    @property
    def has_room(self) -> bool:
        """Whether there is room in flight for more."""
        return self.checkpoint.in_flight_bytes < self._in_flight_bytes

    def send(self, event: Event) -> None:
        """Hand it to the sink; while that is full, or the limits hold it back, all else goes on but reading."""
        if self.pace.is_limited:
            self._hold_back(event)
        checkpoint = self.checkpoint
        while checkpoint.in_flight.bytes >= self._in_flight_bytes:  # the events of one batch may be many, and large
            self._let_work()
            self.bury_rejections()
        counts = self._health.dead_letters if event.dead_letter else self._health.events
        counts[event.schema, event.table] += 1
        if not self._sink.send(event, checkpoint.current):
            self._let_work()
            self._hand_over(event, checkpoint.current)
        refused = self._sink.rejected()
        if refused or self._rejections:
            self._rejections.extend(refused)
            self.bury_rejections()

    def poll(self, seconds: float) -> None:
        """Let the sink work for at most so long."""
        self._rejections.extend(self._sink.poll(seconds))

    def forget_rejections(self) -> None:
        self._rejections.clear()

    def bury_rejections(self) -> None:
        """What the broker does not take goes in parts or smaller where that may help, else as a dead letter: under the
        same ticket, so that the position waits for that instead."""
        while self._rejections:
            rejection = self._rejections[0]
            event, reason = rejection.event, rejection.reason
            instead = smaller(event, rejection.share) if rejection.too_large else None
            if instead is None:
                instead = iter([last_resort(event, reason, stop=self._stop_on_failure)])
                self._health.dead_letters[event.schema, event.table] += 1
                log.warning("event quarantined", id=event.id, reason=reason)
            for each in instead:
                self._hand_over(each, rejection.ticket)
            self._rejections.popleft()
            rejection.ticket.acknowledge(rejection.event.size)
            self._sink.replaced(rejection)
            # Of what has just been sent: in its place.
            self._rejections.extendleft(reversed(self._sink.rejected()))

    def _hold_back(self, event: Event) -> None:
        """Wait until the limits let it go; but never between the events of one change, which stay together."""
        table = (event.schema, event.table)
        began = now = time.monotonic()
        if event.order != self._paced:
            self._paced = event.order
            while (seconds := self.pace.wait_seconds(table, now)) > 0:
                if self._stop.requested:
                    raise Stopping
                self._wait(seconds)
                self.bury_rejections()
                now = time.monotonic()
            if now > began and self.pace.waited(now - began, now):
                log.info("held back by limits", table=f"{event.schema}.{event.table}")
            self._health.held_back_seconds = self.pace.waited_seconds
        self.pace.spend(table, now)

    def _hand_over(self, event: Event, ticket: Ticket) -> None:
        while not self._sink.send(event, ticket):
            self._let_work()

    def _let_work(self) -> None:
        if self._stop.requested_for(DRAIN_SECONDS):
            raise Stopping
        self._tick(FULL_SECONDS)
