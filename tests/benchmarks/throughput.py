"""Slot → stdout, Kafka, RabbitMQ, against pg_recvlogical to /dev/null on the same backlog, in turns."""

import statistics
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec
from confluent_kafka import Consumer, TopicPartition

from tests.benchmarks import publisher
from tests.benchmarks.readers import (
    PLUGINS,
    bridge,
    copied,
    cpu_seconds,
    pg_recvlogical,
    seconds_until_confirmed,
    seconds_until_ended,
)
from tests.benchmarks.world import PREFIX, World, queue_of
from tests.servers.postgres import Database

TRANSACTIONS = (1, 1_000)
TRANSPORTS = ("unix", "TCP")
SINKS = ("stdout", "kafka", "rabbitmq")
CAP_FACTOR = 10
"""A backlog takes longer than an RLS cell."""

TABLE = """
create table item (id bigint primary key, account uuid not null, title text not null, amount numeric(12, 2) not null,
  quantity integer not null, active boolean not null, created_at timestamptz not null, details jsonb not null);
create procedure make_items(count bigint, size bigint) language plpgsql as $$
begin
  for low in 1..count by size loop
    insert into item
      select n, md5(n::text)::uuid, 'Item number ' || n, n * 1.01, n % 100, n % 2 = 0, now(),
        jsonb_build_object('colour', 'blue', 'size', n % 50)
      from generate_series(low, least(low + size - 1, count)) as n;
    commit;
  end loop;
end $$;
"""


class Measured(msgspec.Struct, frozen=True):
    seconds: float | None
    """None: the cap was reached."""
    events: int = 0
    """How many arrived, where somebody counts."""
    cpu_seconds: float | None = None
    """Of the bridge's process."""


def run(world: World) -> list[dict[str, Any]]:
    backlogs = {size: _backlog(world, size) for size in TRANSACTIONS}
    _warm_up(world, *backlogs[1_000])
    return [
        cell
        for transport in TRANSPORTS
        for plugin in PLUGINS
        for size in TRANSACTIONS
        for cell in _compare(world, *backlogs[size], transport, plugin, size)
    ]


def _backlog(world: World, size: int) -> tuple[Database, str]:
    """A database with a slot of each plugin, both before the same rows; and the LSN at which these end."""
    world.say(f"making {world.plan.rows} rows in transactions of {size}")
    database = world.database(f"rows_{size}")
    database.execute(TABLE)
    database.subscribe("item")
    for plugin in PLUGINS:
        database.execute("select pg_create_logical_replication_slot(%s, %s)", (f"{plugin}_{size}", plugin))
    database.execute("set synchronous_commit = off")
    database.execute("call make_items(%s, %s)", (world.plan.rows, size))
    return database, database.execute("select pg_current_wal_insert_lsn()::text")[0][0]


def _warm_up(world: World, database: Database, end: str) -> None:
    """Kafka's JVM has compiled what it needs, RabbitMQ has its files; not counted."""
    for sink in ("kafka", "rabbitmq"):
        world.say(f"warming up {sink}")
        _drain(world, database, end, "TCP", "wal2json", 1_000, sink)


def _compare(
    world: World, database: Database, end: str, transport: str, plugin: str, size: int
) -> list[dict[str, Any]]:
    """Each sink right after a reference of its own, for what else the machine does changes by the minute."""
    rows = world.plan.rows
    taken: dict[tuple[str, str], list[tuple[Measured, Measured]]] = {}
    for number in range(world.plan.rounds):
        world.say(f"throughput {transport}, {plugin}, {size}-row transactions, round {number + 1}")
        for sink in SINKS:
            reference = _receive(world, database, end, transport, plugin, size)
            own = _drain(world, database, end, transport, plugin, size, sink)
            assert own.seconds is None or own.events >= rows, f"{sink}: {own.events} of {rows} events"
            taken.setdefault((sink, "pg_recvlogical"), []).append((own, reference))
            if (sink, transport) == ("rabbitmq", "TCP"):
                # RabbitMQ itself is the limit: so also against a program that only publishes, and has each confirmed.
                bare = Measured(rows / publisher.rate(world.rabbitmq, rows))
                taken.setdefault((sink, "bare publisher"), []).append((own, bare))
    where = {"transport": transport, "plugin": plugin, "rows_per_transaction": size}
    return [
        {**where, "to": sink, "against": against, **_ratio(rows, pairs)} for (sink, against), pairs in taken.items()
    ]


def _ratio(rows: int, taken: list[tuple[Measured, Measured]]) -> dict[str, Any]:
    both = [(own.seconds, other.seconds) for own, other in taken]
    pairs = [(own, other) for own, other in both if own and other]
    if len(pairs) < len(taken):
        return {"capped": True}
    ratios = [other / own for own, other in pairs]
    cpu = [each.cpu_seconds for each, _ in taken if each.cpu_seconds is not None]
    return {
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "changes_per_second": rows / statistics.median(own for own, _ in pairs),
        "reference_per_second": rows / statistics.median(other for _, other in pairs),
        "cpu_us_per_change": statistics.median(cpu) * 1e6 / rows,
    }


def _receive(world: World, database: Database, end: str, transport: str, plugin: str, size: int) -> Measured:
    with copied(database, f"{plugin}_{size}", f"bench_{world.number()}") as slot:
        with pg_recvlogical(database, world.dsn(database, transport), slot, plugin, end) as reader:
            return Measured(seconds_until_ended(reader, world.plan.cap_seconds * CAP_FACTOR))


def _drain(world: World, database: Database, end: str, transport: str, plugin: str, size: int, sink: str) -> Measured:
    number = world.number()
    prefix = f"{PREFIX}{number}."
    counter = subprocess.Popen(["wc", "-l"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert counter.stdin is not None
    with copied(database, f"{plugin}_{size}", f"bench_{number}") as slot:
        dsn = world.dsn(database, transport)
        with bridge(world.folder, dsn, slot, plugin, world.sink(sink, prefix), counter.stdin) as reader:
            reader.streaming_at()
            before = cpu_seconds(reader.process.pid)
            seconds = seconds_until_confirmed(database, reader, slot, end, world.plan.cap_seconds * CAP_FACTOR)
            spent = cpu_seconds(reader.process.pid) - before
    printed = int(counter.communicate()[0])
    counts: dict[str, Callable[[], int]] = {
        "stdout": lambda: printed,
        "kafka": lambda: _in_kafka(world, f"{prefix}public.item"),
        "rabbitmq": lambda: _in_rabbitmq(world, queue_of(prefix)),
    }
    return Measured(seconds, counts[sink](), spent)


def _in_kafka(world: World, topic: str) -> int:
    """How many it holds; then it is deleted."""
    consumer = Consumer({"bootstrap.servers": world.kafka.servers, "group.id": "bench"})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        marks = [consumer.get_watermark_offsets(TopicPartition(topic, each), timeout=10) for each in partitions]
    finally:
        consumer.close()
    admin = world.kafka.admin  # until the answer: it takes the request with it
    admin.delete_topics([topic])[topic].result(10)
    return sum(high - low for low, high in marks)


def _in_rabbitmq(world: World, queue: str) -> int:
    with world.rabbitmq.connect() as connection:
        channel = connection.channel()
        count = channel.queue_declare(queue, passive=True).method.message_count
        channel.queue_delete(queue)
    return int(count)
