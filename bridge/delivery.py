"""Events to a sink outside of the stream: sent, and waited for until the broker has acknowledged them all."""

from bridge.checkpoint import InFlight, Ticket
from bridge.event import Event
from bridge.parts import smaller
from bridge.sinks.base import Rejection, Sink

_POLL_SECONDS = 0.02


class Delivery:
    """A sink that is open. What stands or falls together has a ticket of its own."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._in_flight = InFlight()
        self._rejections: list[Rejection] = []
        self.refused: dict[Ticket, str] = {}
        """Of which events the sink takes one never, not even smaller, and why."""

    def ticket(self) -> Ticket:
        return Ticket(self._in_flight)

    def send(self, event: Event, ticket: Ticket) -> None:
        """Blocks while the sink is full, or the broker is away. Raises SinkRefused."""
        while not self._sink.send(event, ticket):
            self.poll(_POLL_SECONDS)
        self._rejections.extend(self._sink.rejected())

    def wait(self) -> None:
        """Until everything is acknowledged, or refused. Raises SinkRefused."""
        while self._in_flight.events:
            self.poll(_POLL_SECONDS)
            self._replace_rejected()

    def poll(self, seconds: float = 0.0) -> None:
        self._rejections.extend(self._sink.poll(seconds))

    def _replace_rejected(self) -> None:
        while self._rejections:
            rejection = self._rejections.pop(0)
            instead = smaller(rejection.event, rejection.share) if rejection.too_large else None
            if instead is None:
                self.refused[rejection.ticket] = rejection.reason
            for each in instead or ():
                self.send(each, rejection.ticket)
            rejection.ticket.acknowledge(rejection.event.size)
            self._sink.replaced(rejection)
