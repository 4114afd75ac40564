"""A database that is written to all along moves to another server, by dump and restore."""

import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import psycopg
import pytest
import yaml

from bridge import migrations
from bridge.cluster import Cluster
from bridge.errors import Exit
from tests.acceptance.runbooks.book import script
from tests.acceptance.runbooks.conftest import Desk
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.postgres import SUPABASE, Database
from tests.servers.waiting import meanwhile, wait_until

NAME = "app"


@pytest.fixture
def old() -> Iterator[Cluster]:
    yield from _cluster()


@pytest.fixture
def new() -> Iterator[Cluster]:
    """It has not been started yet."""
    yield from _cluster()


def _cluster() -> Iterator[Cluster]:
    made = Cluster()
    try:
        made.create()
        yield made
    finally:
        made.remove()


def application(cluster: Cluster) -> AbstractContextManager[None]:
    """It writes, until it is put out, and comes again when it may."""

    def write(done: threading.Event) -> None:
        while not done.wait(0.02):
            try:
                with psycopg.connect(cluster.dsn(NAME, NAME), autocommit=True) as connection:
                    while not done.wait(0.02):
                        connection.execute("insert into book (title) values ('Foo')")
            except psycopg.OperationalError:
                continue

    return meanwhile(write)


def prepare(cluster: Cluster) -> Database:
    """A database with a table that the application writes to, and a subscription."""
    cluster.start()
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute(f"create role {NAME} login")
        admin.execute(f"create database {NAME} template template0")
    database = Database(cluster, NAME)
    database.execute(SUPABASE)
    migrations.deploy(database.dsn)
    database.execute("create table book (id int generated always as identity primary key, title text)")
    database.execute(f"grant insert, select on book to {NAME}")
    database.subscribe("book")
    return database


def has_pg_resetwal(desk: Desk, cluster: Cluster) -> None:
    """It does not run as root."""
    way = "setpriv --reuid=postgres --regid=postgres --clear-groups" if os.geteuid() == 0 else ""
    script(desk.tools, "pg_resetwal", "sh", "-c", f'cd / && {way} {cluster.binaries}/pg_resetwal "$@"', "pg_resetwal")


def servers(events: Iterable[tuple[str, int]]) -> set[str]:
    return {name.partition("-")[0] for name, _ in events}


def order(event: tuple[str, int]) -> list[str]:
    """Commit LSN, LSN and seq, by which consumers may tell the older from the newer."""
    return event[0].split("/")[1:4]


def test_major_upgrade(
    old: Cluster, new: Cluster, kafka: Kafka, tmp_path: pathlib.Path, prefix: str, bridge: Callable[..., BridgeProcess]
) -> None:
    database = prepare(old)
    desk = Desk(database, tmp_path, prefix, bridge)
    has_pg_resetwal(desk, new)
    settings = desk.settings({"kafka": {"client": {"bootstrap.servers": kafka.servers}}})
    book = desk.book("major-upgrade")
    book.bind("/var/lib/postgresql/18/main", f"{new.socket_directory}/data")
    book.bind("postgresql://postgres@db-new.example/postgres", new.dsn())
    book.bind("postgresql://postgres@db-new.example/app", new.dsn(NAME))

    def events() -> list[tuple[str, int]]:
        """Id and row of each, as they came."""
        found = []
        for message in kafka.read(f"{prefix}public.book"):
            name = dict(message.headers() or [])["id"]
            assert isinstance(name, bytes)
            found.append((name.decode(), json.loads(message.value() or b"")["wal"]["record"]["id"]))
        return found

    running = desk.start(settings)
    with application(old):
        book.run(until="alter role app nologin")
        wait_until(lambda: database.execute("select count(*) > 9 from book") == [(True,)], "some books")
        database.connection.close()
        book.run(until="walrus-bridge replay")
        assert running.stop() == Exit.OK
        before = events()
        book.run(until="pg_dumpall")
    new.start()
    book.run(until="migrate verify")
    settings["source"]["connection"] = new.dsn(NAME)
    (desk.folder / "bridge.yaml").write_text(yaml.safe_dump(settings))
    book.run()

    refused = bridge(config=settings)
    assert refused.wait() == Exit.GAP
    book.found_in(refused.stderr)
    with application(new):
        accepting = bridge(config=settings, arguments=("--accept-gap",))
        accepting.wait_until_streaming()
        book.found_in(accepting.stderr)
        book.run(until="walrus-bridge tail")
        moved = Database(new, NAME)
        wait_until(lambda: len(events()) > len(before), "an event from the new server")
        book.run()
        book.finished()
        assert accepting.stop() == Exit.OK
        again = desk.start(settings)
    moved.slot = "realtime"
    moved.wait_until_confirmed()
    assert again.stop() == Exit.OK

    rows = {number for (number,) in moved.execute("select id from book")}
    moved.connection.close()
    found = events()
    assert {number for _, number in found} == rows, "nothing is lost"
    assert len({name for name, _ in found}) == len(found) == len(rows), "no id comes again"
    after = set(found) - set(before)
    assert servers(before) & servers(after) == set()
    assert max(map(order, before)) < min(map(order, after)), "who compares LSNs takes what comes for newer"
