"""A standby that synchronises slots (PostgreSQL 17 and later) is promoted when the primary has gone."""

import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import yaml

from bridge import migrations
from bridge.cluster import Cluster, free_port
from tests.acceptance.runbooks.book import Runbook
from tests.servers.postgres import binaries_of
from tests.servers.waiting import wait_until

NEWEST = "18.1.0"


class Pair:
    """A primary, and a standby that begins as a copy of it."""

    def __init__(self, binaries: pathlib.Path) -> None:
        self.primary, self.standby = Cluster(binaries), Cluster(binaries)
        self.primary.create()
        self.primary.start()

    def follow(self, settings: str) -> None:
        """The standby with these lines in its configuration."""
        source, copy = (pathlib.Path(each.socket_directory, "data") for each in (self.primary, self.standby))
        self.primary.stop()
        subprocess.run(["cp", "-a", source, copy], check=True)
        self.primary.start()
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
    with binaries_of(NEWEST) as binaries:
        made = Pair(binaries)
        try:
            yield made
        finally:
            made.remove()


def test_failover(pair: Pair, tmp_path: pathlib.Path, bridge: Callable[..., Any]) -> None:
    primary, standby, port = pair.primary, pair.standby, free_port()
    migrations.deploy(primary.dsn())
    for statement in (
        "create table book (id int primary key)",
        "create publication bridge for table realtime.subscription, book",
        "insert into realtime.subscription (subscription_id, entity, claims)"
        " values (gen_random_uuid(), 'book', '{\"role\": \"postgres\"}')",
    ):
        sql(primary, statement)
    place = {"PGHOST": "127.0.0.1", "PGPORT": str(primary.port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
    book = Runbook("failover", tmp_path, place)
    book.bind("127.0.0.1:9187", f"127.0.0.1:{port}")
    book.bind("host=db1.example", f"host=127.0.0.1 port={primary.port}")
    book.bind("host=db2.example", f"host=127.0.0.1 port={standby.port}")
    book.bind("bridge@db1.example,db2.example", f"postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}")
    book.bind("user=replicator", "user=postgres")

    # Made ready
    book.run()
    pair.follow(book.text())
    config = yaml.safe_load(book.text())
    running = bridge(config=config | {"sink": {"stdout": {}}, "http": {"listen": f"127.0.0.1:{port}"}})
    running.wait_until_streaming()
    synced = "select 1 from pg_replication_slots where slot_name = 'realtime' and synced and not temporary"

    def is_synced() -> bool:
        sql(primary, "select pg_log_standby_snapshot()")  # as the server does by itself every 15 s
        return sql(standby, synced) == [(1,)]

    wait_until(is_synced, "the slot is on the standby", 60)
    book.run(until="select pg_promote")

    # The primary goes, with something that the standby has and the bridge has not read
    sql(primary, "insert into book values (1)")
    running.wait_for_events(1)
    sql(primary, "insert into book values (2)")
    wait_until(lambda: sql(standby, "select 1 from book where id = 2"), "the standby has it")
    primary.stop("immediate")
    running.wait_for(lambda: "source lost, reconnecting" in running.stderr, "it has lost its server")
    book.run(until="pg_is_in_recovery")
    running.wait_until_streaming(2)
    sql(standby, "insert into book values (3)")
    running.wait_for(lambda: {each["wal"]["record"]["id"] for each in running.events} == {1, 2, 3}, "all of it")
    book.run()
    book.found_in(running.stderr)
    book.finished()
    assert running.stop() == 0
