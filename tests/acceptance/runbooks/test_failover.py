"""A standby is promoted when the primary has gone: one that synchronises slots (PostgreSQL 17 and later), and an older one without the slot."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import yaml

from bridge import migrations
from bridge.cluster import Cluster, free_port
from bridge.errors import Exit
from tests.acceptance.runbooks.book import Runbook
from tests.servers.kafka import Kafka
from tests.servers.postgres import binaries_of
from tests.servers.waiting import wait_until

OLDEST, NEWEST = "14.15.0", "18.1.0"


class Pair:
    """A primary, and a standby that begins as a copy of it."""

    def __init__(self, binaries: pathlib.Path) -> None:
        self.primary, self.standby = Cluster(binaries), Cluster(binaries)
        self.primary.create()
        self.primary.start()
        migrations.deploy(self.primary.dsn())
        for statement in (
            "create table book (id int primary key)",
            "create publication bridge for table realtime.subscription, book",
            "insert into realtime.subscription (subscription_id, entity, claims)"
            " values (gen_random_uuid(), 'book', '{\"role\": \"postgres\"}')",
        ):
            sql(self.primary, statement)

    @property
    def hosts(self) -> str:
        return f"postgres@127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"

    def follow(self, settings: str) -> None:
        """The standby with these lines in its configuration."""
        source, copy = (pathlib.Path(each.socket_directory, "data") for each in (self.primary, self.standby))
        self.primary.stop()
        subprocess.run(["cp", "-a", source, copy], check=True)
        self.primary.start()
        for slot in (copy / "pg_replslot").iterdir():  # pg_basebackup leaves them out
            shutil.rmtree(slot)
        with (copy / "postgresql.conf").open("a") as file:
            file.write(settings)
            file.write(f"port = {self.standby.port}\nunix_socket_directories = '{self.standby.socket_directory}'\n")
        (copy / "standby.signal").touch()
        shutil.chown(copy / "standby.signal", copy.owner(), copy.group())
        self.standby.start()

    def remove(self) -> None:
        self.primary.remove()
        self.standby.remove()


def sql(cluster: Cluster, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def pair() -> Iterator[Pair]:
    yield from _pair(NEWEST)


@pytest.fixture
def old_pair() -> Iterator[Pair]:
    yield from _pair(OLDEST)


def _pair(version: str) -> Iterator[Pair]:
    with binaries_of(version) as binaries:
        made = Pair(binaries)
        try:
            yield made
        finally:
            made.remove()


def delivered(kafka: Kafka, topic: str) -> dict[int, set[str]]:
    """The ids of each book's events."""
    found: dict[int, set[str]] = {}
    for message in kafka.read(topic):
        event_id = dict(message.headers() or [])["id"]
        assert isinstance(event_id, bytes)
        found.setdefault(json.loads(message.value() or b"")["wal"]["record"]["id"], set()).add(event_id.decode())
    return found


def wait_until_confirmed(cluster: Cluster) -> None:
    ((lsn,),) = sql(cluster, "select pg_current_wal_lsn()::text")
    query = f"select 1 from pg_replication_slots where slot_name = 'realtime' and confirmed_flush_lsn >= '{lsn}'"
    wait_until(lambda: sql(cluster, query) == [(1,)], "all is confirmed")


def test_failover(
    pair: Pair, old_pair: Pair, kafka: Kafka, tmp_path: pathlib.Path, prefix: str, bridge: Callable[..., Any]
) -> None:
    primary, standby, port = pair.primary, pair.standby, free_port()
    book = Runbook("failover", tmp_path, {"PGUSER": "postgres", "PGDATABASE": "postgres"})
    book.bind("127.0.0.1:9187", f"127.0.0.1:{port}")
    book.bind("host=db1.example", f"host=127.0.0.1 port={primary.port}")
    book.bind("host=db2.example", f"host=127.0.0.1 port={standby.port}")
    book.bind("bridge@db1.example,db2.example", pair.hosts)
    book.bind("user=replicator", "user=postgres")
    client = {"bootstrap.servers": kafka.servers}
    sink = {"kafka": {"prefix": prefix, "client": client}}
    topic = f"{prefix}public.book"

    # Made ready, with a slot that somebody has made otherwise
    config = yaml.safe_load(book.text()) | {"sink": sink, "http": {"listen": f"127.0.0.1:{port}"}}
    (tmp_path / "bridge.yaml").write_text(yaml.safe_dump(config))
    sql(primary, "select pg_create_logical_replication_slot('realtime', 'pgoutput')")
    book.run()
    pair.follow(book.text())
    running = bridge(config=config)
    running.wait_until_streaming()
    synced = "select 1 from pg_replication_slots where slot_name = 'realtime' and synced and not temporary"

    def is_synced() -> bool:
        sql(primary, "select pg_log_standby_snapshot()")  # as the server does by itself every 15 s
        return sql(standby, synced) == [(1,)]

    wait_until(is_synced, "the slot is on the standby", 60)
    book.run(until="select pg_promote")

    # The primary goes, with something that the standby has and the bridge has not read
    sql(primary, "insert into book values (1)")
    wait_until(lambda: 1 in delivered(kafka, topic), "book 1")
    os.kill(running.process.pid, signal.SIGSTOP)
    sql(primary, "insert into book values (2)")
    wait_until(lambda: sql(standby, "select 1 from book where id = 2"), "the standby has it")
    primary.stop("immediate")
    os.kill(running.process.pid, signal.SIGCONT)
    running.wait_for(lambda: "source lost, reconnecting" in running.stderr, "it has lost its server")
    book.run(until="pg_is_in_recovery")
    running.wait_until_streaming(2)
    sql(standby, "insert into book values (3)")
    waits = "select 1 from pg_stat_activity where wait_event = 'WaitForStandbyConfirmation'"
    wait_until(lambda: sql(standby, waits) == [(1,)], "the server keeps it back")
    assert 3 not in delivered(kafka, topic)
    book.run(until="reset synchronized_standby_slots")
    book.run(until="walrus-bridge status")
    wait_until_confirmed(standby)
    book.run()
    book.found_in(running.stderr.rpartition("reconnecting")[2])
    assert running.stop() == Exit.OK
    events = delivered(kafka, topic)
    assert {number: len(ids) for number, ids in events.items()} == {1: 1, 2: 1, 3: 1}, "what came again has its id"
    timelines = {number: each.split("/")[0].split("-")[1] for number, ids in events.items() for each in ids}
    assert timelines == {1: "1", 2: "1", 3: "2"}

    # A standby without the slot
    primary, standby = old_pair.primary, old_pair.standby
    old_pair.follow(f"primary_conninfo = 'host=127.0.0.1 port={primary.port} user=postgres'\n")
    topic = f"{prefix}old.public.book"
    config["source"]["connection"] = config["source"]["connection"].replace(pair.hosts, old_pair.hosts)
    config["sink"] = {"kafka": {"prefix": f"{prefix}old.", "client": client}}
    running = bridge(config=config)
    running.wait_until_streaming()
    sql(primary, "insert into book values (1)")
    wait_until(lambda: 1 in delivered(kafka, topic), "book 1")
    wait_until(lambda: sql(standby, "select 1 from book where id = 1"), "the standby has it")
    primary.stop("immediate")
    assert sql(standby, "select pg_promote()") == [(True,)]
    assert running.wait() == Exit.GAP
    book.found_in(running.stderr)
    sql(standby, "insert into book values (2)")
    book.run()
    sql(standby, "insert into book values (3)")
    accepting = bridge(config=config, arguments=("--accept-gap",))
    accepting.wait_until_streaming()
    book.found_in(accepting.stderr)
    book.finished()
    wait_until_confirmed(standby)
    assert accepting.stop() == Exit.OK
    assert set(delivered(kafka, topic)) == {1, 3}, "the gap is between the two, as the runbook says"
