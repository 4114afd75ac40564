"""While rows are written all along, a bridge moves from wal2json to a new slot with pgoutput: beside, then one after the other."""

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import yaml

from bridge.cluster import free_port
from bridge.errors import Exit
from tests.acceptance.runbooks.conftest import Desk
from tests.command import run
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.waiting import meanwhile, wait_until


def written(database: Database) -> AbstractContextManager[None]:
    """Meanwhile somebody writes: an INSERT and an UPDATE of each book."""

    def write(done: threading.Event) -> None:
        with database.connect() as connection:
            while not done.wait(0.02):
                connection.execute("insert into book (title) values ('Foo')")
                connection.execute("update book set title = 'Bar' where id = (select max(id) from book)")

    return meanwhile(write)


def committed(database: Database) -> set[tuple[int, str]]:
    return {(number, what) for (number,) in database.execute("select id from book") for what in ("INSERT", "UPDATE")}


def delivered(kafka: Kafka, topic: str) -> dict[str, list[tuple[Any, Any, Any]]]:
    """Key, type and record of each message with an id."""
    found: dict[str, list[tuple[Any, Any, Any]]] = {}
    for message in kafka.read(topic):
        wal = json.loads(message.value() or b"")["wal"]
        event_id = dict(message.headers() or [])["id"]
        assert isinstance(event_id, bytes)
        found.setdefault(event_id.decode(), []).append((message.key(), wal["type"], wal["record"]))
    return found


def changes(events: dict[str, list[tuple[Any, Any, Any]]]) -> set[tuple[int, str]]:
    return {(record["id"], what) for (_, what, record), *_ in events.values()}


def in_order(events: dict[str, list[tuple[Any, Any, Any]]]) -> bool:
    """Whether each row's changes are in their order for a consumer that drops ids that it knows."""
    ids: dict[Any, list[str]] = {}
    for event_id, ((key, *_), *_) in events.items():
        ids.setdefault(key, []).append(event_id)
    return all(each == sorted(each) for each in ids.values())


def wait_for_changes(database: Database) -> None:
    """Until something was committed after now."""
    so_far = len(committed(database))
    wait_until(lambda: len(committed(database)) > so_far, "a change")


def forget_slots(database: Database) -> None:
    """As before the first start."""
    database.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()"
    )
    database.execute("truncate walrus_bridge.slot, walrus_bridge.replay_mark")


def test_new_slot(desk: Desk, kafka: Kafka, bridge: Callable[..., BridgeProcess]) -> None:
    database, topic = desk.database, f"{desk.prefix}public.book"
    database.execute("create table book (id int generated always as identity primary key, title text)")
    database.subscribe("book")
    settings = desk.settings({"kafka": {"client": {"bootstrap.servers": kafka.servers}}}, {"replay_window": "1GiB"})
    book = desk.book("new-slot")
    book.bind("127.0.0.1:9188", f"127.0.0.1:{free_port()}")
    first = desk.start(settings)
    first.wait_for(lambda: "replay window begun" in first.stderr, "the window")
    first.stop()
    refused = bridge(config={**settings, "source": {**settings["source"], "plugin": "pgoutput", "publication": "p"}})
    assert refused.wait() == Exit.SLOT
    book.found_in(refused.stderr)
    old = desk.start(settings)

    def second() -> BridgeProcess:
        """With the new configuration."""
        running = bridge(arguments=("run", "--config", str(desk.folder / "bridge-new.yaml")))
        running.wait_until_streaming()
        return running

    with written(database):
        book.run()
        changed = yaml.safe_load(book.text())
        new = settings | {name: settings[name] | values for name, values in changed.items()}
        (desk.folder / "bridge-new.yaml").write_text(yaml.safe_dump(new))
        book.run(until="walrus-bridge status")
        beside = second()
        beside.wait_for(lambda: "replay window begun" in beside.stderr, "the new window")
        wait_for_changes(database)
        book.run(until="until psql")
        assert old.stop() == Exit.OK
        book.run(until="confirmed_flush_lsn as stopped")
    database.slot = "realtime_2"
    database.wait_until_confirmed()
    assert beside.stop() == Exit.OK
    events = delivered(kafka, topic)
    assert changes(events) == committed(database)
    assert len(events) == len(committed(database)), "both plugins give the same ids"
    assert in_order(events)
    assert any(len(each) > 1 for each in events.values())
    assert all(event == each[0] for each in events.values() for event in each)

    forget_slots(database)
    database.slot = "realtime"
    new |= {"delivery": "exactly_once"}
    (desk.folder / "bridge-new.yaml").write_text(yaml.safe_dump(new))
    old = desk.start(settings | {"delivery": "exactly_once"})
    with written(database):
        assert run(desk.folder, "slot", "create", "--config", "bridge-new.yaml").status == Exit.OK
        ((made,),) = database.execute(
            "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = 'realtime_2'"
        )
        old.wait_for(lambda: database.is_past(made), "the old bridge is past the new slot")
        assert old.stop() == Exit.OK
        book.run(until="slot drop")
        after = second()
        book.run()
        wait_for_changes(database)
    book.finished()
    database.slot = "realtime_2"
    database.wait_until_confirmed()
    assert after.stop() == Exit.OK
    later = {name: each for name, each in delivered(kafka, topic).items() if name not in events}
    assert changes(later) == committed(database) - changes(events)
    assert in_order(later)
    assert {len(each) for each in later.values()} == {1}
