"""`walrus-bridge explain`, and what `check` says of row level security, on a real server."""

from collections.abc import Callable

import psycopg
import pytest

from bridge.errors import Exit
from tests.command import Done
from tests.servers.postgres import Database

SETUP = """
create table message (id int primary key, room int, owner uuid, body text);
create table member (room int, who uuid);
create table hidden (room int, who uuid);
alter table hidden enable row level security;
grant select on message, member, hidden to authenticated, anon;
alter table message enable row level security;
insert into message values (1, 1, null, 'a secret of the table');
insert into realtime.subscription (subscription_id, entity, claims)
select gen_random_uuid(), 'message', jsonb_build_object('role', 'authenticated', 'sub', gen_random_uuid(), 'n', 'a secret of the claims')
from generate_series(1, 120);
"""

Run = Callable[..., Done]


def explained(walrus_bridge: Run, database: Database, *arguments: str) -> str:
    done = walrus_bridge("explain", "public.message", "--connection", database.dsn, *arguments)
    assert done.status == Exit.OK, done.stderr
    assert "secret" not in done.stdout + done.stderr
    return done.stdout


def test_a_join_is_explained_with_its_keys_and_plan(database: Database, walrus_bridge: Run) -> None:
    database.execute(SETUP)
    database.execute(
        "create policy p on message using (exists (select from member m where m.room = message.room and m.who = auth.uid()))"
    )

    told = explained(walrus_bridge, database)

    assert "public.message, role authenticated" in told
    assert "120, with 120 distinct claims" in told
    assert "way: by a join" in told
    assert "key, evaluated once for each claims value: auth.uid()" in told
    assert "cost: 1 query for a batch" in told
    assert "JOIN LATERAL (SELECT FROM public.member m" in told
    assert "Scan on _walrus_claims_1" in told
    assert "hint: public.member has no index" in told
    assert "create index on public.member (room, who)" in told


def test_an_index_that_is_there_is_not_proposed(database: Database, walrus_bridge: Run) -> None:
    database.execute(SETUP)
    database.execute("create index on member (who)")
    database.execute(
        "create policy p on message using (room in (select m.room from member m where m.who = auth.uid()))"
    )

    assert "hint" not in explained(walrus_bridge, database)


def test_why_there_is_no_join_and_what_would_help(database: Database, walrus_bridge: Run) -> None:
    database.execute(SETUP)
    database.execute(
        "create policy p on message using (owner = auth.uid() and exists (select from hidden h where h.room = message.room))"
    )

    told = explained(walrus_bridge, database)

    assert 'way: for each claims value by itself, because policy "p" cannot be joined' in told
    assert "it reads public.hidden, which has row level security of its own" in told
    assert "cost: 120 queries for a batch" in told
    assert "plan, for 1,000 rows:" in told
    assert "A SECURITY DEFINER function around it does not help" in told
    assert "write (select auth.uid())" in told


def test_roles_to_which_nothing_applies(database: Database, walrus_bridge: Run) -> None:
    database.execute(SETUP)
    database.subscribe("message", role="postgres")
    database.subscribe("message", role="anon")
    database.execute("create policy p on message to authenticated using (true)")

    told = explained(walrus_bridge, database)

    assert "role anon" in told
    assert "no permissive policy for SELECT applies to this role" in told
    assert "role postgres" in told
    assert "row level security does not apply to this role" in told
    assert "role anon" not in explained(walrus_bridge, database, "--role", "postgres")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("public.nothing",), "there is no table public.nothing"),
        (("public.member",), "nobody subscribes to public.member"),
        (("public.message", "--role", "anon"), "no subscription with the role anon"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    database: Database, walrus_bridge: Run, arguments: tuple[str, ...], words: str
) -> None:
    database.execute(SETUP)

    walrus_bridge("explain", *arguments, "--connection", database.dsn).refused(Exit.SOURCE_REFUSED, words, "What to do")


def test_a_subscribed_table_may_be_named_without_its_schema(database: Database, walrus_bridge: Run) -> None:
    database.execute(SETUP)
    assert walrus_bridge("explain", "message", "--connection", database.dsn).stdout.startswith("public.message, role ")
    walrus_bridge("explain", "member", "--connection", database.dsn).refused(
        Exit.SOURCE_REFUSED, "member may be no subscribed table", "write schema.table"
    )

    # When another schema has one too
    database.execute("create schema app; create table app.message (id int primary key)")
    database.execute("grant usage on schema app to authenticated; grant select on app.message to authenticated")
    database.subscribe("app.message", role="authenticated")

    walrus_bridge("explain", "message", "--connection", database.dsn).refused(
        Exit.SOURCE_REFUSED, "message may be app.message, public.message"
    )


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            "owner = auth.uid()",
            "row level security is asked by a join for role authenticated",
        ),
        ("random() >= 0", 'and there are 120: policy "p" cannot be joined'),
    ],
)
def test_check_says_which_way_a_table_goes(database: Database, walrus_bridge: Run, policy: str, words: str) -> None:
    database.execute(SETUP)
    database.execute(f"create policy p on message using ({policy})")

    done = walrus_bridge("check", "--connection", database.dsn, "--slot", database.slot)

    assert words in done.stdout


def test_no_policy_runs_while_it_is_explained_or_checked(
    database: Database, walrus_bridge: Run, config_file: Callable[[str], str]
) -> None:
    # Given a policy that binds the source login too, and tells
    database.execute(SETUP)
    login = f"plain_{database.name}"
    database.execute(
        "create function tells(int) returns bool language plpgsql stable as $$ begin raise 'it ran'; end $$;"
        "create policy p on message using (tells(id));"
        f"create role {login} login replication; grant pg_read_all_data to {login}"
    )
    source = psycopg.conninfo.make_conninfo(database.dsn, user=login)
    path = config_file(
        f"source: {{connection: '{source}'}}\nrls: {{connection: '{database.dsn}'}}\nsink: {{stdout: {{}}}}\n"
    )
    try:
        told = [
            walrus_bridge("explain", "public.message", "--config", path),
            walrus_bridge("check", "--config", path),
        ]
    finally:
        database.execute(f"drop owned by {login}; drop role {login}")

    assert told[0].status == Exit.OK, told[0].stderr
    assert all("it ran" not in each.stdout + each.stderr for each in told)


@pytest.mark.parametrize(
    "body", ["return auth.jwt() ->> 'n'", "raise 'claims: %', current_setting('request.jwt.claims', true)"]
)
def test_a_function_labelled_immutable_shows_no_claims_in_the_plan(
    body: str, database: Database, walrus_bridge: Run
) -> None:
    database.execute(SETUP)
    database.execute(
        f"create function fixed() returns text language plpgsql immutable as $$ begin {body}; end $$;"
        "create policy p on message using (body = fixed())"
    )

    assert "by itself" in explained(walrus_bridge, database)


@pytest.mark.parametrize(
    ("policy", "why", "hint"),
    [
        ("owner = me()", "it calls public.me()", "public.me() is joined once it is in SQL"),
        ("may(room)", "it calls public.may()", "alter function public.may(integer) stable"),
        ("may(room)", "it calls public.may()", "public.may(integer) gets the row's columns"),
        ("owner = fixed()", "cannot be joined", "alter function public.fixed() stable"),
        (
            "private.mine(owner)",
            "in a schema that the role may not use",
            "grant usage on schema private to authenticated",
        ),
        ("tableoid > 1", "it reads system columns", "the policies read tableoid"),
        ("exists (select from seen where seen.room = message.room)", "which is a view", "name the tables behind it"),
    ],
)
def test_what_keeps_a_policy_from_being_joined_comes_with_a_hint(
    policy: str, why: str, hint: str, database: Database, walrus_bridge: Run
) -> None:
    database.execute(SETUP)
    database.execute(
        "create view seen as select * from member; grant select on seen to authenticated; create schema private;"
        "create function me() returns uuid language plpgsql stable as $$ begin return auth.uid(); end $$;"
        "create function may(int) returns bool language plpgsql as $$ begin return true; end $$;"
        "create function fixed() returns uuid language plpgsql immutable as $$ begin return auth.uid(); end $$;"
        "create function private.mine(uuid) returns bool language sql stable return $1 = auth.uid();"
        f"create policy p on message using ({policy})"
    )

    told = explained(walrus_bridge, database)

    assert why in told
    assert hint in told
    # The query is one that PostgreSQL takes.
    assert "(cost=" in told


def test_with_judge_current_postgresql_itself_judges(
    database: Database, walrus_bridge: Run, config_file: Callable[[str], str]
) -> None:
    database.execute(SETUP)
    database.execute("create policy p on message using (owner = auth.uid())")
    path = config_file(f"source: {{connection: '{database.dsn}'}}\nrls: {{judge: current}}\nsink: {{stdout: {{}}}}\n")

    explain, check = (walrus_bridge(*words, "--config", path) for words in (["explain", "public.message"], ["check"]))

    assert "because rls.judge is current" in explain.stdout
    assert 'join "public"."message" as now' in explain.stdout
    assert "(cost=" in explain.stdout
    assert "and there are 120: rls.judge is current" in check.stdout


def test_a_judging_login_without_temporary_tables_gets_the_grant(
    database: Database, walrus_bridge: Run, config_file: Callable[[str], str]
) -> None:
    # Given a hardened database
    database.execute(SETUP)
    login = f"judge_{database.name}"
    database.execute(
        f"create policy p on message using (owner = auth.uid()); create role {login} login noinherit;"
        f"grant authenticated to {login}; revoke temporary on database {database.name} from public"
    )
    judging = psycopg.conninfo.make_conninfo(database.dsn, user=login)
    path = config_file(
        f"source: {{connection: '{database.dsn}'}}\nrls: {{connection: '{judging}'}}\nsink: {{stdout: {{}}}}\n"
    )
    try:
        told = [walrus_bridge(*words, "--config", path) for words in (["explain", "public.message"], ["check"])]
    finally:
        database.execute(f"drop owned by {login}; drop role {login}")

    for each in told:
        assert "permission denied to create temporary tables" in each.stdout
        assert f"grant temporary on database {database.name} to {login}" in each.stdout
