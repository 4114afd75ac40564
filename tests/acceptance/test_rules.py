"""The rules of visibility by the bridge as a process: on every server version, and for changes made while it was stopped."""

from typing import Any

import pytest

from bridge.errors import Exit
from tests.acceptance.test_streaming import config
from tests.servers.postgres import Database

pytestmark = [pytest.mark.versions, pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])]

TABLES = """
create table note (id int primary key, owner text, secret text, parity int generated always as (id % 2) stored);
alter table note replica identity full;
alter table note enable row level security;
create policy own on note using (owner = auth.jwt() ->> 'sub');
grant select (id, owner, parity) on note to anon;
create table visit (id int, day int, primary key (id, day)) partition by list (day);
create table visit_1 partition of visit for values in (1);
create table visit_2 partition of visit for values in (2);
grant select on visit to anon;
"""


def summary(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """(type, table, record, old_record) of each event."""
    return [
        (each["wal"]["type"], each["wal"]["table"], each["wal"].get("record"), each["wal"].get("old_record"))
        for each in events
    ]


def test_rows_columns_partitions_and_generated_columns(database: Database, bridge: Any, plugin: str) -> None:
    database.execute(TABLES)
    mine = database.subscribe("note", role="anon", sub="a")
    database.subscribe("visit", role="anon")
    settings = config(database, plugin)
    version = database.connection.info.server_version // 10000
    if plugin == "pgoutput" and version >= 18:
        database.execute("alter publication everything set (publish_generated_columns = stored)")
    running = bridge(config=settings)
    running.wait_until_streaming()

    database.execute("insert into note values (1, 'a', 'x'), (2, 'b', 'x')")
    database.execute("update note set secret = 'y'")
    database.execute("delete from note")
    database.execute("insert into visit values (1, 1)")
    database.execute("update visit set day = 2")
    running.wait_for_events(6)
    assert running.stop() == Exit.OK

    whole = {"id": 1, "owner": "a"}
    if plugin == "wal2json" or version >= 18:
        whole["parity"] = 1
    assert summary(running.events) == [
        ("INSERT", "note", whole, None),
        ("UPDATE", "note", whole, whole),
        ("DELETE", "note", None, whole),
        ("INSERT", "visit", {"id": 1, "day": 1}, None),
        ("DELETE", "visit", None, {"id": 1, "day": 1}),
        ("INSERT", "visit", {"id": 1, "day": 2}, None),
    ]
    for event in running.events[:3]:
        assert event["subscription_ids"] == [mine]
        assert [column["name"] for column in event["wal"]["columns"]] == ["id", "owner", "parity"]


def test_what_was_done_while_it_was_stopped_counts_as_it_stands_at_the_start(
    database: Database, bridge: Any, plugin: str
) -> None:
    # Given one table for each thing that will happen, each with a subscriber
    names = ["revoked", "hidden", "altered", "renamed", "dropped", "swapped", "kept"]
    role = f"{database.name}_role"
    database.execute(f"create role {role}")
    subscriptions = {}
    for name in names:
        database.execute(f"create table {name} (id int primary key, body text); grant select on {name} to anon, {role}")
        subscriptions[name] = database.subscribe(name, role="anon")
    database.subscribe("kept", role=role)
    settings = config(database, plugin)
    first = bridge(config=settings)
    first.wait_until_streaming()
    assert first.stop() == Exit.OK

    # When rows are written, and then everything changes
    for name in names:
        database.execute(f"insert into {name} values (1, 'old')")
    database.execute(f"""
        revoke select on revoked from anon;
        alter table hidden enable row level security;
        alter table altered drop body, add extra int, alter id type bigint;
        alter table renamed rename to fresh;
        drop table dropped;
        alter table swapped rename to other;
        create table swapped (number int primary key, secret text);
        grant select on swapped to anon;
        insert into realtime.subscription (subscription_id, entity, claims)
          values (gen_random_uuid(), 'swapped', '{{"role": "anon"}}');
        drop owned by {role};
        drop role {role};
    """)
    database.execute(
        "insert into altered values (2, 5); insert into fresh values (2, 'new'); insert into kept values (2)"
    )
    second = bridge(config=settings)
    second.wait_until_streaming()
    database.wait_until_confirmed()
    assert second.stop() == Exit.OK

    # Then all are judged as they stand now
    assert [(each["wal"]["table"], each["errors"]) for each in second.events if each["errors"]] == [
        ("revoked", ["Error 401: Unauthorized"])
    ]
    delivered = [each for each in second.events if not each["errors"]]
    assert summary(delivered) == [
        ("INSERT", "altered", {"id": 1}, None),
        ("INSERT", "kept", {"id": 1, "body": "old"}, None),
        ("INSERT", "altered", {"id": 2, "extra": 5}, None),
        ("INSERT", "fresh", {"id": 2, "body": "new"}, None),
        ("INSERT", "kept", {"id": 2, "body": None}, None),
    ]
    assert [column["type"] for column in delivered[0]["wal"]["columns"]] == ["int8", "int4"]
    # Whose role is gone gets nothing; the others get theirs.
    assert [each["subscription_ids"] for each in delivered] == [
        [subscriptions[name]] for name in ("altered", "kept", "altered", "renamed", "kept")
    ]
    # The new `swapped` has a subscriber, so the row of the old one is not passed over. Of the names `renamed` and `dropped`
    # a bridge that starts later knows nothing.
    assert [letter["table"] for letter in second.dead_letters] == ["swapped"]
