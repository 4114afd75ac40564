"""The topic that holds how far a slot's stream has come: written in each Kafka transaction, read at each start."""

import time
from typing import Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from bridge.errors import SinkRefused, SinkUnreachable
from bridge.lsn import format_lsn, parse_lsn
from bridge.sinks.base import Position
from bridge.sinks.kafka_settings import Settings, passes, reader_settings

READ_SECONDS: Final = 10.0
_LOOK_BACK: Final = 64
"""Offsets, transaction markers included; more when the newest record is further back."""

TOPIC_CONFIG: Final = {"cleanup.policy": "compact", "segment.bytes": str(4 << 20), "min.cleanable.dirty.ratio": "0.1"}


class _Record(msgspec.Struct):
    system_identifier: str
    timeline: int
    end_lsn: str
    last_event: str


def encode(position: Position) -> bytes:
    """The record's value."""
    fields = msgspec.structs.asdict(position)
    return msgspec.json.encode(_Record(**{**fields, "end_lsn": format_lsn(position.end_lsn)}))


def decode(topic: str, value: bytes) -> Position:
    """Raises SinkRefused for what this bridge did not write."""
    try:
        record = msgspec.json.decode(value, type=_Record)
        fields = msgspec.structs.asdict(record)
        return Position(**{**fields, "end_lsn": parse_lsn(record.end_lsn)})
    except (msgspec.MsgspecError, ValueError) as error:
        raise SinkRefused(
            f"topic {topic} holds what is no position: {error}. What to do: see who writes to it; deleting the topic"
            " makes the bridge go on from the slot's own position"
        ) from error


def read(settings: Settings, topic: str, key: str) -> Position | None:
    """The newest committed position; None: there is none yet. Blocks. Raises SinkUnreachable, SinkRefused."""
    consumer = Consumer({**settings, **reader_settings("position"), "auto.offset.reset": "error"})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=READ_SECONDS)
        back = _LOOK_BACK
        while high > low:
            start = max(low, high - back)
            values = [each.value() for each in _from(consumer, topic, start) if each.key() == key.encode()]
            if values:
                return decode(topic, values[-1] or b"")
            if start == low:
                break
            back *= 8
        return None
    except KafkaException as error:
        raise SinkUnreachable(f"Kafka does not give the position in topic {topic}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _from(consumer: Consumer, topic: str, start: int) -> list[Message]:
    """All committed messages from `start` to the end."""
    consumer.assign([TopicPartition(topic, 0, start)])
    found: list[Message] = []
    deadline = time.monotonic() + READ_SECONDS
    while time.monotonic() < deadline:
        message = consumer.poll(0.2)
        error = message.error() if message is not None else None
        if message is None:
            continue
        if error is None:
            found.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            return found
        elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise SinkRefused(
                f"Kafka does not let this login read topic {topic}: {error.str()}. What to do: grant it Read on it"
            )
        elif not passes(error):
            raise KafkaException(error)
    raise SinkUnreachable(f"Kafka did not give the position in topic {topic} within {READ_SECONDS:.0f} s")
