"""What RabbitMQ takes: how large a message's body may be, and its frame of headers. Pure.

The frame's limit is agreed upon with the connection. The body's (max_message_size) is told only when the broker closes the
channel over a larger one.
"""

import re
from typing import Final

import pika
from pika.frame import Header

from bridge.checkpoint import Ticket
from bridge.event import Event
from bridge.parts import room
from bridge.sinks.base import Rejection

_PROPERTIES_BYTES: Final = 1024
"""More than the properties take without the headers and the id."""
_BESIDE_ID_BYTES: Final = 3
"""In a message's body: quotes and a comma."""
_BESIDE_KEY_BYTES: Final = 5
"""In the CC header: the value's type and length."""
_TOLD: Final = re.compile(r"message size (\d+) is larger than (?:configured )?max size (\d+)")


class Sizes:
    def __init__(self, *, by_subscription: bool) -> None:
        """`by_subscription`: the headers have a routing key for each subscription."""
        self._by_subscription = by_subscription
        self._body_limit: int | None = None

    def told(self, text: str) -> int | None:
        """Why the channel was closed: if over a body's size, that size; the limit is known from then on."""
        found = _TOLD.search(text)
        if found is None:
            return None
        self._body_limit = int(found[2])
        return int(found[1])

    def refuse(
        self, event: Event, ticket: Ticket, properties: pika.BasicProperties, frame_limit: int
    ) -> Rejection | None:
        """What is known to be too large. A body that cannot go in parts is none: the broker, whose limit may have been
        raised, is asked."""
        if (size := self._header_bytes(event, properties, frame_limit)) > frame_limit:
            share = room(event, size, frame_limit, _BESIDE_KEY_BYTES) if self._by_subscription else 0
            body = self._body_share(event)
            share = share if body is None else min(share, body)
            reason = f"with headers of {size} bytes, more than RabbitMQ's frame_max of {frame_limit}"
            return Rejection(event, ticket, reason, too_large=share > 0, share=share)
        return self.refuse_body(event, ticket) if self.is_divisible(event) else None

    def is_divisible(self, event: Event) -> bool:
        """Whether its body is known to be too large, and would not be in parts."""
        return bool(self._body_share(event))

    def refuse_body(self, event: Event, ticket: Ticket) -> Rejection:
        reason = f"of {len(event.value)} bytes, larger than RabbitMQ takes (max_message_size)"
        return Rejection(event, ticket, reason, too_large=True, share=self._body_share(event))

    def _body_share(self, event: Event) -> int | None:
        """Of how many subscriptions a body holds the ids; None: it should not be too large."""
        size, limit = len(event.value), self._body_limit
        return None if limit is None or size <= limit else room(event, size, limit, _BESIDE_ID_BYTES)

    def _header_bytes(self, event: Event, properties: pika.BasicProperties, limit: int) -> int:
        """The size of the frame of properties and headers: exact where it may be over the limit, else not below it."""
        text = sum(len(name) + len(value) + 8 for name, value in event.headers) + len(event.id)
        if self._by_subscription:
            text += sum(len(each) + 8 for each in event.subscription_ids)
        most = _PROPERTIES_BYTES + 4 * text
        return most if most <= limit else len(Header(1, len(event.value), properties).marshal())
