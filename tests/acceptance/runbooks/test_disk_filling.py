"""Two transactions that were left open, an archive that fails, a replay window and somebody else's slot keep the WAL."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import psycopg
import pytest
import yaml

from bridge import migrations
from bridge.cluster import temporary_cluster
from bridge.errors import Exit
from tests.acceptance.runbooks.conftest import Desk
from tests.servers.bridge import BridgeProcess
from tests.servers.postgres import Database
from tests.servers.waiting import wait_until

SEGMENTS = 6
"""Of 16 MB each."""


@pytest.fixture
def server(tmp_path: pathlib.Path, prefix: str, bridge: Callable[..., BridgeProcess]) -> Iterator[Desk]:
    """Of the test's own, for its settings are changed. It keeps little WAL that nobody needs."""
    settings = {
        "max_slot_wal_keep_size": "1GB",
        "min_wal_size": "32MB",
        "max_wal_size": "48MB",
        "archive_mode": "on",
        "archive_command": "cp %p /mnt/archive/%f",
    }
    with temporary_cluster(settings=settings) as cluster:
        migrations.deploy(cluster.dsn())
        database = Database(cluster, "postgres")
        with contextlib.closing(database.connection):
            yield Desk(database, tmp_path, prefix, bridge)


def wal_files(database: Database) -> int:
    return int(database.execute("select count(*) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'")[0][0])


def again(database: Database) -> int:
    """The checkpoint, as the runbook has the reader give it again; the files that are left."""
    database.execute("select pg_current_xact_id()")
    database.execute("checkpoint")
    return wal_files(database)


def test_disk_filling(server: Desk) -> None:
    desk, database = server, server.database
    database.execute("create table note (id serial primary key, body text)")
    database.subscribe("note")
    database.execute("select pg_create_logical_replication_slot('old_connector', 'pgoutput')")
    settings = desk.settings({}, {"replay_window": "1h"}) | {"sink": {"stdout": {}}}
    running = desk.start(settings)
    running.wait_for(lambda: "replay window begun" in running.stderr, "the replay window")
    with contextlib.closing(psycopg.connect(database.dsn, autocommit=True, application_name="import")) as left_open:
        left_open.execute("begin; insert into note (body) values ('never'); prepare transaction 'import-7'")
        left_open.execute("begin")
        left_open.execute("insert into note (body) values ('never')")
        for _ in range(SEGMENTS):
            database.execute("insert into note (body) values ('Foo')")
            database.execute("select pg_switch_wal()")
        running.wait_for_events(SEGMENTS)
        database.wait_until_confirmed()
        wait_until(
            lambda: database.execute("select failed_count from pg_stat_archiver")[0][0], "an archiving that fails"
        )
        database.execute("checkpoint")
        before = wal_files(database)
        assert before >= SEGMENTS
        book = desk.book("disk-filling")
        book.bind("19589", str(left_open.info.backend_pid))
        book.run(until="reload")
    database.execute("alter system set archive_command = 'true'")
    book.run(until="archives_again")
    archives_again = "select last_archived_time > last_failed_time from pg_stat_archiver"
    wait_until(lambda: database.execute(archives_again) == [(True,)], "an archiving that succeeds")
    book.run()

    assert running.stop() == Exit.OK
    database.execute("insert into note (body) values ('Bar')")
    assert yaml.safe_load(book.text()) == {"source": {"replay_window": None}}
    del settings["source"]["replay_window"]
    running = desk.start(settings)
    running.wait_for(lambda: "replay window dropped" in running.stderr, "the replay window's end")
    book.found_in(running.stderr)
    book.run(until="checkpoint")
    book.run(until="slot_name")
    wait_until(lambda: again(database) < before, "less WAL")
    book.run()
    book.finished()

    assert [event["wal"]["record"]["body"] for event in running.wait_for_events(1)] == ["Bar"]
    database.wait_until_confirmed()
    assert running.stop() == Exit.OK
