"""The bridge as deploy/roles.sql has it: no superuser, and a judging login that can do nothing but become roles."""

import pathlib
from typing import Any

import psycopg
import pytest

from bridge.errors import Exit
from tests.servers.postgres import Database


def config(database: Database, source: str, judge: str) -> dict[str, Any]:
    return {
        "source": {"connection": source, "slot": database.slot},
        "rls": {"connection": judge},
        "migrations": "check",
        "sink": {"stdout": {}},
        "http": {"listen": None},
    }


def test_the_logins_of_roles_sql_are_enough(database: Database, logins: tuple[str, str], bridge: Any) -> None:
    database.execute("""
        create schema app;
        grant usage on schema app to authenticated;
        create type app.pair as (x int, y text);
        create table app.note (id int primary key, owner uuid, pair app.pair, tags text[]);
        grant select on app.note to authenticated;
        alter table app.note enable row level security;
        create policy own on app.note to authenticated using (owner = auth.uid());
    """)
    mine = "a11ce000-0000-4000-8000-000000000001"
    subscription = database.subscribe("app.note", role="authenticated", sub=mine)
    running = bridge(config=config(database, *logins))
    running.wait_until_streaming()

    database.execute(
        "insert into app.note values (1, %s, (1, 'a'), '{x}'), (2, gen_random_uuid(), null, null)", (mine,)
    )
    database.wait_until_confirmed()

    assert [event["wal"]["record"] for event in running.events] == [
        {"id": 1, "owner": mine, "pair": {"x": 1, "y": "a"}, "tags": ["x"]}
    ]
    assert running.events[0]["subscription_ids"] == [subscription]
    assert running.dead_letters == []
    assert running.stop() == Exit.OK


def test_they_are_enough_for_a_replay_and_its_window(
    database: Database, logins: tuple[str, str], bridge: Any, walrus_bridge: Any, tmp_path: pathlib.Path
) -> None:
    database.execute("create table note (id int primary key); grant select on note to authenticated")
    database.subscribe("note", role="authenticated")
    settings = config(database, *logins)
    settings["source"]["replay_window"] = "1GiB"
    running = bridge(config=settings)
    # While PostgreSQL copies it, it has none yet.
    query = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s and confirmed_flush_lsn is not null"
    ((begin,),) = running.wait_for(lambda: database.execute(query, (f"{database.slot}_replay",)), "the window")
    database.execute("insert into note values (1)")
    running.wait_for_events(1)

    done = walrus_bridge("replay", "--config", str(tmp_path / "bridge.yaml"), "--from-lsn", begin)

    assert done.status == Exit.OK, done.stderr
    assert '"record":{"id":1}' in done.stdout
    assert "cannot be kept" not in running.stderr
    assert running.stop() == Exit.OK


@pytest.mark.parametrize(
    "deed",
    [
        "perform set_config('role', 'none', true); perform pg_drop_replication_slot(slot_name) from pg_replication_slots",
        "perform set_config('role', 'none', true); delete from public.note",
        "perform set_config('role', 'none', false)",
        "perform set_config('request.jwt.claims', '{}', true)",
        "perform set_config('transaction_read_only', 'off', true); delete from public.note",
        "perform pg_terminate_backend(pid) from pg_stat_replication",
    ],
)
def test_a_policy_that_reaches_for_more_gets_nothing(
    database: Database, logins: tuple[str, str], bridge: Any, deed: str
) -> None:
    database.execute(f"""
        create table note (id int primary key);
        grant select on note to anon;
        create function reach() returns bool language plpgsql volatile as $$ begin {deed}; return true; end $$;
        alter table note enable row level security;
        create policy reaching on note to anon using (reach());
    """)
    database.subscribe("note", role="anon")
    running = bridge(config=config(database, *logins))
    running.wait_until_streaming()

    database.execute("insert into note values (1)")
    database.wait_until_confirmed()

    assert running.events == []
    assert len(running.dead_letters) == 1
    assert database.execute("select id from note") == [(1,)]
    assert running.stop() == Exit.OK


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("perform set_config('role', 'none', true)", "a policy changed the role or the settings"),
        ("perform set_config('request.jwt.claims', '{}', true)", "a policy changed the role or the settings"),
        ("perform set_config('statement_timeout', '0', true)", "a policy changed the role or the settings"),
        ("perform set_config('role', 'none', true); delete from public.note", "read-only transaction"),
        (
            "perform set_config('role', 'none', true); perform pg_drop_replication_slot(slot_name) from pg_replication_slots",
            "is active for PID",
        ),
    ],
)
def test_a_login_that_is_too_mighty_is_watched(database: Database, bridge: Any, deed: str, reason: str) -> None:
    database.execute(f"""
        create table note (id int primary key);
        grant select on note to anon;
        create function reach() returns bool language plpgsql volatile as $$ begin {deed}; return true; end $$;
        alter table note enable row level security;
        create policy reaching on note to anon using (reach());
    """)
    database.subscribe("note", role="anon")
    running = bridge(config=config(database, database.dsn, database.dsn))
    running.wait_until_streaming()

    database.execute("insert into note values (1)")
    database.wait_until_confirmed()

    assert running.events == []
    (letter,) = running.dead_letters
    assert reason in letter["reason"]
    assert database.execute("select id from note") == [(1,)]
    assert running.stop() == Exit.OK


def test_a_judging_login_that_may_not_become_a_role_stops_the_bridge(
    database: Database, logins: tuple[str, str], bridge: Any
) -> None:
    database.execute("""
        create role stranger;
        create table note (id int primary key);
        grant select on note to stranger;
        alter table note enable row level security;
        create policy everyone on note using (true);
    """)
    try:
        database.subscribe("note", role="stranger")
        running = bridge(config=config(database, *logins))
        running.wait_until_streaming()
        database.execute("insert into note values (1)")
        assert running.wait() == Exit.SOURCE_REFUSED
        assert "SET ROLE stranger" in running.stderr
        assert running.events == []
    finally:
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute("drop owned by stranger cascade; drop role stranger")


@pytest.mark.parametrize("granted", [True, False])
def test_in_a_hardened_database_policies_are_joined_by_the_grant_of_roles_sql(
    database: Database, logins: tuple[str, str], bridge: Any, granted: bool
) -> None:
    # Given a database where PUBLIC may make no temporary tables, and the grant of roles.sql or none
    database.execute(f"revoke temporary on database {database.name} from public")
    if not granted:
        database.execute(f"revoke temporary on database {database.name} from judge_{database.name}")
    database.execute("""
        create table note (id int primary key, owner uuid);
        grant select on note to authenticated;
        alter table note enable row level security;
        create policy own on note to authenticated using (owner = auth.uid());
    """)
    users = [f"a11ce000-0000-4000-8000-00000000000{number}" for number in range(8)]
    subscriptions = [database.subscribe("note", role="authenticated", sub=user) for user in users]
    running = bridge(config=config(database, *logins))
    running.wait_until_streaming()

    # When each user gets a row
    database.execute("insert into note select * from unnest(array[0, 1, 2, 3, 4, 5, 6, 7], %s::uuid[])", (users,))
    database.wait_until_confirmed()

    # Then each sees their own, whichever way it goes
    assert [event["subscription_ids"] for event in running.events] == [[each] for each in subscriptions]
    assert ("way=by a join" in running.stderr.replace("'", "")) == granted, running.stderr
    assert ("permission denied to create temporary tables" in running.stderr) == (not granted)
    assert running.dead_letters == []
    assert running.stop() == Exit.OK


def test_a_judging_login_in_another_database_is_refused(database: Database, bridge: Any) -> None:
    elsewhere = database.cluster.dsn("postgres")
    running = bridge(config=config(database, database.dsn, elsewhere))

    assert running.wait() == Exit.SOURCE_REFUSED
    assert "rls.connection leads to another server or database" in running.stderr
    assert "What to do" in running.stderr
