"""librdkafka's settings: ours, the user's, and those that the delivery promise does not leave to the user. Pure."""

import uuid
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from bridge.errors import ConfigError
from bridge.sinks.kafka_log import LibraryLog

Settings = dict[str, Any]

LARGEST_BATCH_BYTES: Final = 1_000_000
_LARGEST_MESSAGE_BYTES: Final = 1_000_000
"""librdkafka's default."""
_QUEUE_KILOBYTES: Final = "queue.buffering.max.kbytes"
_MOST_QUEUED_KILOBYTES: Final = 64 << 10
_COMPRESSION: Final = ("compression.codec", "compression.type")

FIXED: Final[Settings] = {
    "enable.idempotence": True,
    "acks": "all",
    "message.timeout.ms": 0,
    "partitioner": "murmur2_random",
    "allow.auto.create.topics": False,
}
"""What the delivery promise and the wire contract rest on."""

DEFAULTS: Final[Settings] = {
    "client.id": "walrus-bridge",
    "linger.ms": 1,
    "queue.buffering.max.messages": 30_000,
    "socket.keepalive.enable": True,
}
"""The user's settings win over these. The queue bounds memory (some 2 kB for a small event until it is acknowledged); it
holds far more than is on its way at full speed."""

_ACKNOWLEDGED = "every event is acknowledged by all in-sync replicas, one by one"
_PATIENCE = "an event is tried for as long as it takes; giving up would lose it"
_ORDER = "one row's events stay in order"
_PARTITION = "a key keeps its partition, the one that the Java clients give it (murmur2)"

REFUSED: Final[Mapping[str, str]] = {
    "acks": _ACKNOWLEDGED,
    "request.required.acks": _ACKNOWLEDGED,
    "delivery.report.only.error": _ACKNOWLEDGED,
    "dr_cb": _ACKNOWLEDGED,
    "dr_msg_cb": _ACKNOWLEDGED,
    "on_delivery": _ACKNOWLEDGED,
    "enable.idempotence": "a retry must neither repeat nor reorder events",
    "enable.gapless.guarantee": "an event that is too large goes to the dead letters, and must not end the producer",
    "message.timeout.ms": _PATIENCE,
    "delivery.timeout.ms": _PATIENCE,
    "message.send.max.retries": _PATIENCE,
    "retries": _PATIENCE,
    "queuing.strategy": _ORDER,
    "partitioner": _PARTITION,
    "partitioner_cb": _PARTITION,
    "msg_order_cmp": _ORDER,
    "transactional.id": "transactions are the bridge's own",
    "allow.auto.create.topics": "topics are created as sink.kafka.create_topics says, and not by accident",
}
"""By setting: why it is not the user's to choose."""

_IN_FLIGHT: Final = ("max.in.flight", "max.in.flight.requests.per.connection")
_MOST_IN_FLIGHT: Final = 5
_SERVERS: Final = ("bootstrap.servers", "metadata.broker.list")
_WHERE: Final = "What to do: see librdkafka's CONFIGURATION.md"


def bootstrap_servers(client: Mapping[str, Any]) -> str:
    """Raises ConfigError where there are none."""
    for name in _SERVERS:
        if servers := str(client.get(name) or "").strip():
            return servers
    raise ConfigError(
        "sink.kafka.client.bootstrap.servers: is missing. What to do: name one or more brokers, host:port, with commas"
        " between them"
    )


def producer_settings(client: Mapping[str, Any]) -> Settings:
    """What the producer is made with. Raises ConfigError for what is refused, unknown or impossible."""
    bootstrap_servers(client)
    for name, value in client.items():
        if name in REFUSED:
            raise ConfigError(f"sink.kafka.client.{name}: cannot be set: {REFUSED[name]}. What to do: leave it out")
        if name in _IN_FLIGHT and not _is_at_most(value, _MOST_IN_FLIGHT):
            raise ConfigError(
                f"sink.kafka.client.{name}: is {value}, and at most {_MOST_IN_FLIGHT} is possible: more would lose the"
                " order in a retry. What to do: leave it out"
            )
    settings = DEFAULTS | dict(client) | FIXED
    _try(settings, client)
    # The queue's bytes are bounded too: an event in parts may be far larger than a batch. Two messages it must hold.
    least = 2 * largest_message_bytes(settings) >> 10
    return {_QUEUE_KILOBYTES: max(_MOST_QUEUED_KILOBYTES, least)} | settings


def largest_message_bytes(settings: Settings) -> int:
    """What librdkafka takes, whatever a topic takes."""
    return int(settings.get("message.max.bytes", _LARGEST_MESSAGE_BYTES))


def compresses(settings: Settings) -> bool:
    return any(str(settings.get(name, "none")) != "none" for name in _COMPRESSION)


def admin_settings(settings: Settings) -> Settings:
    """A producer's settings for a client that only asks and creates, or reads: it needs no producer id."""
    own = {*FIXED, "transactional.id", "transaction.timeout.ms"}
    return {name: value for name, value in settings.items() if name not in own} | {"allow.auto.create.topics": False}


def reader_settings(name: str) -> Settings:
    """Those of a consumer that reads what is there and joins no group. `name`: for the log."""
    library_log = LibraryLog(name)
    library_log.is_quiet = True  # it says that the producer's settings are none of a consumer's
    return {
        "group.id": f"walrus-bridge-{uuid.uuid4()}",  # asked for, and not used
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "logger": library_log,
    }


def passes(error: KafkaError) -> bool:
    """Whether a consumer with `reader_settings` may go on after this error."""
    # librdkafka asks for the group's coordinator by itself, and we want none.
    return error.retriable() or error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED


def _try(settings: Settings, client: Mapping[str, Any]) -> None:
    """Have librdkafka check them, without a connection: the producer is not told where the brokers are."""
    apart = {name: value for name, value in settings.items() if name not in _SERVERS}
    error = _fault(apart)
    if error is None:
        return
    # librdkafka names some settings by their other name: find the one that is wrong by itself.
    culprit = next((name for name, value in client.items() if _fault({name: value}) == error), None)
    place = f"sink.kafka.client.{culprit}" if culprit else "sink.kafka.client"
    raise ConfigError(f"{place}: {error}. {_WHERE}")


def _fault(settings: Settings) -> str | None:
    try:
        Producer({**settings, "logger": _Silence()})
    except KafkaException as error:
        return str(error.args[0].str())
    except (TypeError, ValueError) as error:
        return str(error)
    return None


class _Silence:
    """A log that is not kept: the error says it."""

    def log(self, *_: object) -> None:
        pass


def _is_at_most(value: object, limit: int) -> bool:
    try:
        return int(str(value)) <= limit
    except ValueError:
        return True  # no number: librdkafka says so
