"""`walrus-bridge explain` on a real server: the way, the query, its plan, the cost, and hints."""

import pathlib
import uuid

import psycopg
import pytest

from bridge.errors import Exit
from tests.servers.postgres import Database

SETUP = """
create schema app;
create schema private;
grant usage on schema app to authenticated, anon;
create table app.note (id int primary key, room int, owner uuid, body text);
create table app.member (room int, user_id uuid);
create table app.secret (room int, user_id uuid);
alter table app.secret enable row level security;
grant select on all tables in schema app to authenticated, anon;
insert into app.note values (1, 1, 'a11ce000-0000-4000-8000-000000000001', 'geheim');
create function app.may_read(int, uuid) returns bool language plpgsql volatile as $$ begin return true; end $$;
create function app.me() returns uuid language plpgsql stable as $$ begin return auth.uid(); end $$;
create function private.mine(uuid) returns bool language sql stable return $1 = auth.uid();
alter table app.note enable row level security;
"""


@pytest.fixture
def noted(database: Database) -> Database:
    database.execute(SETUP)
    return database


def subscribe(database: Database, count: int, role: str = "authenticated") -> None:
    database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims) select gen_random_uuid(), 'app.note',"
        " jsonb_build_object('role', %s::text, 'sub', 'a11ce000-0000-4000-8000-' || lpad(n::text, 12, '0'))"
        " from generate_series(1, %s) as n",
        (role, count),
    )


def explained(walrus_bridge, database: Database, *arguments: str) -> str:
    done = walrus_bridge("explain", "app.note", "--connection", database.dsn, *arguments)
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    # Neither rows nor claims are ever shown.
    assert "geheim" not in done.stdout
    assert "a11ce000" not in done.stdout
    return str(done.stdout)


def test_a_join_is_shown_with_its_branches_queries_plans_and_cost(walrus_bridge, noted: Database) -> None:
    noted.execute("""
        create policy own on app.note to authenticated using (owner = auth.uid());
        create policy room on app.note to authenticated using (
          exists (select from app.member m where m.room = note.room and m.user_id = (select auth.uid())))
    """)
    subscribe(noted, 150)

    text = explained(walrus_bridge, noted)

    assert text.startswith("app.note for the role authenticated: as a join of all claims\n")
    assert "150 subscriptions, 150 distinct claims" in text
    assert "keys        auth.uid()\n" in text
    assert "15,000 decisions for 100 rows, in 2 queries a batch whatever the number of claims; PostgreSQL's" in text
    assert "query 1 of 2, about the row and the claims" in text
    assert '"pg_temp"."_walrus_claims_1" as _walrus_claims' in text
    assert "Seq Scan on _walrus_claims_1 _walrus_claims" in text
    assert "create index on app.member (room, user_id)" in text
    assert text.count("→") == 1

    # When the index is there
    noted.execute("create index on app.member (user_id, room)")
    assert "→" not in explained(walrus_bridge, noted)


def test_the_simple_way_is_shown_with_why_and_what_to_do(walrus_bridge, noted: Database) -> None:
    noted.execute(
        "create policy readers on app.note to authenticated using (app.may_read(room, owner) and owner = auth.uid())"
    )
    subscribe(noted, 120)

    text = explained(walrus_bridge, noted)

    assert text.startswith("app.note for the role authenticated: for each claims value by itself\n")
    assert 'policy "readers" cannot be joined: it calls app.may_read()' in text
    assert "in 120 queries a batch, one for each claims value" in text
    assert "slow, for there are 100 or more" in text
    assert "from unnest($1::text[]) with ordinality" in text
    assert "Function Scan on unnest" in text
    assert "alter function app.may_read(integer,uuid) stable" in text
    assert "app.may_read(integer,uuid) gets the row's columns" in text
    assert "calls auth.uid() for every row: (select auth.uid())" in text


@pytest.mark.parametrize(
    ("policy", "why", "hint"),
    [
        (
            "exists (select from app.secret s where s.room = note.room and s.user_id = auth.uid())",
            "app.secret, which has row level security of its own",
            "A SECURITY DEFINER function around it does not help",
        ),
        ("owner = app.me()", "it calls app.me()", "app.me() is joined once it is in SQL"),
        (
            "private.mine(owner)",
            "in a schema that the role may not use",
            "grant usage on schema private to authenticated",
        ),
        ("tableoid = 'app.note'::regclass", "it reads system columns", "the policies read tableoid"),
    ],
)
def test_what_keeps_a_policy_from_being_joined_comes_with_a_hint(
    policy: str, why: str, hint: str, walrus_bridge, noted: Database
) -> None:
    noted.execute(f"create policy readers on app.note to authenticated using ({policy})")
    subscribe(noted, 5)

    text = explained(walrus_bridge, noted)

    assert why in text
    assert hint in text


def test_each_role_is_explained_or_the_one_that_is_named(walrus_bridge, noted: Database) -> None:
    noted.execute("create policy own on app.note to authenticated using (owner = auth.uid())")
    subscribe(noted, 2)
    subscribe(noted, 1, "anon")
    subscribe(noted, 1, "postgres")

    text = explained(walrus_bridge, noted)

    assert "role anon: row level security shows nothing\n" in text
    assert "role authenticated: as a join of all claims, from 4 distinct claims on" in text
    assert "role postgres: not subject to row level security\n" in text
    only = explained(walrus_bridge, noted, "--role", "anon")
    assert "authenticated" not in only


def test_a_role_without_subscriptions_is_explained_with_made_up_claims(walrus_bridge, noted: Database) -> None:
    noted.execute("create policy own on app.note to authenticated using (owner = auth.uid())")

    text = explained(walrus_bridge, noted, "--role", "authenticated")

    assert "none; explained for claims that hold the role only" in text
    assert "_walrus_key_0" in text


def test_a_function_labelled_immutable_does_not_show_claims_in_the_plan(walrus_bridge, noted: Database) -> None:
    noted.execute("""
        create function app.fixed() returns uuid language plpgsql immutable as $$ begin return auth.uid(); end $$;
        create policy readers on app.note to authenticated using (owner = app.fixed() and app.may_read(room, owner))
    """)
    subscribe(noted, 5)

    text = explained(walrus_bridge, noted)

    assert "alter function app.fixed() stable" in text


def test_a_policy_that_raises_when_planned_tells_no_value(walrus_bridge, noted: Database) -> None:
    noted.execute("""
        create function app.raises() returns uuid language plpgsql immutable as $$
          begin raise 'claims: %', current_setting('request.jwt.claims', true); end $$;
        create policy readers on app.note to authenticated using (owner = app.raises())
    """)
    subscribe(noted, 5)

    assert "PostgreSQL cannot plan it: P0001 RaiseException" in explained(walrus_bridge, noted)


def test_a_judging_login_without_temporary_tables_gets_the_grant(
    walrus_bridge, noted: Database, tmp_path: pathlib.Path, config_file
) -> None:
    judge = f"judge_{uuid.uuid4().hex[:8]}"
    noted.execute(
        f"create role {judge} login noinherit; grant authenticated to {judge};"
        f"revoke temporary on database {noted.name} from public;"
        "create policy own on app.note to authenticated using (owner = auth.uid())"
    )
    subscribe(noted, 5)
    dsn = psycopg.conninfo.make_conninfo(noted.dsn, user=judge)
    try:
        path = config_file(
            f"source: {{connection: '{noted.dsn}'}}\nrls: {{connection: '{dsn}'}}\nsink: {{stdout: {{}}}}\n"
        )
        done = walrus_bridge("explain", "note", "--config", path)
        assert done.status == 0, done.stderr
        assert "permission denied to create temporary tables" in done.stdout
        assert f"grant temporary on database {noted.name} to {judge}" in done.stdout
    finally:
        noted.execute(f"drop owned by {judge}; drop role {judge}")


def test_with_judge_current_postgresql_itself_judges(walrus_bridge, noted: Database, config_file) -> None:
    noted.execute("create policy own on app.note to authenticated using (owner = auth.uid())")
    subscribe(noted, 5)
    path = config_file(
        f"source: {{connection: '{noted.dsn}'}}\nrls: {{judge: current}}\nsink: {{stdout: {{}}}}\nhttp: {{listen: null}}\n"
    )

    done = walrus_bridge("explain", "app.note", "--config", path)

    assert done.status == 0, done.stderr
    assert "rls.judge is current" in done.stdout
    assert 'join "app"."note" as now' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["app.nothing"], "there is no table app.nothing"),
        (["app.note"], "nobody is subscribed to app.note"),
        (["twice"], "twice may be app.twice, private.twice"),
        (["app.note", "--role", "nobody"], "there is no role nobody"),
    ],
)
def test_what_is_not_there_is_said(arguments: list[str], says: str, walrus_bridge, noted: Database) -> None:
    noted.execute("create table app.twice (); create table private.twice ()")

    done = walrus_bridge("explain", *arguments, "--connection", noted.dsn)

    done.refused(Exit.TABLE, says, "What to do")
