"""The server invalidates the slot while the bridge is down; later somebody drops it, and the replay window still has all."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator

import pytest

from bridge import migrations
from bridge.cluster import temporary_cluster
from bridge.errors import Exit
from tests.acceptance.runbooks.conftest import Desk
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.postgres import SUPABASE, Database
from tests.servers.waiting import wait_until

ALICE = "a11ce000-0000-4000-8000-000000000001"
ACTIVE = "select active from pg_replication_slots where slot_name = 'realtime'"
TABLE = """
create table book (id int primary key, title text, owner uuid);
alter table book enable row level security;
create policy own on book to authenticated using (owner = auth.uid());
grant select on book to authenticated;
"""


@pytest.fixture
def server(tmp_path: pathlib.Path, prefix: str, bridge: Callable[..., BridgeProcess]) -> Iterator[Desk]:
    """Of the test's own: it keeps little WAL, for slots too."""
    settings = {"max_slot_wal_keep_size": "48MB", "min_wal_size": "32MB", "max_wal_size": "48MB"}
    with temporary_cluster(settings=settings) as cluster:
        database = Database(cluster, "postgres")
        with contextlib.closing(database.connection):
            database.execute(SUPABASE)
            migrations.deploy(cluster.dsn())
            yield Desk(database, tmp_path, prefix, bridge)


def write(database: Database, *numbers: int) -> None:
    for number in numbers:
        database.execute("insert into book values (%s, %s, %s)", (number, f"Book {number}", ALICE))


def invalidate(database: Database) -> None:
    def lost() -> bool:
        database.execute("select pg_current_xact_id()")
        database.execute("select pg_switch_wal()")
        database.execute("checkpoint")
        query = "select wal_status from pg_replication_slots where slot_name = 'realtime'"
        return database.execute(query) == [("lost",)]

    wait_until(lost, "the slot's loss")


def ended(running: BridgeProcess, status: Exit) -> str:
    assert running.wait() == status
    return running.stderr


def test_slot_lost(server: Desk, kafka: Kafka, bridge: Callable[..., BridgeProcess]) -> None:
    desk, database = server, server.database
    database.execute(TABLE)
    database.subscribe("book", "authenticated", sub=ALICE)
    settings = desk.settings({"kafka": {"client": {"bootstrap.servers": kafka.servers}}})
    running = desk.start(settings)
    with database.connect() as open_for_long:  # so that the slot's catalog_xmin is from before book 1
        open_for_long.execute("begin; select pg_current_xact_id()")
        write(database, 1, 2)
        database.wait_until_confirmed()
        assert running.stop() == Exit.OK
    write(database, 3, 4)
    database.execute("update book set title = 'Foo' where id = 1")
    invalidate(database)
    said = ended(bridge(config=settings), Exit.SLOT)

    book = desk.book("slot-lost")
    (xid,) = database.execute("select catalog_xmin::text from pg_replication_slots")[0]
    book.bind("741", xid)
    book.found_in(said)
    book.run(until="slot drop")
    book.run()
    settings["source"]["replay_window"] = "1GiB"
    running = desk.start(settings)
    running.wait_for(lambda: "replay window begun" in running.stderr, "the replay window")
    book.found_in(running.stderr)
    book.run(until="tail")
    database.wait_until_confirmed()
    book.run()

    write(database, 5)
    database.wait_until_confirmed()
    assert running.stop() == Exit.OK
    wait_until(lambda: database.execute(ACTIVE) == [(False,)], "the walsender's end")
    database.execute("select pg_drop_replication_slot('realtime')")
    write(database, 6, 7)
    book.found_in(ended(bridge(config=settings), Exit.GAP))
    book.run(until="replay --config")
    running = bridge(config=settings, arguments=("--accept-gap",))
    running.wait_until_streaming()
    book.run(until="status")
    write(database, 8)
    database.wait_until_confirmed()
    running.wait_for(lambda: desk.lag() == 0, "no lag")
    book.run()
    book.finished()

    assert running.stop() == Exit.OK
    events = [json.loads(message.value() or b"")["wal"] for message in kafka.read(f"{desk.prefix}public.book")]
    newest = {event["record"]["id"]: event["record"]["title"] for event in events}
    assert newest == {1: "Foo"} | {number: f"Book {number}" for number in range(2, 9)}
