"""From just before the commit until a consumer has the event, at a steady rate of single-row transactions.

The row carries the server's clock as the INSERT runs; the consumer, on the same machine, looks at its own when the event
has come. The first fifth is not counted: plans, topics and connections are made then. pg_recvlogical with a pipe is the measure of what PostgreSQL itself takes.
"""

import contextlib
import os
import re
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from tests.benchmarks.readers import bridge, drop, pg_recvlogical
from tests.benchmarks.world import PREFIX, World, queue_of
from tests.servers.postgres import Database

RATES = (200, 2_000)
TABLES = """
create table ping (id bigint generated always as identity primary key, at bigint not null);
create table guarded (id bigint generated always as identity primary key, at bigint not null, owner uuid not null);
grant select on guarded to authenticated;
alter table guarded enable row level security;
create policy own on guarded for select to authenticated using (owner = auth.uid());
"""
OWNER = "00000000-0000-0000-0000-000000000001"
NOW = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"
INSERTS = {
    "ping": f"insert into ping (at) values ({NOW});\n",
    "guarded": f"insert into guarded (at, owner) values ({NOW}, '{OWNER}');\n",
}
_AT = re.compile(rb"(?<!\d)(1[0-9]{15})(?!\d)")
"""Microseconds since 1970: the only number of that length in a message."""

Arrival = tuple[int, bytes]
"""The consumer's clock, microseconds; and what came."""
Take = Callable[[float], list[Arrival]]
"""Wait at most so many seconds for something, and take what is there."""


def run(world: World) -> list[dict[str, Any]]:
    database = world.database("latency")
    database.execute(TABLES)
    database.subscribe("ping")
    database.subscribe("guarded", "authenticated", sub=OWNER)
    cells = []
    for name, table in (
        ("pg_recvlogical", "ping"),
        ("stdout", "ping"),
        ("stdout", "guarded"),
        ("kafka", "ping"),
        ("rabbitmq", "ping"),
    ):
        with _consumer(world, database, name, table) as take:
            for rate in RATES:
                world.say(f"latency of {name}{', RLS' if table == 'guarded' else ''} at {rate}/s")
                cells.append(
                    {
                        "to": name,
                        "rls": table == "guarded",
                        "rate": rate,
                        **_measure(world, database, table, rate, take),
                    }
                )
    reference = {cell["rate"]: cell for cell in cells if cell["to"] == "pg_recvlogical"}
    return [
        {**cell, "ratio_p50": cell["p50_ms"] / reference[cell["rate"]]["p50_ms"]} if "p50_ms" in cell else cell
        for cell in cells
    ]


def _measure(world: World, database: Database, table: str, rate: int, take: Take) -> dict[str, Any]:
    script = world.folder / f"{table}.sql"
    script.write_text(INSERTS[table], encoding="utf-8")
    before = database.execute(f"select count(*) from {table}")[0][0]
    writer = subprocess.Popen(
        [
            database.cluster.binaries / "pgbench",
            *("-n", "-M", "prepared", "-R", str(rate), "-T", f"{world.plan.latency_seconds:.0f}"),
            *("-f", script, "-d", database.dsn),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    arrivals: list[Arrival] = []
    wanted = None
    end = time.monotonic() + world.plan.latency_seconds + world.plan.cap_seconds
    while wanted is None or len(arrivals) < wanted:
        arrivals += take(0.2)
        if wanted is None and writer.poll() is not None:
            assert writer.returncode == 0, "pgbench failed"
            wanted = database.execute(f"select count(*) from {table}")[0][0] - before
        if time.monotonic() > end:
            writer.kill()
            return {"capped": True, "events": len(arrivals)}
    delays = [(at - int(found[1])) / 1000 for at, data in arrivals if (found := _AT.search(data))]
    assert len(delays) == wanted
    del delays[: len(delays) // 5]
    return {
        "events": len(delays),
        "p50_ms": statistics.median(delays),
        "p99_ms": statistics.quantiles(delays, n=100)[98],
    }


@contextlib.contextmanager
def _consumer(world: World, database: Database, name: str, table: str) -> Iterator[Take]:
    number = world.number()
    slot, prefix = f"bench_{number}", f"{PREFIX}{number}."
    database.execute("select pg_create_logical_replication_slot(%s, 'wal2json')", (slot,))
    out, into = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(drop, database, slot)
        stack.callback(os.close, out)
        if name == "pg_recvlogical":
            reader = stack.enter_context(pg_recvlogical(database, database.dsn, slot, "wal2json", stdout=into))
        else:
            sink = world.sink(name, prefix)
            reader = stack.enter_context(bridge(world.folder, database.dsn, slot, "wal2json", sink, into))
        os.close(into)
        reader.streaming_at()
        if name == "kafka":
            yield stack.enter_context(_kafka(world, f"{prefix}public.{table}"))
        elif name == "rabbitmq":
            yield stack.enter_context(_rabbitmq(world, queue_of(prefix)))
        else:
            yield _Pipe(out).take


class _Pipe:
    """Lines; those without a time (Begin, Commit) are no arrivals."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def take(self, seconds: float) -> list[Arrival]:
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        data = os.read(self._descriptor, 1 << 20)
        now = time.time_ns() // 1000
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [(now, line) for line in lines if b'"at"' in line]


@contextlib.contextmanager
def _kafka(world: World, topic: str) -> Iterator[Take]:
    consumer = Consumer({"bootstrap.servers": world.kafka.servers, "group.id": "bench", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, each, 0) for each in partitions])

    def take(seconds: float) -> list[Arrival]:
        message = consumer.poll(seconds)
        if message is None:
            return []
        assert message.error() is None, message.error()
        return [(time.time_ns() // 1000, message.value() or b"")]

    try:
        yield take
    finally:
        consumer.close()


@contextlib.contextmanager
def _rabbitmq(world: World, queue: str) -> Iterator[Take]:
    connection = world.rabbitmq.connect()
    channel = connection.channel()
    channel.basic_qos(prefetch_count=10_000)
    came: list[Arrival] = []
    channel.basic_consume(
        queue, lambda _channel, _method, _properties, body: came.append((time.time_ns() // 1000, body)), auto_ack=True
    )

    def take(seconds: float) -> list[Arrival]:
        connection.process_data_events(seconds)
        taken = came[:]
        came.clear()
        return taken

    try:
        yield take
    finally:
        connection.close()
