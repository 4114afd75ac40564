"""Dead letters in their RabbitMQ queue. A queue can be looked at only by taking its messages: until they are
acknowledged they are the broker's, which puts them back when this connection ends, however it ends.

A quorum queue drops what was put back too often (x-delivery-limit; 20 by default in RabbitMQ 4): what had been put back
before is therefore published anew, then acknowledged.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError, UnroutableError

from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.errors import SinkRefused, SinkUnreachable
from bridge.naming import Destinations
from bridge.sinks.letters import Letters, Stored
from bridge.sinks.rabbitmq_link import blocking, connection_refusal, parameters, place_of, told
from bridge.sinks.rabbitmq_topology import ACCESS_REFUSED, NOT_FOUND

_HEARTBEAT_SECONDS: Final = 600
_PUT_BACK: Final = "x-delivery-count"
"""The header in which a quorum queue counts."""


class _Taken(msgspec.Struct, frozen=True):
    tag: int
    properties: pika.BasicProperties

    @property
    def key(self) -> str:
        return str((self.properties.headers or {}).get("id"))


class RabbitMQLetters(Letters):
    def __init__(self, config: RabbitMQConfig) -> None:
        """Raises ConfigError for settings that cannot be."""
        self._parameters = parameters(config.url)
        if self._parameters.heartbeat is None:  # somebody may have to think before saying yes
            self._parameters.heartbeat = _HEARTBEAT_SECONDS
        names = Destinations("sink.rabbitmq.exchange", config.exchange, config.prefix, {}, kafka=False)
        self._queue = names.dead_letters
        self.place = f"queue {self._queue}"
        self._connection: Any = None
        self._channel: Any = None
        self._taken: dict[int, tuple[_Taken, bytes]] = {}
        """By delivery tag: what is not acknowledged."""

    def read(self) -> list[Stored]:
        with self._translated():
            for _ in range(self._ready()):
                method, properties, body = self._channel.basic_get(self._queue)
                if method is None:
                    break
                self._taken[method.delivery_tag] = (_Taken(method.delivery_tag, properties), body)
        found: dict[tuple[str, bytes], Stored] = {}
        for taken, body in self._taken.values():
            found.setdefault((taken.key, body), Stored(body, [])).messages.append(taken)
        return list(found.values())

    def count(self) -> int:
        with self._translated():
            return self._ready()

    def settle(self, outcomes: Sequence[tuple[Stored, bytes | None]]) -> list[Stored]:
        with self._translated():
            for stored, instead in outcomes:
                if instead is not None:
                    self._publish(instead, stored.messages[-1].properties)
                for taken in stored.messages:
                    self._acknowledge(taken)
            if outcomes:  # answered when what was said before on the channel is done
                self._channel.queue_declare(self._queue, passive=True)
        return []

    def keep_alive(self) -> None:
        if self._connection is not None:
            with self._translated():
                self._connection.process_data_events(0)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # What goes wrong here, the broker makes good: it puts back what was not acknowledged.
        with contextlib.suppress(AMQPError, OSError):
            for taken, body in list(self._taken.values()):
                if (taken.properties.headers or {}).get(_PUT_BACK):
                    self._publish(body, taken.properties)
                    self._acknowledge(taken)
        with contextlib.suppress(AMQPError, OSError):
            connection.close()

    def _ready(self) -> int:
        """How many messages are there and nobody else's; 0 where there is no queue."""
        if self._connection is None:
            self._connection = blocking(self._parameters)
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        try:
            return int(self._channel.queue_declare(self._queue, passive=True).method.message_count)
        except ChannelClosedByBroker as error:
            if error.reply_code != NOT_FOUND:
                raise
            return 0

    def _publish(self, body: bytes, properties: pika.BasicProperties) -> None:
        """Returns when the broker has confirmed it."""
        headers = {name: value for name, value in (properties.headers or {}).items() if name != _PUT_BACK}
        again = pika.BasicProperties(**{**vars(properties), "headers": headers, "delivery_mode": 2})
        self._channel.basic_publish("", self._queue, body, again, mandatory=True)

    def _acknowledge(self, taken: _Taken) -> None:
        self._channel.basic_ack(taken.tag)
        del self._taken[taken.tag]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        place = place_of(self._parameters)
        try:
            yield
        except (NackError, UnroutableError) as error:
            raise SinkRefused(
                f"RabbitMQ at {place} does not take a dead letter for {self.place}: it is full, or gone. The letter stays. What"
                " to do: see the queue's limits; then again, which sends its events under the same ids"
            ) from error
        except (AMQPError, OSError) as error:
            code, text = told(error)
            if isinstance(error, ChannelClosedByBroker):
                code, text = error.reply_code, error.reply_text
                what = (
                    "grant the login the read permission on it, and write on amq.default"
                    if code == ACCESS_REFUSED
                    else "see the broker's log; letters that were not done with stay in the queue"
                )
                raise SinkRefused(f"RabbitMQ at {place} refuses {self.place}: {text}. What to do: {what}") from error
            raise connection_refusal(place, code, text) or SinkUnreachable(
                f"RabbitMQ at {place} cannot be reached, or the connection was lost: {text}. Letters that were not done with"
                " stay in the queue. What to do: check sink.rabbitmq.url (amqps:// for a port with TLS), and that the"
                " broker runs"
            ) from error
