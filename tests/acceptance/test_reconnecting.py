"""A running bridge whose source goes away: what passes is waited for, what does not ends it at once and says what to do."""

import os
import pathlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from bridge import migrations
from bridge.cluster import Cluster
from bridge.errors import Exit
from bridge.opening import OWN_WALSENDER_SECONDS
from tests.servers.bridge import BridgeProcess
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.versions

SLOT = "realtime"
SETTINGS = {
    "max_slot_wal_keep_size": "1MB",
    "min_wal_size": "32MB",
    "max_wal_size": "32MB",
    "wal_sender_timeout": "60s",
}


class Source:
    """A server of its own, with a table that is subscribed to, and the bridge's login."""

    def __init__(self, binaries: pathlib.Path | None) -> None:
        self.cluster = Cluster(binaries, SETTINGS)

    def start(self) -> None:
        self.cluster.create()
        self.cluster.start()
        self.fill()

    def fill(self) -> None:
        migrations.deploy(self.cluster.dsn())
        self.execute("""
            create role bridge login superuser;
            create table note (id int primary key);
            create publication everything for all tables;
            insert into realtime.subscription (subscription_id, entity, claims)
            values (gen_random_uuid(), 'note', '{"role": "postgres"}');
        """)

    def execute(self, query: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.cluster.dsn(database), autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def cut(self) -> None:
        """The bridge's connections, all of them."""
        self.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'walrus-bridge'"
        )


@pytest.fixture
def source(binaries: pathlib.Path | None) -> Iterator[Source]:
    made = Source(binaries)
    try:
        made.start()
        yield made
    finally:
        made.cluster.remove()


@pytest.fixture
def run(source: Source, bridge: Any) -> Callable[..., BridgeProcess]:
    """A bridge that streams; with pgoutput, which all servers have."""

    def start(user: str = "postgres", database: str = "postgres", **more: str) -> BridgeProcess:
        connection = {
            "connection": source.cluster.dsn(database, user),
            "slot": SLOT,
            "plugin": "pgoutput",
            "publication": "everything",
            **more,
        }
        running: BridgeProcess = bridge(config={"source": connection, "sink": {"stdout": {}}, "http": {"listen": None}})
        running.wait_until_streaming()
        return running

    return start


def test_a_server_that_is_away_is_waited_for_with_growing_pauses(
    source: Source, run: Callable[..., BridgeProcess]
) -> None:
    running = run()
    source.cluster.stop()
    running.wait_for(lambda: "attempt=5" in running.stderr, "five attempts")
    source.cluster.start()
    source.execute("insert into note values (1)")

    running.wait_for_events(1)

    pauses = [float(text) for text in re.findall(r"pause_seconds=([\d.]+)", running.stderr)]
    assert pauses[4] > pauses[0]
    assert "reason=" in running.stderr
    assert running.stop() == Exit.OK


def test_its_own_walsender_that_holds_the_slot_is_waited_for(source: Source, run: Callable[..., BridgeProcess]) -> None:
    running = run(heartbeat="1s")
    (walsender,) = source.execute("select active_pid from pg_replication_slots")[0]
    os.kill(walsender, signal.SIGSTOP)  # as where the network has gone, and the server has not noticed
    try:
        source.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where application_name = 'walrus-bridge' and pid <> {walsender}"
        )
        source.execute("insert into note values (1)")
        running.wait_for(lambda: "waiting for the slot" in running.stderr, "the slot's being held")
        time.sleep(OWN_WALSENDER_SECONDS + 2)
        assert running.process.poll() is None
    finally:
        os.kill(walsender, signal.SIGCONT)

    running.wait_for_events(1)
    assert running.stop() == Exit.OK


def test_a_dropped_slot_ends_it(source: Source, run: Callable[..., BridgeProcess]) -> None:
    running = run()
    # The walsender ends and its slot goes before the bridge can be back.
    os.kill(running.process.pid, signal.SIGSTOP)
    source.cut()
    wait_until(lambda: source.execute("select active from pg_replication_slots") == [(False,)], "the slot's being free")
    source.execute(f"select pg_drop_replication_slot('{SLOT}')")
    os.kill(running.process.pid, signal.SIGCONT)

    assert running.wait() == Exit.GAP
    assert "is gone" in running.stderr
    assert "--accept-gap" in running.stderr


def test_a_slot_that_has_lost_its_wal_ends_it(source: Source, run: Callable[..., BridgeProcess]) -> None:
    running = run()
    os.kill(running.process.pid, signal.SIGSTOP)
    source.cut()
    source.execute("create table filler (t text); alter table filler alter t set storage external")

    def is_lost() -> bool:
        for _ in range(3):
            source.execute(
                "insert into filler select repeat('x', 8000) from generate_series(1, 1500); select pg_switch_wal()"
            )
        source.execute("checkpoint")
        return source.execute("select wal_status from pg_replication_slots") == [("lost",)]

    wait_until(is_lost, "the slot's invalidation")
    os.kill(running.process.pid, signal.SIGCONT)

    assert running.wait() == Exit.SLOT
    assert "max_slot_wal_keep_size" in running.stderr
    assert "walrus-bridge slot drop" in running.stderr


def test_a_dropped_publication_ends_it(source: Source, run: Callable[..., BridgeProcess]) -> None:
    running = run()
    source.execute("drop publication everything")
    source.execute("insert into note values (1)")

    assert running.wait() == Exit.SOURCE_REFUSED
    assert "everything" in running.stderr
    assert "What to do" in running.stderr
    assert running.events == []


@pytest.mark.parametrize(
    ("revoked", "says"),
    [
        ("alter role bridge nosuperuser noreplication", "alter role … replication"),
        ("alter role bridge nosuperuser replication", "realtime"),
        ("alter role bridge nologin", "use a role that has LOGIN"),
    ],
)
def test_rights_that_were_revoked_end_it(
    source: Source, run: Callable[..., BridgeProcess], revoked: str, says: str
) -> None:
    running = run(user="bridge")
    source.execute(revoked)
    source.cut()

    assert running.wait() == Exit.SOURCE_REFUSED
    assert says in running.stderr
    assert "What to do" in running.stderr


def test_a_database_that_is_not_there_any_more_ends_it(source: Source, run: Callable[..., BridgeProcess]) -> None:
    running = run()
    os.kill(running.process.pid, signal.SIGSTOP)
    source.execute("create database other")
    source.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = 'postgres' and pid <> pg_backend_pid()",
        "other",
    )
    source.execute("alter database postgres rename to elsewhere", "other")
    os.kill(running.process.pid, signal.SIGCONT)

    assert running.wait() == Exit.SOURCE_REFUSED
    assert 'database "postgres" does not exist' in running.stderr


def test_another_server_at_the_same_address_ends_it(
    source: Source, binaries: pathlib.Path | None, run: Callable[..., BridgeProcess]
) -> None:
    running = run()
    source.cluster.stop()
    other = Source(binaries)
    other.cluster.port = source.cluster.port
    try:
        other.start()
        assert running.wait() == Exit.GAP
        assert "leads to another server" in running.stderr
    finally:
        other.cluster.remove()
