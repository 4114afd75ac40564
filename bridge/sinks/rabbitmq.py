"""Events to RabbitMQ, one durable topic exchange per table.

Every message is persistent, mandatory and confirmed; many are unconfirmed at a time. What is unconfirmed when the
connection is lost goes again, in order, before anything new.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pika
import structlog
from pika.spec import Basic

from bridge.change import INSERT
from bridge.checkpoint import Ticket
from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.errors import BridgeError, NameRefused, SinkRefused, SinkUnreachable
from bridge.event import Event
from bridge.naming import AMQP_NAME_BYTES, Destinations, RoutingKeys
from bridge.sinks import rabbitmq_topology as topology
from bridge.sinks.base import Rejection, Sink
from bridge.sinks.rabbitmq_link import Link, parameters
from bridge.sinks.rabbitmq_refusals import REFUSED_MESSAGES, REFUSED_SECONDS, Refusals
from bridge.sinks.rabbitmq_sizes import Sizes
from bridge.sinks.rabbitmq_window import Outgoing, Window

log = structlog.get_logger()

OPEN_SECONDS: Final = 10.0
UNCONFIRMED_MESSAGES, UNCONFIRMED_BYTES = 2000, 8 << 20
_DEFAULT_EXCHANGE: Final = ""
_TELL_AGAIN_SECONDS: Final = 60.0


class _Tale:
    """How many messages of an exchange reached no queue since that was last logged."""

    count = 0
    not_before = 0.0


class RabbitMQSink(Sink):
    def __init__(self, config: RabbitMQConfig) -> None:
        """Raises ConfigError for settings that cannot be. Connects to nothing yet."""
        self._destinations = Destinations("sink.rabbitmq.exchange", config.exchange, config.prefix, {}, kafka=False)
        self._keys = RoutingKeys("sink.rabbitmq.routing_key", config.routing_key)
        self._by_subscription = config.route_by == "subscription"
        self._sizes = Sizes(by_subscription=self._by_subscription)
        self._unroutable = config.unroutable
        self._unrouted = f"{config.prefix}unrouted"
        self._topology = topology.Topology()
        self._want_configured(config)
        self._link = Link(
            parameters(config.url),
            self._topology,
            on_confirm=self._on_confirm,
            on_return=self._on_return,
            on_lost=self._on_lost,
        )
        self._window = Window(UNCONFIRMED_MESSAGES, UNCONFIRMED_BYTES)
        self._again: list[Outgoing] = []
        """What is to be published again, before anything new."""
        self._refusals = Refusals(REFUSED_SECONDS, REFUSED_MESSAGES)
        self._exchanges: dict[tuple[str, str], str] = {}
        self._sent = 0
        self._tales: dict[str, _Tale] = {}
        self._rejections: list[Rejection] = []
        self._failure: BridgeError | None = None
        self._is_open = self._is_closed = False

    def open(self, tables: Iterable[tuple[str, str]]) -> list[NameRefused]:
        wanted, refused = self._destinations.of_all(tables)
        for table, exchange in wanted.items():
            try:
                self._keys.of(*table, INSERT)  # the types' names are equally long
            except NameRefused as error:
                refused.append(error)
            else:
                self._want_exchange(table, exchange)
        end = time.monotonic() + OPEN_SECONDS
        while self._link.channel is None:
            self._link.step(0.1)
            self._raise_failure()
            if time.monotonic() > end:
                raise self._unreachable()
        self._is_open = True
        return refused

    def send(self, event: Event, ticket: Ticket) -> bool:
        self._raise_failure()
        table = (event.schema, event.table)
        if not event.dead_letter and table not in self._exchanges:
            try:
                self._keys.of(*table, event.kind)
                self._want_exchange(table, self._destinations.of(*table))
            except NameRefused as error:
                ticket.sent(event.size)
                self._rejections.append(Rejection(event, ticket, str(error), too_large=False))
                return True
            return False
        channel = self._link.channel
        if channel is None or self._again or self._window.is_full or self._refusals.is_full:
            return False
        properties = self._properties(event)
        ticket.sent(event.size)
        if (rejection := self._sizes.refuse(event, ticket, properties, self._link.frame_bytes)) is not None:
            self._rejections.append(rejection)
            return True
        self._sent += 1
        self._publish(channel, Outgoing(event, ticket, self._sent), properties)
        return True

    def poll(self, timeout_seconds: float) -> Sequence[Rejection]:
        if not self._is_open:
            return ()
        self._link.step(timeout_seconds)
        self._publish_again()
        self._raise_failure()
        return self.rejected()

    def rejected(self) -> Sequence[Rejection]:
        if not self._rejections:
            return ()
        rejections, self._rejections = self._rejections, []
        return rejections

    def fileno(self) -> int | None:
        return self._link.loop.fileno() if self._is_open else None

    def close(self) -> None:
        if not self._is_closed:
            self._is_open, self._is_closed = False, True
            self._link.close()

    # -- where to -------------------------------------------------------------------------------------------------

    def _want_configured(self, config: RabbitMQConfig) -> None:
        self._topology.want(topology.queue(self._destinations.dead_letters))
        if self._unroutable == "park":
            self._topology.want(topology.queue(self._unrouted))
        for queue in config.queues:
            self._topology.want(topology.queue(queue.name))
            for exchange, pattern in queue.bindings.items():
                self._topology.want(topology.exchange_as_found(exchange))
                self._topology.want(topology.binding(queue.name, exchange, pattern))

    def _want_exchange(self, table: tuple[str, str], exchange: str) -> None:
        self._topology.want(topology.exchange(exchange))
        self._exchanges[table] = exchange

    def _address(self, message: Outgoing) -> tuple[str, str]:
        """Exchange and routing key. The default exchange takes a queue's name for a key."""
        event = message.event
        if message.parked:
            return _DEFAULT_EXCHANGE, self._unrouted
        if event.dead_letter:
            return _DEFAULT_EXCHANGE, self._destinations.dead_letters
        return self._exchanges[event.schema, event.table], self._keys.of(event.schema, event.table, event.kind)

    # -- publishing -----------------------------------------------------------------------------------------------

    def _properties(self, event: Event, *, parked: bool = False) -> pika.BasicProperties:
        headers: dict[str, Any] = dict(event.headers)
        # Further keys would count for the default exchange too: as names of queues that are nobody's.
        if self._by_subscription and event.subscription_ids and not parked:
            headers["CC"] = list(event.subscription_ids)
        return pika.BasicProperties(
            content_type="application/json",
            headers=headers,
            delivery_mode=2,
            # Names of many bytes make an id that the property cannot hold; the header always does.
            message_id=event.id if len(event.id) <= AMQP_NAME_BYTES else None,
            timestamp=event.commit_seconds,
            type=event.kind,
            app_id="walrus-bridge",
        )

    def _publish(self, channel: Any, message: Outgoing, properties: pika.BasicProperties) -> None:
        exchange, key = self._address(message)
        channel.basic_publish(exchange, key, message.event.value, properties, mandatory=True)
        self._window.add(message)

    def _publish_again(self) -> None:
        channel = self._link.channel
        if channel is None or self._window.is_full:
            return
        if self._again:
            self._again.sort(key=lambda message: message.number)
            self._again = self._publish_all(channel, self._again)
        elif due := self._refusals.due(time.monotonic()):
            self._refusals.keep(self._publish_all(channel, due))

    def _publish_all(self, channel: Any, messages: list[Outgoing]) -> list[Outgoing]:
        """Those that there is no room for now are given back."""
        for number, message in enumerate(messages):
            if self._window.is_full:
                return messages[number:]
            self._publish(channel, message, self._properties(message.event, parked=message.parked))
        return []

    # -- what the broker says: callbacks record, `send` and `poll` raise -------------------------------------------

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        settled = self._window.settle(method.delivery_tag, multiple=method.multiple)
        if isinstance(method, Basic.Nack):
            self._refused(settled)
            return
        self._link.works()
        for message in settled:
            self._refusals.taken(message)
            if message.returned is None:
                message.ticket.acknowledge(message.event.size)
            else:
                self._came_back(message)

    def _refused(self, messages: list[Outgoing]) -> None:
        now = time.monotonic()
        for message in messages:
            message.returned = None
            if not self._refusals.add(message, now):
                exchange, key = self._address(message)
                where = f"exchange {exchange} with routing key {key}" if exchange else f"queue {key}"
                reason = f"RabbitMQ has refused it for {REFUSED_SECONDS:.0f} s for {where}, as where a queue is full"
                self._rejections.append(Rejection(message.event, message.ticket, reason, too_large=False))
        if self._refusals and (pause := self._refusals.pause(now)) is not None:
            log.warning("rabbitmq refuses messages", waiting=len(self._refusals), pause_seconds=round(pause, 2))

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        """Comes before the confirm of the same message."""
        headers = properties.headers or {}
        parked = (method.exchange, method.routing_key) == (_DEFAULT_EXCHANGE, self._unrouted)
        self._window.mark_returned(str(headers.get("id")), method.reply_text, parked=parked)

    def _came_back(self, message: Outgoing) -> None:
        reason, message.returned = message.returned, None
        event = message.event
        exchange, key = self._address(message)
        if not exchange:
            # Our own queue is gone: it is declared again, and the message goes there again.
            self._topology.forget()
            self._again.append(message)
        elif self._unroutable == "stop":
            self._failure = self._failure or SinkRefused(
                f"event {event.id} reached no queue: none is bound to exchange {exchange} for routing key {key}"
                f" ({reason}). The position is unmoved. What to do: bind a queue, or let sink.rabbitmq.unroutable be park"
                " or drop"
            )
        elif self._unroutable == "park":
            self._tell("events reach no queue, and are parked", exchange=exchange, parked_in=self._unrouted)
            message.parked = True
            self._again.append(message)
        else:
            self._tell("events reach no queue, and are dropped", exchange=exchange)
            message.ticket.acknowledge(event.size)

    def _on_lost(self, _code: int, text: str) -> None:
        """The channel is gone, for instance because the broker takes no message of that size."""
        if (size := self._sizes.told(text)) and (message := self._window.take_with_body_of(size)) is not None:
            self._rejections.append(self._sizes.refuse_body(message.event, message.ticket))
        for message in self._window.lose():
            if self._sizes.is_divisible(message.event):
                # Published before the limit was known: it would only close the channel again.
                self._rejections.append(self._sizes.refuse_body(message.event, message.ticket))
            else:
                self._again.append(message)

    def _tell(self, what: str, exchange: str, **more: str) -> None:
        """Log it with its number since the last time, but not for each message of an exchange."""
        tale = self._tales.setdefault(exchange, _Tale())
        tale.count += 1
        now = time.monotonic()
        if tale.not_before <= now:
            log.warning(what, exchange=exchange, count=tale.count, **more)
            tale.count, tale.not_before = 0, now + _TELL_AGAIN_SECONDS

    def _raise_failure(self) -> None:
        if failure := self._failure or self._link.failure:
            raise failure

    def _unreachable(self) -> SinkUnreachable:
        if self._link.is_connected:
            return SinkUnreachable(
                f"RabbitMQ at {self._link.place} did not declare {self._topology.missing} within {OPEN_SECONDS:.0f} s."
                " What to do: see whether the broker has an alarm or waits for its cluster"
            )
        return SinkUnreachable(
            f"RabbitMQ at {self._link.place} cannot be reached within {OPEN_SECONDS:.0f} s: {self._link.trouble or 'no answer'}."
            " What to do: check sink.rabbitmq.url (amqps:// for a port with TLS), and that the broker runs"
        )
