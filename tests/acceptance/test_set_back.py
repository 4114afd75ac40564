"""A server that is not as far as it was when the bridge last saw it: a promoted standby, or a copy of its disk restored."""

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

from bridge import migrations
from bridge.cluster import Cluster
from bridge.errors import Exit
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.waiting import wait_until


class Source:
    """A server with a table that is subscribed to, of which a copy may take the place."""

    def __init__(self, binaries: pathlib.Path | None) -> None:
        self.cluster = Cluster(binaries, {"wal_sender_timeout": "60s"})
        self._data = pathlib.Path(self.cluster.socket_directory, "data")
        self._copy = self._data.with_name("copy")

    def start(self) -> None:
        self.cluster.create()
        self.cluster.start()
        migrations.deploy(self.cluster.dsn())
        self.execute("""
            create table note (id int primary key);
            create publication everything for all tables;
            insert into realtime.subscription (subscription_id, entity, claims)
            values (gen_random_uuid(), 'note', '{"role": "postgres"}');
        """)

    def execute(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def is_past(self, lsn: str) -> bool:
        query = "select 1 from pg_replication_slots where confirmed_flush_lsn >= '{}'"
        return self.execute(query.format(lsn)) == [(1,)]

    def copy(self) -> None:
        """As it is now."""
        self.cluster.stop()
        subprocess.run(["cp", "-a", self._data, self._copy], check=True)
        self.cluster.start()

    def go_far(self, note: int) -> str:
        """Commit a note, long after the copy; the LSN of its end."""
        for _ in range(20):
            self.execute("select pg_logical_emit_message(false, 'other', repeat('x', 100000))")
        self.execute(f"insert into note values ({note})")
        return str(self.execute("select pg_current_wal_lsn()::text")[0][0])

    def fall_back(self, *, promote: bool) -> None:
        """The server is gone, and the copy in its place: a standby that is promoted, or the disk as it was."""
        self.put_copy_in_place(standby=promote)
        if promote:
            self.promote()

    def put_copy_in_place(self, *, standby: bool) -> None:
        self.cluster.stop("immediate")
        shutil.rmtree(self._data)
        self._copy.rename(self._data)
        if standby:
            signal_file = self._data / "standby.signal"
            signal_file.touch()
            shutil.chown(signal_file, self._data.owner(), self._data.group())
        self.cluster.start()

    def promote(self) -> None:
        assert self.execute("select pg_promote()") == [(True,)]


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
    def start(*arguments: str, **sections: Any) -> BridgeProcess:
        connection = {"connection": source.cluster.dsn(), "plugin": "pgoutput", "publication": "everything"}
        settings = {"source": connection, "sink": {"stdout": {}}, "http": {"listen": None}, **sections}
        running: BridgeProcess = bridge(config=settings, arguments=arguments)
        return running

    return start


def ids(running: BridgeProcess) -> list[int]:
    return [event["wal"]["record"]["id"] for event in running.events]


def go_on_from_a_copy(source: Source, running: BridgeProcess, *, promote: bool) -> None:
    """Note 1 is in the copy, note 2 was delivered and is not, note 3 came after, where note 2 and its like had been."""
    running.wait_until_streaming()
    source.execute("insert into note values (1)")
    running.wait_for_events(1)
    source.copy()
    running.wait_until_streaming(2)
    far = source.go_far(2)
    running.wait_for(lambda: source.is_past(far), "note 2's confirmation")
    os.kill(running.process.pid, signal.SIGSTOP)
    source.fall_back(promote=promote)
    source.execute("insert into note values (3)")
    assert source.execute(f"select pg_current_wal_lsn() < '{far}'") == [(True,)]
    os.kill(running.process.pid, signal.SIGCONT)


@pytest.mark.versions
def test_a_promoted_standby_gives_all_that_it_has_though_the_old_server_was_further(
    source: Source, run: Callable[..., BridgeProcess]
) -> None:
    running = run()
    go_on_from_a_copy(source, running, promote=True)

    running.wait_for(lambda: 3 in ids(running), "note 3")

    assert ids(running)[:2] == [1, 2]
    assert running.stop() == Exit.OK


@pytest.mark.versions
def test_a_standby_that_is_not_promoted_yet_is_waited_for(source: Source, run: Callable[..., BridgeProcess]) -> None:
    """As where a name or an address has moved to it already. At a start it is a mistake."""
    running = run()
    running.wait_until_streaming()
    source.execute("insert into note values (1)")
    running.wait_for_events(1)
    source.copy()
    running.wait_until_streaming(2)
    source.put_copy_in_place(standby=True)
    running.wait_for(lambda: "a standby in recovery" in running.stderr, "it has met the standby")
    refused = run()
    assert refused.wait() == Exit.SOURCE_REFUSED

    source.promote()
    source.execute("insert into note values (2)")
    running.wait_for(lambda: 2 in ids(running), "note 2")

    assert running.stderr.count("] streaming ") == 3
    assert running.stderr.count(" timeline=2") == 1
    assert running.stop() == Exit.OK


@pytest.mark.versions
def test_a_server_set_back_on_its_timeline_ends_it_and_it_can_go_on(
    source: Source, run: Callable[..., BridgeProcess]
) -> None:
    running = run()
    go_on_from_a_copy(source, running, promote=False)

    assert running.wait() == Exit.GAP
    assert "set back to an earlier state" in running.stderr
    again = run()
    again.wait_for(lambda: 3 in ids(again), "note 3")
    assert again.stop() == Exit.OK


@pytest.mark.parametrize("promote", [True, False], ids=["promoted standby", "set back"])
def test_exactly_once_stops_there_and_goes_on_from_the_slot_once_that_is_accepted(
    source: Source, run: Callable[..., BridgeProcess], kafka: Kafka, prefix: str, promote: bool
) -> None:
    sink = {"kafka": {"prefix": prefix, "client": {"bootstrap.servers": kafka.servers}}}
    sections = {"sink": sink, "delivery": "exactly_once"}

    def notes() -> set[int]:
        """From the copy's slot on, note 1 may come again."""
        messages = kafka.read(f"{prefix}public.note")
        return {json.loads(message.value() or b"")["wal"]["record"]["id"] for message in messages}

    first = run(**sections)
    first.wait_until_streaming()
    source.execute("insert into note values (1)")
    source.copy()
    first.wait_until_streaming(2)
    far = source.go_far(2)
    first.wait_for(lambda: source.is_past(far), "note 2's confirmation")
    assert first.stop() == Exit.OK
    assert notes() == {1, 2}
    source.fall_back(promote=promote)
    source.execute("insert into note values (3)")

    refused = run(**sections)
    assert refused.wait() == Exit.GAP
    assert "--accept-gap" in refused.stderr

    accepting = run("--accept-gap", **sections)
    wait_until(lambda: notes() == {1, 2, 3}, "note 3")
    assert accepting.stop() == Exit.OK
    later = run(**sections)
    source.execute("insert into note values (4)")
    wait_until(lambda: notes() == {1, 2, 3, 4}, "note 4")
    assert later.stop() == Exit.OK
