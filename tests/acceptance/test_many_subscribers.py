"""Many subscribers of one table under row level security, by the bridge as a process."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.servers.bridge import BridgeProcess
from tests.servers.postgres import Database

SUBSCRIBERS = 300

SETUP = """
create table note (id int primary key, owner uuid);
create publication everything for all tables;
grant select on note to authenticated;
alter table note enable row level security;
create function uid(number int) returns uuid language sql immutable
  return ('00000000-0000-0000-0000-' || lpad(number::text, 12, '0'))::uuid;
"""
SUBSCRIBE = """
insert into realtime.subscription (subscription_id, entity, claims)
select uid(n), 'note', jsonb_build_object('role', 'authenticated', 'sub', uid(n)) from generate_series(%s::int, %s::int) n
"""


@pytest.fixture
def run(database: Database, bridge: Any) -> Callable[..., BridgeProcess]:
    def start(judge: str | None = None) -> BridgeProcess:
        source = {"connection": database.dsn, "slot": database.slot, "plugin": "pgoutput", "publication": "everything"}
        config = {"source": source, "sink": {"stdout": {}}, "http": {"listen": None}}
        if judge is not None:
            config["rls"] = {"connection": psycopg.conninfo.make_conninfo(database.dsn, user=judge)}
        running: BridgeProcess = bridge(config=config)
        running.wait_until_streaming()
        return running

    return start


def audiences(running: BridgeProcess) -> dict[int, list[int]]:
    """By the row's id: the numbers of those who got it."""
    return {
        event["wal"]["record"]["id"]: [int(each[-12:]) for each in event["subscription_ids"]]
        for event in running.events
    }


@pytest.mark.parametrize(
    ("policy", "way"),
    [
        ("owner = auth.uid()", "by a join"),
        ("owner = any (array[auth.uid()]) and random() >= 0", "for each claims value by itself"),
    ],
)
def test_each_gets_its_own_rows_whichever_way_they_are_judged(
    database: Database, run: Callable[..., BridgeProcess], policy: str, way: str
) -> None:
    database.execute(SETUP)
    database.execute(f"create policy own on note to authenticated using ({policy})")
    database.execute(SUBSCRIBE, (1, SUBSCRIBERS))
    running = run()

    database.execute("insert into note select n, uid(n) from generate_series(1, %s::int) n", (SUBSCRIBERS + 5,))
    running.wait_for_events(SUBSCRIBERS)
    database.execute(SUBSCRIBE, (SUBSCRIBERS + 1, SUBSCRIBERS + 1))
    database.execute("delete from realtime.subscription where subscription_id = uid(1)")
    database.execute("insert into note values (1001, uid(1)), (1002, uid(2)), (1003, uid(%s::int))", (SUBSCRIBERS + 1,))
    running.wait_for_events(SUBSCRIBERS + 2)

    last = {1002: [2], 1003: [SUBSCRIBERS + 1]}
    assert audiences(running) == {number: [number] for number in range(1, SUBSCRIBERS + 1)} | last
    assert f"way='{way}'" in running.stderr
    assert running.dead_letters == []


def test_claims_that_a_policy_stumbles_over_keep_nobody_else_from_the_join(
    database: Database, run: Callable[..., BridgeProcess]
) -> None:
    database.execute(SETUP)
    database.execute("create policy own on note to authenticated using (owner = auth.uid())")
    database.execute(SUBSCRIBE, (1, SUBSCRIBERS))
    broken = {"role": "authenticated", "sub": "no uuid"}
    database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims) values (uid(999), 'note', %s)",
        (json.dumps(broken),),
    )
    running = run()

    database.execute("insert into note values (1, uid(1)), (2, uid(2))")
    running.wait_for_events(2)
    running.wait_for(lambda: len(running.dead_letters) == 2, "a dead letter for each row")

    assert audiences(running) == {1: [1], 2: [2]}
    assert all(
        [each["subscription_id"][-3:] for each in letter["undecided"]] == ["999"] for letter in running.dead_letters
    )
    assert "way='by a join'" in running.stderr


def test_a_judging_login_that_may_make_no_temporary_table_still_judges(
    database: Database, run: Callable[..., BridgeProcess]
) -> None:
    judge = f"judge_{database.name}"
    database.execute(SETUP)
    database.execute("create policy own on note to authenticated using (owner = auth.uid())")
    database.execute(SUBSCRIBE, (1, 20))
    database.execute(f"create role {judge} login noinherit; grant authenticated to {judge}")
    database.execute(f"revoke temporary on database {database.name} from public")
    try:
        running = run(judge)
        database.execute("insert into note values (1, uid(1)), (2, uid(2))")
        running.wait_for_events(2)

        assert audiences(running) == {1: [1], 2: [2]}
        assert "permission denied to create temporary tables" in running.stderr
    finally:
        running.kill()
        database.execute(f"drop role {judge}")
