"""Which messages a RabbitMQ channel has not confirmed yet. Pure: no I/O, no clock.

A channel in confirm mode numbers what is published on it from 1. The broker confirms a number, or all up to it
(``multiple``), in any order. What it can route nowhere it first returns, then confirms.
"""

from collections import OrderedDict
from collections.abc import Iterable

from bridge.checkpoint import Ticket
from bridge.event import Event


class Outgoing:
    """An event on its way, until the broker has confirmed it."""

    __slots__ = ("event", "number", "parked", "refused_at", "returned", "ticket", "waited_seconds")

    def __init__(self, event: Event, ticket: Ticket, number: int) -> None:
        self.event = event
        self.ticket = ticket
        self.number = number
        """Its place among all that was sent: what goes again goes in this order."""
        self.parked = False
        """It goes to the queue of unroutable messages."""
        self.returned: str | None = None
        """Why the broker sent it back."""
        self.refused_at: float | None = None
        """When the broker refused it last."""
        self.waited_seconds = 0.0
        """How long it has waited since the broker refused it first, without the times of no connection."""


class Window:
    def __init__(self, messages: int, size_bytes: int) -> None:
        """`messages`, `size_bytes`: how much may be unconfirmed at a time. One message may be larger."""
        self._messages = messages
        self._size_limit = size_bytes
        self._out: OrderedDict[int, Outgoing] = OrderedDict()
        self._bytes = 0
        self._published = 0

    @property
    def is_full(self) -> bool:
        return len(self._out) >= self._messages or self._bytes >= self._size_limit

    @property
    def is_empty(self) -> bool:
        return not self._out

    def add(self, message: Outgoing) -> None:
        """It has been published."""
        self._published += 1
        self._bytes += message.event.size
        self._out[self._published] = message

    def settle(self, delivery_tag: int, *, multiple: bool) -> list[Outgoing]:
        """What a confirm (or a refusal) is about, oldest first."""
        if not multiple:
            tags: Iterable[int] = (delivery_tag,)
        elif delivery_tag == 0:
            tags = tuple(self._out)
        else:
            tags = tuple(self._up_to(delivery_tag))
        settled = [message for tag in tags if (message := self._out.pop(tag, None)) is not None]
        for message in settled:
            self._bytes -= message.event.size
        return settled

    def mark_returned(self, event_id: str, reason: str, *, parked: bool) -> bool:
        """The broker sent a message back, and will confirm it next. Returns come in the order of publishing.

        An id may be on its way twice, once to its exchange and once, `parked`, to the queue of unroutable messages.
        """
        for message in self._out.values():
            if message.event.id == event_id and message.parked is parked and message.returned is None:
                message.returned = reason
                return True
        return False

    def take_with_body_of(self, size: int) -> Outgoing | None:
        """The oldest message whose body has so many bytes, which is not waited for any more."""
        for tag, message in self._out.items():
            if len(message.event.value) == size:
                self.settle(tag, multiple=False)
                return message
        return None

    def lose(self) -> list[Outgoing]:
        """The channel is gone: all that was unconfirmed, oldest first. The next channel counts from 1 again."""
        lost = list(self._out.values())
        for message in lost:
            message.returned = None
        self._out.clear()
        self._bytes = self._published = 0
        return lost

    def _up_to(self, delivery_tag: int) -> Iterable[int]:
        for tag in self._out:
            if tag > delivery_tag:
                return
            yield tag
