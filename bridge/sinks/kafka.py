"""Events to Kafka topics, one per table.

The producer is idempotent, waits for all in-sync replicas, and never gives up on a message by time, so an error in a
delivery report is final. One callback a message: that the last one has arrived says nothing of other partitions.
While the brokers are away librdkafka reconnects by itself and sends again what they have not acknowledged.
"""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from bridge.checkpoint import Ticket
from bridge.config import CreateTopics
from bridge.config import Kafka as KafkaConfig
from bridge.errors import BridgeError, NameRefused, SinkRefused
from bridge.event import Event
from bridge.naming import Destinations
from bridge.parts import room
from bridge.sinks.base import Rejection, Sink
from bridge.sinks.kafka_log import LibraryLog
from bridge.sinks.kafka_settings import (
    LARGEST_BATCH_BYTES,
    admin_settings,
    bootstrap_servers,
    compresses,
    largest_message_bytes,
    producer_settings,
)
from bridge.sinks.kafka_topics import Topics

log = structlog.get_logger()

BATCH_OVERHEAD_BYTES: Final = 512
"""More than what Kafka's format adds to one message and its headers."""

_BESIDE_ID_BYTES: Final = 3
"""Quotes and a comma."""

_HEADERS_AT_MOST_BYTES: Final = 128 << 10
"""More than the headers of an event can have, the names of 1,600 unchanged columns among them."""

SAY_AGAIN_SECONDS: Final = 5.0
"""The same trouble with connections is logged once in so long."""

FORBIDDEN: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
GONE: Final = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._DESTROY,  # what still waits for a partition that is not there any more
}


class KafkaSink(Sink):
    def __init__(self, config: KafkaConfig) -> None:
        """Raises ConfigError for settings that cannot be. Connects to nothing yet."""
        self._settings = producer_settings(config.client)
        self._servers = bootstrap_servers(config.client)
        self._create = CreateTopics() if config.create_topics is True else config.create_topics or None
        self._destinations = Destinations("sink.kafka.topic", config.topic, config.prefix, config.topics, kafka=True)
        self._batch_bytes = LARGEST_BATCH_BYTES
        self._compresses = compresses(self._settings)
        self._largest_bytes = largest_message_bytes(self._settings)
        self._own_topics: dict[str, dict[str, str]] = {}
        """Topics of one partition besides, each with the configuration that it is made with."""
        self._routes: dict[tuple[str, str], str] = {}
        """The topics of tables that are known to be there."""
        self._rejections: list[Rejection] = []
        self._failure: BridgeError | None = None
        self._say_again_at: dict[int, float] = {}
        self._producer: Producer | None = None
        self._topics: Topics | None = None

    def open(self, tables: Iterable[tuple[str, str]]) -> list[NameRefused]:
        wanted, refused = self._destinations.of_all(tables)
        names = list(dict.fromkeys([self._destinations.dead_letters, *self._own_topics, *wanted.values()]))
        letters = self._destinations.dead_letters
        self._topics = Topics(admin_settings(self._settings), self._servers, self._create, self._own_topics, letters)
        self._topics.open(names)
        # A batch never larger than what a topic takes: so a message that is refused as too large was alone, and the
        # others of its batch were not refused with it.
        self._batch_bytes = min(LARGEST_BATCH_BYTES, self._topics.smallest_limit or LARGEST_BATCH_BYTES)
        settings = {"batch.size": self._batch_bytes, **self._settings}
        self._batch_bytes = int(settings["batch.size"])
        self._settings = settings
        self._routes = wanted
        self._produce_anew()
        return refused

    def advice(self) -> Sequence[tuple[str, str]]:
        return [self._topics.advice] if self._topics is not None and self._topics.advice else []

    def send(self, event: Event, ticket: Ticket) -> bool:
        try:
            producer, topic = self._producer, self._topic(event)
        except NameRefused as error:
            return self._reject(event, ticket, str(error))
        if producer is None or topic is None:
            return False
        if self._topics is not None and self._topics.lost:
            self._refuse_if_lost(topic)
        if self._failure is not None:
            raise self._failure
        if self._is_too_large(event, topic):
            self._too_large(event, ticket, f"larger than topic {topic} takes (max.message.bytes)")
            ticket.sent(event.size)
            return True
        if event.key is None and self._topics is not None and self._topics.is_compacted(topic):
            # Kafka would refuse its whole batch, and say it of each event.
            reason = f"has no key, and topic {topic} is compacted (cleanup.policy), so Kafka takes only events with one"
            return self._reject(event, ticket, reason)
        headers: Any = event.headers  # confluent-kafka's own type is invariant
        try:
            producer.produce(
                topic, event.value, event.key, on_delivery=partial(self._delivered, event, ticket), headers=headers
            )
        except BufferError:
            return False
        except KafkaException as error:
            ticket.sent(event.size)
            self._undelivered(error.args[0], event, ticket, alone=True)
            return True
        ticket.sent(event.size)
        return True

    def poll(self, timeout_seconds: float) -> Sequence[Rejection]:
        if self._producer is None or self._topics is None:
            return ()
        self._topics.poll()
        try:
            self._producer.poll(timeout_seconds)
        except KafkaException as error:  # a fatal one
            self._on_error(error.args[0])
        if self._failure is not None:
            raise self._failure
        return self.rejected()

    def rejected(self) -> Sequence[Rejection]:
        if not self._rejections:
            return ()
        rejections, self._rejections = self._rejections, []
        return rejections

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        """What was not acknowledged is dropped here, and comes again from the slot."""
        if self._producer is not None:
            self._producer.purge(blocking=False)
        self._producer = self._topics = None

    def _refuse_if_lost(self, topic: str) -> None:
        if self._topics is not None and (why := self._topics.lost.get(topic)):
            raise SinkRefused(f"{why}. The position is unmoved")

    def _produce_anew(self) -> None:
        callbacks: dict[str, Any] = {"error_cb": self._on_error, "logger": LibraryLog("producer")}
        self._producer = Producer(self._settings | callbacks)

    def _is_too_large(self, event: Event, topic: str) -> bool:
        """Whether it is known that the topic does not take it. The broker knows best (a limit may have been raised, and
        is one of what is compressed), so that it is asked; unless the event can go in parts, which does no harm, and
        keeps its place so."""
        return not self._compresses and bool(self._share(event, topic))

    def _share(self, event: Event, topic: str | None) -> int | None:
        """Of how many of its subscriptions one message holds the ids; None: it should not be too large."""
        limit = self._largest_bytes
        if topic is not None and self._topics is not None:
            limit = min(limit, self._topics.limit(topic) or limit)
        if event.size + _HEADERS_AT_MOST_BYTES < limit:
            return None
        size = message_bytes(event) + BATCH_OVERHEAD_BYTES
        return room(event, size, limit, _BESIDE_ID_BYTES) if size > limit else None

    def _reject(self, event: Event, ticket: Ticket, reason: str) -> bool:
        ticket.sent(event.size)
        self._rejections.append(Rejection(event, ticket, reason, too_large=False))
        return True

    def _too_large(self, event: Event, ticket: Ticket, reason: str) -> None:
        told = f"of {message_bytes(event)} bytes, {reason}"
        self._rejections.append(
            Rejection(event, ticket, told, too_large=True, share=self._share(event, self._topic(event)))
        )

    def _topic(self, event: Event) -> str | None:
        """None while it is not known to be there."""
        if event.dead_letter:
            return self._destinations.dead_letters
        table = (event.schema, event.table)
        topic = self._routes.get(table)
        if topic is None and self._topics is not None:
            name = self._destinations.of(*table)
            if self._topics.are_there(name):
                topic = self._routes[table] = name
        return topic

    # -- callbacks: they record, `send` and `poll` raise -----------------------------------------------------------

    def _delivered(self, event: Event, ticket: Ticket, error: KafkaError | None, _message: object) -> None:
        if error is None:
            ticket.acknowledge(event.size)
        else:
            self._undelivered(error, event, ticket, alone=False)

    def _undelivered(self, error: KafkaError, event: Event, ticket: Ticket, *, alone: bool) -> None:
        """`alone`: the error is of this event, not of the batch that it was in."""
        code = error.code()
        if code == KafkaError.MSG_SIZE_TOO_LARGE and (alone or self._was_alone(event)):
            self._too_large(event, ticket, f"larger than Kafka takes (message.max.bytes): {error.str()}")
        elif self._failure is None:
            self._failure = self._refusal(error, event)

    def _was_alone(self, event: Event) -> bool:
        """Whether it had a batch of its own: nothing joins a message that fills one by itself."""
        return message_bytes(event) + BATCH_OVERHEAD_BYTES >= self._batch_bytes

    def _on_error(self, error: KafkaError) -> None:
        if not error.fatal():
            self._on_trouble(error)
        elif self._failure is None:
            told = f"{error.str()} ({error.name()}). The position is unmoved. What to do:"
            if error.code() == KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER:
                self._failure = SinkRefused(f"Kafka has lost events that it had acknowledged: {told} {_FIND_OUT}")
            else:
                what = _CLUSTER_RIGHTS if error.code() in FORBIDDEN else _START_AGAIN
                self._failure = SinkRefused(f"Kafka's producer cannot go on: {told} {what}")

    def _on_trouble(self, error: KafkaError) -> None:
        """A connection's, which is made again; many times a second while a broker refuses it."""
        if self._topics is not None:
            self._topics.look_soon()
        now = time.monotonic()
        if now >= self._say_again_at.get(error.code(), 0.0):
            self._say_again_at[error.code()] = now + SAY_AGAIN_SECONDS
            log.warning("kafka connection", reason=error.str(), code=error.name())

    def _refusal(self, error: KafkaError, event: Event) -> SinkRefused:
        topic = self._topic(event)
        if error.code() in GONE:
            what = "start the bridge again, which creates it as configured; its earlier events are gone with it"
            return SinkRefused(f"topic {topic} is not there any more: {error.str()}. What to do: {what}")
        if error.code() in FORBIDDEN:
            what = "grant the login Write on the topic, then start again"
        elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            what = (
                "a batch was larger than the topic's max.message.bytes: start again, and the bridge makes smaller ones;"
                " where its login may not describe the topic's configuration, set sink.kafka.client.batch.size to less"
            )
        elif error.code() == KafkaError.INVALID_RECORD:
            what = (
                "a topic that is compacted takes no event without a key, and refuses others with it: start again, and the"
                " bridge keeps such events from it; where its login may not describe the topic's configuration, grant"
                " it DescribeConfigs"
            )
        else:
            what = _START_AGAIN
        return SinkRefused(
            f"Kafka does not take events for topic {topic}: {error.str()} ({error.name()}). The position is unmoved."
            f" What to do: {what}"
        )


_START_AGAIN: Final = "mend the cause and start again; what was not acknowledged comes again"
_FIND_OUT: Final = (
    "find out how (a power cut, an unclean leader election) and what its consumers need; start again, and the bridge goes"
    " on with what was not acknowledged"
)
_CLUSTER_RIGHTS: Final = "grant the login Write on its topics (before Kafka 3.0, IdempotentWrite on the cluster too)"


def message_bytes(event: Event) -> int:
    return event.size + sum(len(name) + len(value) for name, value in event.headers)
