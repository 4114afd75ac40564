"""`walrus-bridge tail`: which topics or exchanges, from where on, and the lines that come of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import click
import msgspec

from bridge import tail_sources
from bridge.config import Kafka as KafkaConfig
from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.errors import ConfigError
from bridge.kafka_reading import KafkaPartition, Reader, topic_names, topics_of
from bridge.naming import Destinations
from bridge.offsets import find
from bridge.tail import Item, Line, Wanted, line
from bridge.tail_sources import BacklogEnd

_EVERYTHING: Final = "#"


class Begin(msgspec.Struct, frozen=True):
    """Where in Kafka's topics: at an LSN, or some messages before the end."""

    from_lsn: int | None
    last: int
    system: str | None
    scan: bool


def kafka(config: KafkaConfig, names: Sequence[str], wanted: Wanted, begin: Begin, *, follow: bool) -> Iterator[Line]:
    """Of topics; by default those of the wanted tables, or of all. Raises BridgeErrors."""
    with Reader(config, follows=True) as reader:
        names = names or _destinations_of(wanted, topic_names(config)) or topics_of(config, reader)
        partitions = reader.partitions(names)
        starts = _starts(config, partitions, begin)
        lines = _lines(tail_sources.from_kafka(reader, starts, follow=follow), wanted)
        if begin.from_lsn is None:
            yield from _last(lines, begin.last)
        yield from (each for each in lines if each is not None)


def rabbitmq(config: RabbitMQConfig, names: Sequence[str], wanted: Wanted, *, accept_unparked: bool) -> Iterator[Line]:
    """Of exchanges; by default those of the wanted tables. Raises BridgeErrors, UsageError."""
    made = Destinations("sink.rabbitmq.exchange", config.exchange, config.prefix, {}, kafka=False)
    names = names or _destinations_of(wanted, made)
    if not names:
        raise click.UsageError("Name exchanges, or tables by --table: RabbitMQ does not tell which there are.")
    if not accept_unparked:
        _check_bound(config, names)
    for each in _lines(tail_sources.from_rabbitmq(config.url, names), wanted):
        if each is None:
            click.echo(f"looking on at {', '.join(names)}; Ctrl-C ends it", err=True)
        else:
            yield each


def stdin(wanted: Wanted) -> Iterator[Line]:
    """Of a bridge that prints its events."""
    yield from (each for each in _lines(tail_sources.from_stdin(), wanted) if each is not None)


def _check_bound(config: RabbitMQConfig, exchanges: Iterable[str]) -> None:
    """A message that no queue is bound for is sent back to the bridge, which parks it; our queue is one. So look on only
    where the bridge itself has bound a queue for everything. Raises ConfigError."""
    if config.unroutable == "drop":
        return
    bound = {name for queue in config.queues for name, key in queue.bindings.items() if key == _EVERYTHING}
    for exchange in exchanges:
        if exchange not in bound:
            raise ConfigError(
                f"while one looks on at exchange {exchange}, RabbitMQ takes every event for routed: what no other queue is"
                f" bound for is shown, and lost, in spite of sink.rabbitmq.unroutable: {config.unroutable}."
                f" What to do: where consumers' queues are bound for all of it, --accept-unparked; this is not asked where"
                f' sink.rabbitmq.queues binds a queue to it with "{_EVERYTHING}"'
            )


def _destinations_of(wanted: Wanted, made: Destinations) -> list[str]:
    return [made.of(*table) for table in sorted(wanted.tables)]


def _starts(
    config: KafkaConfig, partitions: Sequence[KafkaPartition], begin: Begin
) -> list[tuple[KafkaPartition, int]]:
    if begin.from_lsn is None:
        return [(each, max(each.low, each.end - begin.last)) for each in partitions]
    with Reader(config) as searching:
        found = find([each.as_of(searching) for each in partitions], begin.from_lsn, begin.system, scan=begin.scan)
    if any(each.is_oldest for each in found):
        click.echo("older events are not there any more: beginning with the oldest that are left", err=True)
    return [(each, place.offset) for each, place in zip(partitions, found, strict=True)]


def _lines(items: Iterable[Item | BacklogEnd], wanted: Wanted) -> Iterator[Line | None]:
    """None where the backlog ends."""
    for item in items:
        if isinstance(item, BacklogEnd):
            yield None
        elif (made := line(item, wanted)) is not None:
            yield made


def _last(lines: Iterator[Line | None], count: int) -> list[Line]:
    """The last so many of the backlog, in their order over all partitions."""
    backlog: list[Line] = []
    for each in lines:
        if each is None:
            break
        backlog.append(each)
    return sorted(backlog, key=lambda each: each.order)[-count:] if count else []
