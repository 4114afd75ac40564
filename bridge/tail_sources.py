"""Where `tail` has messages from: topics of Kafka, exchanges of RabbitMQ, or the lines of a bridge with the stdout sink.

Each only looks on: no consumer group is joined, nobody's queue is read.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from pika.exceptions import (
    AMQPError,
    ChannelClosedByBroker,
    ConnectionClosed,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from bridge.errors import SinkRefused, SinkUnreachable
from bridge.kafka_reading import KafkaPartition, Read, Reader
from bridge.sinks.rabbitmq_link import blocking, parameters
from bridge.tail import Item

_LOOK_SECONDS: Final = 5.0
"""After so long without a message, see whether the topics are there."""
_ITEM_BYTES: Final = 64 << 20
_QUEUE: Final = {"x-max-length": 10_000, "x-max-length-bytes": _ITEM_BYTES, "x-overflow": "drop-head"}
"""A queue that is not read, as the terminal stands still, must not fill the broker."""
_NOT_FOUND, _ACCESS_REFUSED, _NOT_ALLOWED = 404, 403, 530
_REFUSED: Final = {_ACCESS_REFUSED, _NOT_ALLOWED}
_REFUSED_LOGIN: Final = (ProbableAccessDeniedError, ProbableAuthenticationError)


class BacklogEnd(msgspec.Struct, frozen=True):
    """All that was there at the start has been given."""


def from_kafka(
    reader: Reader, starts: Sequence[tuple[KafkaPartition, int]], *, follow: bool
) -> Iterator[Item | BacklogEnd]:
    """What is there from those offsets on, then, with `follow`, what comes, without end."""
    behind = {id(partition) for partition, start in starts if start < partition.end}
    ended = not behind
    if ended:
        yield BacklogEnd()
    look_at = time.monotonic() + _LOOK_SECONDS
    for got in reader.read(starts) if follow or behind else ():
        if isinstance(got, Read):
            partition = got.partition
            if follow or got.offset < partition.end:
                yield Item(got.headers, got.value, got.key, got.sent_ms)
            reached = got.offset + 1 >= partition.end
        elif got is not None:
            partition, reached = got, True
        else:
            if time.monotonic() > look_at:
                _check_there(reader, starts)
                look_at = time.monotonic() + _LOOK_SECONDS
            continue
        if reached:
            behind.discard(id(partition))
        if not behind and not ended:
            ended = True
            yield BacklogEnd()
        if ended and not follow:
            return


def _check_there(reader: Reader, starts: Sequence[tuple[KafkaPartition, int]]) -> None:
    """Of a topic that was deleted, librdkafka tells a consumer nothing. Raises SinkRefused."""
    with contextlib.suppress(SinkUnreachable):  # it may come back
        known = reader.topics()
        for partition, _ in starts:
            if partition.topic not in known:
                raise SinkRefused(
                    f"topic {partition.topic} is not there any more. What to do: run it again; a topic that was made anew has"
                    " offsets of its own"
                )


def from_rabbitmq(url: str, exchanges: Sequence[str]) -> Iterator[Item | BacklogEnd]:
    """What goes through these exchanges from `BacklogEnd` on, by a queue that the broker deletes with this connection.

    Raises SinkUnreachable, SinkRefused.
    """
    settings = parameters(url)
    place = f"{settings.host}:{settings.port}, vhost {settings.virtual_host}"
    exchange = ""
    try:
        with blocking(settings) as connection:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=100)
            queue = channel.queue_declare("", exclusive=True, auto_delete=True, arguments=_QUEUE).method.queue
            for exchange in exchanges:
                channel.queue_bind(queue, exchange, "#")
            yield BacklogEnd()
            for method, properties, body in channel.consume(queue, exclusive=True):
                headers = {name: str(value) for name, value in (properties.headers or {}).items()}
                yield Item({"id": properties.message_id or "", **headers}, body)
                channel.basic_ack(method.delivery_tag)
    except ChannelClosedByBroker as error:
        if error.reply_code == _NOT_FOUND:
            raise SinkRefused(
                f"there is no exchange {exchange} in RabbitMQ at {place}: {error.reply_text}. What to do: correct the name; the"
                " bridge makes a table's exchange when it starts, or at the table's first event"
            ) from error
        if error.reply_code == _ACCESS_REFUSED:
            raise SinkRefused(
                f"RabbitMQ at {place} does not let this login look on: {error.reply_text}. What to do: grant it read on the"
                " exchanges, and configure, write and read on queues named amq.gen-…"
            ) from error
        raise SinkUnreachable(f"RabbitMQ at {place} ended it: {error.reply_text}. What to do: run it again") from error
    except (AMQPError, OSError) as error:
        told = str(error) or repr(error)
        if isinstance(error, _REFUSED_LOGIN) or (isinstance(error, ConnectionClosed) and error.reply_code in _REFUSED):
            raise SinkRefused(
                f"RabbitMQ at {place} refuses the login: {told}. What to do: check user, password and vhost in"
                " sink.rabbitmq.url, and the user's permissions"
            ) from error
        raise SinkUnreachable(
            f"RabbitMQ at {place} cannot be reached, or is gone: {told}. What to do: check that it runs, and sink.rabbitmq.url"
        ) from error


def from_stdin() -> Iterator[Item]:
    """What a bridge with the stdout sink prints, line by line."""
    for text in sys.stdin.buffer:
        if value := text.strip():
            yield Item({}, value)
