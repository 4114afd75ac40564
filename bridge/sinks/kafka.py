"""Events to Kafka topics, one per table.

The producer is idempotent and waits for all in-sync replicas; it never gives up on a message by time
(``message.timeout.ms`` 0), so an error in a delivery report is final. One callback a message: "the last one has
arrived" says nothing of the other partitions.
"""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bridge.checkpoint import Ticket
from bridge.config import CreateTopics
from bridge.config import Kafka as KafkaConfig
from bridge.errors import BridgeError, ConfigError, SinkRefused, SinkUnreachable
from bridge.event import Event
from bridge.naming import Destinations
from bridge.sinks.base import Rejection

log = structlog.get_logger()

OPEN_SECONDS = 10.0

DEFAULTS: Final[dict[str, Any]] = {
    "client.id": "walrus-bridge",
    "linger.ms": 5,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 500_000,
    "socket.keepalive.enable": True,
}
"""The user's `client` settings win over these."""

FIXED: Final[dict[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    "message.timeout.ms": 0,
    "partitioner": "murmur2_random",
    "allow.auto.create.topics": False,
}
"""What the delivery promise and the wire contract rest on."""

REFUSED: Final[dict[str, str]] = {
    **{
        name: "every event is acknowledged by all in-sync replicas"
        for name in ("acks", "request.required.acks", "enable.idempotence", "enable.gapless.guarantee")
    },
    **{
        name: "an event is tried for as long as it takes"
        for name in (
            "message.timeout.ms",
            "delivery.timeout.ms",
            "retries",
            "message.send.max.retries",
            "request.timeout.ms",
        )
    },
    **{
        name: "rows keep their partition as with the Java clients' partitioner"
        for name in ("partitioner", "sticky.partitioning.linger.ms")
    },
    "max.in.flight.requests.per.connection": "idempotence decides it",
    "max.in.flight": "idempotence decides it",
    "transactional.id": "transactions are the bridge's own",
    "allow.auto.create.topics": "topics are made as sink.kafka.create_topics says",
    "delivery.report.only.error": "each acknowledgement counts",
    "queuing.strategy": "order is kept",
}

# What delivery reports and topic creation say of a message or topic that can never be, whatever one waits for.
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD}
_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}  # noqa: SLF001
_EXISTS = KafkaError.TOPIC_ALREADY_EXISTS
_HOPELESS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_CONFIG,
}


class KafkaSink:
    def __init__(self, config: KafkaConfig) -> None:
        """Raises ConfigError for settings that cannot be."""
        self._settings = producer_settings(config.client)
        self._servers = str(config.client.get("bootstrap.servers", ""))
        self._create = config.create_topics if isinstance(config.create_topics, CreateTopics) else None
        if config.create_topics is True:
            self._create = CreateTopics()
        self._destinations = Destinations("sink.kafka.topic", config.topic, config.prefix, config.topics, kafka=True)
        self._ready: set[str] = set()
        self._making: dict[str, Future[Any]] = {}
        self._rejections: list[Rejection] = []
        self._failure: BridgeError | None = None
        self._producer: Producer | None = None
        self._admin: AdminClient | None = None

    def open(self, tables: Iterable[tuple[str, str]]) -> None:
        self._producer = _made(Producer, self._settings | {"error_cb": self._on_error})
        common = {name: value for name, value in self._settings.items() if name not in _PRODUCER_ONLY}
        self._admin = _made(AdminClient, common)
        try:
            found = self._producer.list_topics(timeout=OPEN_SECONDS)
        except KafkaException as error:
            raise _of_open(error.args[0], self._servers) from error
        self._ready = set(found.topics)
        wanted = dict.fromkeys([self._destinations.dead_letters, *(self._destinations.of(*table) for table in tables)])
        for topic in wanted:
            if topic not in self._ready:
                self._make(topic)
        for topic in list(self._making):
            with contextlib.suppress(Exception):  # settled below, where its error is told
                self._making[topic].result(OPEN_SECONDS)
            if not self._settle(topic):
                raise SinkUnreachable(f"Kafka at {self._servers} did not create topic {topic} in {OPEN_SECONDS:.0f} s")
        log.info("kafka connected", servers=self._servers, brokers=len(found.brokers), topics=len(self._ready))

    def send(self, event: Event, ticket: Ticket) -> bool:
        assert self._producer is not None, "open comes first"
        if self._failure is not None:
            raise self._failure
        topic = (
            self._destinations.dead_letters if event.dead_letter else self._destinations.of(event.schema, event.table)
        )
        if topic not in self._ready and not self._is_made(topic):
            return False

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is None:
                ticket.acknowledge(event.size)
            else:
                self._undelivered(error, event, ticket)

        headers: Any = event.headers  # its own type is invariant, and allows what this one is
        try:
            self._producer.produce(topic, event.value, event.key, headers=headers, on_delivery=delivered)
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].code() not in _TOO_LARGE:
                raise _refused(error.args[0], f"producing to {topic}") from error
            ticket.sent(event.size)
            self._rejections.append(Rejection(event, ticket, error.args[0].str()))
            return True
        ticket.sent(event.size)
        return True

    def poll(self, timeout_seconds: float) -> Sequence[Rejection]:
        assert self._producer is not None, "open comes first"
        self._producer.poll(timeout_seconds)
        if self._failure is not None:
            raise self._failure
        rejections, self._rejections = self._rejections, []
        return rejections

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        if self._producer is not None:
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)
            self._producer.poll(0)

    # -- what goes wrong -------------------------------------------------------------------------------------------

    def _undelivered(self, error: KafkaError, event: Event, ticket: Ticket) -> None:
        """Called by the producer, from `poll`: only records."""
        if error.code() in _TOO_LARGE:
            self._rejections.append(Rejection(event, ticket, error.str()))
        elif error.code() not in _PURGED and self._failure is None:
            topic = self._destinations.of(event.schema, event.table)
            self._failure = _refused(error, f"delivering to {topic}")

    def _on_error(self, error: KafkaError) -> None:
        """What librdkafka says of brokers: it goes on trying by itself, unless the error is fatal."""
        if error.fatal():
            self._failure = self._failure or _refused(error, "the producer")
        else:
            log.warning("kafka", code=error.name(), reason=error.str())

    # -- topics ----------------------------------------------------------------------------------------------------

    def _make(self, topic: str) -> None:
        if self._create is None:
            raise SinkRefused(
                f"topic {topic} is missing, and sink.kafka.create_topics does not allow to create it. What to do:"
                f" kafka-topics.sh --bootstrap-server {self._servers} --create --topic {topic}"
            )
        assert self._admin is not None, "open comes first"
        new = NewTopic(topic, self._create.partitions, self._create.replication_factor)
        self._making.update(self._admin.create_topics([new]))

    def _is_made(self, topic: str) -> bool:
        """At a table's first event: whether its topic is there; if not, have it made without waiting."""
        if topic in self._making:
            return self._settle(topic)
        assert self._producer is not None, "open comes first"
        if self._create is None:
            try:
                found = self._producer.list_topics(timeout=1)
            except KafkaException:
                return False
            self._ready.update(found.topics)
            if topic in self._ready:
                return True
        self._make(topic)
        return False

    def _settle(self, topic: str) -> bool:
        """Whether the topic has been made. Tries again what may pass; raises SinkRefused for what does not."""
        future = self._making[topic]
        if not future.done():
            return False
        del self._making[topic]
        error = future.exception()
        code = error.args[0].code() if isinstance(error, KafkaException) else None
        if error is None or code == _EXISTS:
            if error is None:
                log.info("topic created", topic=topic)
            self._ready.add(topic)
            return True
        if code in _HOPELESS:
            raise SinkRefused(
                f"topic {topic} cannot be created: {error}. What to do: allow it, create the topic yourself, or correct"
                f" sink.kafka.create_topics"
            ) from error
        log.warning("topic not created yet", topic=topic, reason=str(error))
        self._make(topic)
        return False


_PRODUCER_ONLY = frozenset(
    {*FIXED, "linger.ms", "batch.size", "queue.buffering.max.messages", "message.max.bytes", "compression.type"}
) - {"allow.auto.create.topics"}


def producer_settings(client: dict[str, Any]) -> dict[str, Any]:
    """librdkafka's settings. Raises ConfigError for those that the promise forbids. Pure."""
    if not client.get("bootstrap.servers") and not client.get("metadata.broker.list"):
        raise ConfigError("sink.kafka.client: bootstrap.servers is missing. What to do: name a broker, host:port")
    for name in client:
        if name in REFUSED:
            raise ConfigError(f"sink.kafka.client.{name}: may not be set: {REFUSED[name]}. What to do: leave it out")
    return DEFAULTS | client | FIXED | {"logger": logging.getLogger("librdkafka")}


def _made(kind: type[Any], settings: dict[str, Any]) -> Any:
    try:
        return kind(settings)
    except (KafkaException, TypeError, ValueError) as error:
        told = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        raise ConfigError(f"sink.kafka.client: {told}. What to do: see librdkafka's CONFIGURATION.md") from error


def _of_open(error: KafkaError, servers: str) -> BridgeError:
    if error.code() in {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}:  # noqa: SLF001
        return SinkRefused(f"Kafka at {servers} refuses the login: {error.str()}. What to do: check the sasl settings")
    return SinkUnreachable(
        f"Kafka at {servers} cannot be reached: {error.str()}. What to do: check sink.kafka.client.bootstrap.servers,"
        f" and that the broker is up"
    )


def _refused(error: KafkaError, doing: str) -> SinkRefused:
    return SinkRefused(
        f"Kafka refuses {doing}: {error.str()} ({error.name()}). The position is unmoved. What to do: mend the cause and"
        f" start again; what was not acknowledged comes again"
    )
