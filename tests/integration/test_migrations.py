"""The migrations, by real sqitch on a real server."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo as pg_conninfo
from psycopg import pq

from bridge import migrations, sqitch
from bridge.errors import MigrationError

CHANGES = ["realtime", "subscription", "bridge_state", "replay_mark"]

SUBSCRIBE = """
create table book (id int primary key);
insert into realtime.subscription (subscription_id, entity, claims)
values ('50000000-0000-4000-8000-000000000001', 'book', '{"role": "postgres"}');
"""

# What a database of Supabase has, of an earlier age: no selected_columns, no action_filter, fewer operators.
SUPABASE = """
create schema realtime;
create type realtime.equality_op as enum ('eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in');
create type realtime.user_defined_filter as (column_name text, op realtime.equality_op, value text, negate boolean);
create function realtime.to_regrole(role_name text) returns regrole immutable language sql
  as 'select role_name::regrole';
create table realtime.subscription (
  id bigint generated always as identity primary key, subscription_id uuid not null, entity regclass not null,
  filters realtime.user_defined_filter[] not null default '{}', claims jsonb not null,
  claims_role regrole not null generated always as (realtime.to_regrole(claims ->> 'role')) stored,
  created_at timestamp not null default timezone('utc', now()));
create unique index on realtime.subscription (subscription_id, entity, filters);
create function realtime.subscription_check_filters() returns trigger language plpgsql
  as 'begin return new; end';
create trigger tr_check_filters before insert or update on realtime.subscription
  for each row execute function realtime.subscription_check_filters();
grant usage on schema realtime to public;
"""

# Everything in the schema realtime, with the version of each catalog row: what is the same here was not touched.
CATALOG = """
with own as (
  select 'schema' as kind, nspname::text as name, oid, xmin::text from pg_namespace where nspname = 'realtime'
  union all select 'relation', relname, oid, xmin::text from pg_class where relnamespace = 'realtime'::regnamespace
  union all select 'type', typname, oid, xmin::text from pg_type where typnamespace = 'realtime'::regnamespace
  union all select 'function', proname, oid, xmin::text from pg_proc where pronamespace = 'realtime'::regnamespace)
select * from own
union all select 'label', enumlabel, enumtypid, xmin::text from pg_enum where enumtypid in (select oid from own)
union all select 'trigger', tgname, oid, xmin::text from pg_trigger where tgrelid in (select oid from own)
union all select 'column', attname, attrelid, xmin::text from pg_attribute where attrelid in (select oid from own)
union all select 'comment', description, objoid, xmin::text from pg_description where objoid in (select oid from own)
order by 1, 2, 3
"""


def query(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def schemas(dsn: str) -> set[object]:
    return {name for (name,) in query(dsn, "select nspname from pg_namespace")}


def without_sqitch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A psql in front of the real one, which writes down its environment and all command lines that can be seen."""
    psql = shutil.which("psql")
    record = tmp_path / "record"
    folder = tmp_path / "bin"
    folder.mkdir()
    wrapper = folder / "psql"
    wrapper.write_text(
        f"#!/bin/sh\nenv | grep ^PG >> {record}.env\ncat /proc/[0-9]*/cmdline 2>/dev/null >> {record}.lines\n"
        f'exec {psql} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return record


def test_every_change_deploys_verifies_and_reverts(dsn: str) -> None:
    assert migrations.deploy(dsn) == CHANGES
    migrations.verify(dsn)

    for name in reversed(CHANGES):
        before = CHANGES[: CHANGES.index(name)]
        assert migrations.revert(dsn, before[-1] if before else None) == [name]
        with pytest.raises(MigrationError, match=name):
            migrations.verify(dsn)

    assert not {"realtime", "walrus_bridge"} & schemas(dsn)
    assert migrations.deploy(dsn) == CHANGES
    assert migrations.revert(dsn) == CHANGES


def test_a_second_deploy_does_not_need_sqitch(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    migrations.deploy(dsn)
    without_sqitch(monkeypatch, tmp_path)

    began = time.monotonic()
    assert migrations.deploy(dsn) == []
    assert time.monotonic() - began < 0.5


def test_a_subscription_made_before_survives_whatever_is_deployed_again(dsn: str) -> None:
    migrations.deploy(dsn)
    query(dsn, SUBSCRIBE)
    made = query(dsn, "select s::text, xmin::text from realtime.subscription s")

    query(
        dsn,
        "drop schema walrus_sqitch cascade; drop schema walrus_bridge cascade; drop trigger check_subscription"
        " on realtime.subscription",
    )
    assert migrations.deploy(dsn) == ["subscription", "bridge_state", "replay_mark"]

    assert query(dsn, "select s::text, xmin::text from realtime.subscription s") == made


def test_what_others_made_is_neither_replaced_nor_dropped(dsn: str) -> None:
    query(dsn, SUPABASE)
    query(dsn, SUBSCRIBE)
    catalog, rows = query(dsn, CATALOG), query(dsn, "select s::text, xmin::text from realtime.subscription s")

    assert migrations.deploy(dsn) == ["bridge_state", "replay_mark"]
    migrations.verify(dsn)
    assert query(dsn, CATALOG) == catalog

    assert migrations.revert(dsn) == CHANGES
    assert query(dsn, CATALOG) == catalog
    assert query(dsn, "select s::text, xmin::text from realtime.subscription s") == rows


def test_a_realtime_schema_of_others_without_the_table_keeps_what_it_has(dsn: str) -> None:
    query(
        dsn,
        "create schema realtime; create table realtime.messages (id int primary key);"
        "create function realtime.walrus_role(text) returns text language sql as 'select $1'",
    )

    with pytest.raises(MigrationError, match=r"realtime.walrus_role\(text\) exists already and was not made by"):
        migrations.deploy(dsn)

    query(dsn, "drop function realtime.walrus_role(text)")
    assert migrations.deploy(dsn) == ["subscription", "bridge_state", "replay_mark"]
    migrations.revert(dsn)
    assert query(dsn, "select to_regclass('realtime.messages')::text") == [("realtime.messages",)]


def test_reverting_refuses_to_lose_subscriptions(dsn: str) -> None:
    migrations.deploy(dsn)
    query(dsn, SUBSCRIBE)

    with pytest.raises(MigrationError, match=r"holds 1 subscription.*What to do: .*delete them"):
        migrations.revert(dsn, "realtime")

    assert query(dsn, "select count(*) from realtime.subscription") == [(1,)]
    migrations.deploy(dsn)
    query(dsn, "delete from realtime.subscription")
    assert migrations.revert(dsn, "realtime") == ["subscription", "bridge_state", "replay_mark"]


def test_reverting_refuses_while_a_slot_depends_on_its_state(dsn: str) -> None:
    migrations.deploy(dsn)
    slot = f"revert_{os.getpid()}"
    query(dsn, f"select pg_create_logical_replication_slot('{slot}', 'test_decoding')")
    try:
        query(dsn, f"insert into walrus_bridge.slot values ('{slot}', '1', 1, 'wal2json', '0/0', '0/0')")
        with pytest.raises(MigrationError, match=rf"needed for the replication slot {slot}.*drop the slot first"):
            migrations.revert(dsn, "subscription")
    finally:
        query(dsn, f"select pg_drop_replication_slot('{slot}')")
    assert migrations.revert(dsn, "subscription") == ["bridge_state"]


def test_reverting_refuses_while_a_lagging_slot_depends_on_its_marks(dsn: str) -> None:
    migrations.deploy(dsn)
    slot = f"revert_{os.getpid()}"
    query(dsn, f"select pg_create_logical_replication_slot('{slot}_replay', 'test_decoding')")
    try:
        query(dsn, f"insert into walrus_bridge.replay_mark values ('{slot}', '0/0', now())")
        with pytest.raises(
            MigrationError, match=rf"needed for the replication slot {slot}_replay.*drop the slot first"
        ):
            migrations.revert(dsn)
    finally:
        query(dsn, f"select pg_drop_replication_slot('{slot}_replay')")
    assert migrations.revert(dsn) == CHANGES


def test_the_plain_sql_does_the_same_by_hand(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = migrations.plain_sql()
    for _ in range(2):
        subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn], input=script, text=True, check=True)

    with monkeypatch.context() as patch:
        without_sqitch(patch, tmp_path)
        migrations.ensure(dsn, "check")
        migrations.ensure(dsn, "apply")
    assert migrations.status(dsn).splitlines() == [f"{name:14}applied (not by sqitch)" for name in CHANGES]

    assert migrations.revert(dsn) == CHANGES


def test_without_sqitch_the_error_names_the_way_out(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_sqitch(monkeypatch, tmp_path)

    with pytest.raises(MigrationError, match=r"sqitch is not installed.*apt install sqitch.*migrate deploy --print"):
        migrations.ensure(dsn, "apply")

    migrations.ensure(dsn, "off")
    with pytest.raises(MigrationError, match="realtime is missing.*walrus-bridge migrate deploy"):
        migrations.ensure(dsn, "check")
    assert migrations.status(dsn).startswith("realtime      missing: the schema realtime is missing")


def test_a_password_is_not_in_any_command_line(dsn: str, recorded: Path) -> None:
    secret = "s3cret of the test's"

    migrations.deploy(pg_conninfo.make_conninfo(dsn, password=secret))

    assert f"PGPASSWORD={secret}\n" in Path(f"{recorded}.env").read_text()
    lines = Path(f"{recorded}.lines").read_bytes()
    assert b"sqitch" in lines
    assert secret.encode() not in lines


@pytest.mark.parametrize("form", ["uri", "keywords", "socket", "service", "environment"])
def test_every_form_of_a_connection_reaches_sqitch(
    dsn: str, form: str, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {**pg_conninfo.conninfo_to_dict(dsn), "sslmode": "allow", "options": "-c work_mem=5MB"}
    if form == "uri":
        given = f"{dsn}?sslmode=allow&options=-c%20work_mem%3D5MB"
    elif form == "keywords":
        given = pg_conninfo.make_conninfo("", **parts)
    elif form == "socket":
        [(folders,)] = query(dsn, "show unix_socket_directories")
        given = pg_conninfo.make_conninfo("", **parts | {"host": str(folders).split(",", maxsplit=1)[0]})
    elif form == "service":
        service = tmp_path / "service"
        options = parts.pop("options")
        service.write_text("[mine]\n" + "".join(f"{key}={value}\n" for key, value in parts.items()))
        monkeypatch.setenv("PGSERVICEFILE", str(service))
        given = f"service=mine options='{options}'"
    else:
        names = {"dbname": "PGDATABASE", "user": "PGUSER", "host": "PGHOST", "port": "PGPORT", "sslmode": "PGSSLMODE"}
        for key, variable in names.items():
            monkeypatch.setenv(variable, str(parts[key]))
        given = "options='-c work_mem=5MB'"

    assert migrations.deploy(given) == CHANGES

    environment = Path(f"{recorded}.env").read_text()
    assert "PGSSLMODE=allow\n" in environment
    assert "work_mem=5MB" in environment
    migrations.verify(dsn)


def test_what_has_no_variable_goes_by_a_private_service_file(tmp_path: Path) -> None:
    options = pq.Conninfo.parse(b"host=::1 port=5433 dbname='a b' sslmode=verify-full sslpassword=secret")

    environment = sqitch._environment(migrations.folder(), options, tmp_path)

    assert environment["PGHOST"] == "::1"
    assert environment["PGPORT"] == "5433"
    assert environment["PGDATABASE"] == "a b"
    assert environment["PGSSLMODE"] == "verify-full"
    service = Path(environment["PGSERVICEFILE"])
    assert service.read_text() == f"[{environment['PGSERVICE']}]\nsslpassword=secret\n"
    assert service.stat().st_mode & 0o077 == 0


def test_the_users_own_settings_of_sqitch_do_not_interfere(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".sqitch").mkdir()
    config = tmp_path / ".sqitch" / "sqitch.conf"
    config.write_text('[core]\n\tengine = sqlite\n\tplan_file = none\n[engine "pg"]\n\tregistry = stolen\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SQITCH_CONFIG", str(config))
    monkeypatch.setenv("SQITCH_USER_CONFIG", str(config))
    monkeypatch.setenv("SQITCH_TARGET", "db:sqlite:none")
    monkeypatch.setenv("SQITCH_USERNAME", "nobody")
    monkeypatch.setenv("DBI_USER", "nobody")
    monkeypatch.chdir(tmp_path)

    assert migrations.deploy(dsn) == CHANGES
    assert "walrus_sqitch" in schemas(dsn)


def test_bridges_that_start_at_once_wait_for_each_other(dsn: str) -> None:
    code = "import json, sys; from bridge import migrations; print(json.dumps(migrations.deploy(sys.argv[1])))"
    several = [
        subprocess.Popen([sys.executable, "-c", code, dsn], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        for _ in range(3)
    ]
    answers = []
    for process in several:
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0
        answers.append(json.loads(output.splitlines()[-1]))

    assert sorted(answers, key=len) == [[], [], CHANGES]
    assert query(dsn, "select count(*) from walrus_sqitch.changes") == [(len(CHANGES),)]


def test_who_waits_too_long_for_another_is_told(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(migrations._SETTINGS, "lock_timeout", "100ms")
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (migrations._LOCK,))
        with pytest.raises(MigrationError, match=r"another bridge has been migrating .* What to do: "):
            migrations.deploy(dsn)
        other.execute("select pg_advisory_unlock(%s)", (migrations._LOCK,))
    assert migrations.deploy(dsn) == CHANGES


def test_a_lock_that_is_not_given_up_does_not_hold_sqitch_for_ever(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrations.deploy(dsn)
    monkeypatch.setitem(migrations._SETTINGS, "lock_timeout", "100ms")
    with psycopg.connect(dsn) as other:
        other.execute("lock table realtime.subscription")
        with pytest.raises(MigrationError, match="canceling statement due to lock timeout"):
            migrations.revert(dsn, "realtime")


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sqitch that runs as a user without a name, on a copy of the migrations that this user can read."""
    place = Path(tempfile.mkdtemp(prefix="walrus-nameless-"))
    try:
        place.chmod(0o755)
        project = shutil.copytree(migrations.folder(), place / "sqitch")
        wrapper = place / "bin" / "sqitch"
        wrapper.parent.mkdir()
        wrapper.write_text(
            f'#!/bin/sh\nexec setpriv --reuid 54321 --regid 54321 --clear-groups {shutil.which("sqitch")} "$@"\n'
        )
        wrapper.chmod(0o755)
        monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)
        monkeypatch.setattr(migrations, "folder", lambda: project)
        yield
    finally:
        shutil.rmtree(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that has no name")
@pytest.mark.usefixtures("nameless")
def test_a_user_without_a_name_can_migrate(dsn: str) -> None:
    assert migrations.deploy(dsn) == CHANGES
    assert query(dsn, "select distinct committer_name, committer_email from walrus_sqitch.changes") == [
        ("walrus-bridge", "walrus-bridge@localhost")
    ]


def test_a_login_without_the_rights_is_told_which(dsn: str) -> None:
    login = f"migrator_{os.getpid()}"
    as_login = pg_conninfo.make_conninfo(dsn, user=login)
    query(dsn, f"create role {login} login")
    try:
        with pytest.raises(
            MigrationError, match=rf"the login {login} may not create the schemas realtime, .*grant create on"
        ):
            migrations.deploy(as_login)

        query(
            dsn,
            f"create schema realtime; grant create on database {pg_conninfo.conninfo_to_dict(dsn)['dbname']}"
            f" to {login}",
        )
        with pytest.raises(
            MigrationError, match=rf"in the schemas realtime. .*grant usage, create on schema realtime to {login}"
        ):
            migrations.deploy(as_login)

        query(dsn, f"grant usage, create on schema realtime to {login}")
        assert migrations.deploy(as_login) == CHANGES
    finally:
        query(dsn, f"drop owned by {login}; drop role {login}")


def test_an_unknown_change_is_not_reverted_to(dsn: str) -> None:
    with pytest.raises(
        MigrationError, match="no migration 'subscriptions'.*realtime, subscription, bridge_state, replay_mark"
    ):
        migrations.revert(dsn, "subscriptions")


def test_what_was_dropped_behind_sqitchs_back_is_told(dsn: str) -> None:
    migrations.deploy(dsn)
    query(dsn, "drop table walrus_bridge.slot")

    with pytest.raises(MigrationError, match=r"walrus_bridge.slot is missing.*migrate deploy --print"):
        migrations.deploy(dsn)


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            'psql:deploy/x.sql:7: ERROR:  permission denied for schema x\nHINT:  Ask.\nnot ok\n"psql" exited with 3\n',
            "permission denied for schema x. What to do: Ask",
        ),
        ("Cannot parse plan\n", "Cannot parse plan"),
        ("", "it gave no reason"),
    ],
)
def test_sqitchs_errors_are_condensed(stderr: str, reason: str) -> None:
    assert sqitch.reason("", stderr) == reason
