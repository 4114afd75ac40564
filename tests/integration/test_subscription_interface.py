"""realtime.subscription, the public interface: what it takes, what it refuses, and how it says so."""

import json
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import conninfo as pg_conninfo
from psycopg import sql

from bridge import migrations

_NEGATABLE = ["in", "like", "ilike", "is", "match", "imatch"]
OPERATORS = ["eq", "neq", "lt", "lte", "gt", "gte", *_NEGATABLE, "isdistinct", *(f"not_{op}" for op in _NEGATABLE)]

# Types in schemas that are on no search_path, under names that need quotes.
TABLE = """
create schema "Own types"; create schema extensions;
create extension citext schema extensions; create extension hstore schema extensions;
create extension ltree schema extensions;
create type "Own types"."Mood" as enum ('sad', 'it''s ok');
create type "Own types".pair as (x int, y text);
create type "Own types".document as (x int, y json);
create domain "Own types".positive as int check (value > 0);
create domain "Own types".label as extensions.citext;
create domain "Own types".filled as text not null check (value <> '');
create domain "Own types".numbers as int[];
create collation "Own types".any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table "Own types"."The table" (
  id int primary key, "naïve 'col'" text, word varchar(3), code char(5), bits bit(4), many_bits varbit(3), title name,
  letter "char", insensitive extensions.citext, label "Own types".label, filled "Own types".filled,
  mood "Own types"."Mood", pair "Own types".pair, document "Own types".document, positive "Own types".positive,
  js json, jb jsonb, xm xml, place point, area box, grid int[], jsons json[], words text[],
  numbers "Own types".numbers, bytes bytea, flag bool, at timestamptz, day date, wait interval, price numeric(5, 2),
  span int4range, attributes extensions.hstore, path extensions.ltree, xid xid, who uuid, vector int2vector,
  any_case text collate "Own types".any_case, money money, net cidr, lexemes tsvector, ratio float8, kind regclass,
  body text, big int8, secret text);
"""


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A migrated database with the table above, entered with settings that must not matter."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(migrations.plain_sql().encode())
        connection.execute(TABLE)
        connection.execute("set DateStyle = 'German, DMY'; set TimeZone = 'Asia/Tokyo'; set search_path = nowhere")
        yield connection


@pytest.fixture
def role(db: psycopg.Connection[Any]) -> Iterator[str]:
    """A role that may select two columns, and no more."""
    name = f"Some \"role' {os.getpid()}"
    identifier = sql.Identifier(name)
    db.execute(sql.SQL("create role {0}; grant select (id, body) on {1} to {0}").format(identifier, ENTITY))
    yield name
    db.execute(sql.SQL("drop owned by {0}; drop role {0}").format(identifier))


ENTITY = sql.Identifier("Own types", "The table")


def subscribe(
    db: psycopg.Connection[Any],
    *filters: tuple[str | None, str | None, str | None],
    role: str = "postgres",
    entity: str = '"Own types"."The table"',
    selected: list[str | None] | None = None,
    action: str | None = "*",
) -> dict[str, Any]:
    """Insert a subscription, always of the same id; the row as it then is."""
    rows = ", ".join(["(%s, %s, %s)::realtime.user_defined_filter"] * len(filters))
    row = db.execute(
        "insert into realtime.subscription as s (subscription_id, entity, claims, selected_columns, action_filter,"
        " filters) values ('50000000-0000-4000-8000-000000000001', %s, %s, %s, %s,"
        f" array[{rows}]::realtime.user_defined_filter[]) returning to_jsonb(s)",
        [entity, json.dumps({"role": role}), selected, action, *(part for each in filters for part in each)],
    ).fetchone()
    assert row is not None
    made: dict[str, Any] = row[0]
    return made


def refusal(db: psycopg.Connection[Any], *filters: tuple[str | None, str | None, str | None], **more: Any) -> str:
    """What is said to a subscription that must be refused: the message and the hint."""
    with pytest.raises(psycopg.Error) as raised:
        subscribe(db, *filters, **more)
    assert raised.value.diag.message_hint, "every refusal says what to do"
    return f"{raised.value.diag.message_primary} | {raised.value.diag.message_hint}"


def hundred(count: int) -> str:
    return "{" + ",".join(map(str, range(count))) + "}"


ACCEPTED = [
    ("naïve 'col'", "eq", "it's"),
    ("word", "eq", "longer than the column"),
    ("word", "like", "a%"),
    ("word", "imatch", "^a"),
    ("code", "eq", "ab"),
    ("code", "not_like", "a%"),
    ("bits", "eq", "0101"),
    ("bits", "in", "{0101,1}"),
    ("many_bits", "eq", "1"),
    ("title", "ilike", "x%"),
    ("letter", "eq", "a"),
    ("insensitive", "in", "{a,b}"),
    ("insensitive", "match", "a"),
    ("label", "ilike", "a%"),
    ("label", "eq", "a"),
    ("filled", "like", "a%"),
    ("filled", "in", "{a,b}"),
    ("mood", "eq", "it's ok"),
    ("mood", "lt", "sad"),
    ("mood", "not_in", '{sad,"it\'s ok"}'),
    ("pair", "lt", "(1,a)"),
    ("pair", "in", '{"(1,a)"}'),
    ("positive", "lt", "5"),
    ("positive", "in", "{1,2}"),
    ("js", "is", "null"),
    ("js", "not_is", "NULL"),
    ("jb", "eq", '{"a":1}'),
    ("jb", "in", '{"{\\"a\\": 1}"}'),
    ("xm", "is", "not null"),
    ("place", "is", "not_null"),
    ("grid", "lt", "{1,2}"),
    ("words", "isdistinct", "{a}"),
    ("numbers", "eq", "{1}"),
    ("bytes", "eq", "\\xdead"),
    ("bytes", "like", "\\x41"),
    ("flag", "is", "true"),
    ("flag", "not_is", "unknown"),
    ("flag", "eq", "f"),
    ("at", "gt", "2022-01-31 12:00:00"),
    ("day", "eq", "2022-01-31"),
    ("wait", "lt", "1 day"),
    ("price", "eq", "123456.789"),
    ("span", "eq", "[1,2)"),
    ("attributes", "eq", "a=>1"),
    ("path", "lt", "a.b"),
    ("xid", "in", "{5}"),
    ("xid", "neq", "5"),
    ("who", "eq", "50000000-0000-4000-8000-000000000001"),
    ("vector", "eq", "1 2"),
    ("any_case", "eq", "x"),
    ("money", "lt", "1.5"),
    ("net", "in", "{10/8}"),
    ("lexemes", "eq", "a b"),
    ("ratio", "eq", "NaN"),
    ("kind", "eq", "pg_class"),
    ("body", "match", "^(a|b)$"),
    ("body", "like", "a\\\\"),
    ("body", "isdistinct", None),
    ("body", "eq", None),
    ("big", "eq", "9223372036854775807"),
    ("id", "in", "{}"),
    ("id", "in", "{7,NULL}"),
    ("id", "in", hundred(100)),
    ("id", "not_in", hundred(100)),
]

REFUSED = [
    ("missing", "eq", "1", "no such column"),
    ("ID", "eq", "1", "no such column"),
    ("ctid", "eq", "(0,1)", "no such column"),
    (None, "eq", "1", "no such column"),
    ("id", None, "1", "no operator"),
    ("id", "eq", "one", "'one' cannot be cast to integer"),
    ("id", "eq", "", "'' cannot be cast to integer"),
    ("big", "eq", "9223372036854775808", "out of range"),
    ("mood", "eq", "glad", "cannot be cast"),
    ("positive", "eq", "0", "positive_check"),
    ("positive", "in", "{0}", "positive_check"),
    ("day", "eq", "31/01/2022", "dates are ISO"),
    ("id", "in", "{1,two}", 'invalid input syntax for type integer: "two"'),
    ("id", "in", "1", "Write the list as an array"),
    ("id", "in", hundred(101), "101 values, and in takes 100 at most"),
    ("id", "not_in", hundred(101), "101 values, and not_in takes 100 at most"),
    *((name, "eq", None, "cannot be compared by eq") for name in ("js", "xm", "place", "area", "jsons", "document")),
    ("js", "neq", "{}", "cannot be compared by neq"),
    ("js", "in", "{}", "cannot be compared by in"),
    ("js", "isdistinct", "{}", "cannot be compared by isdistinct"),
    ("place", "lt", "(1,1)", "the type point cannot be compared by lt"),
    ("xid", "lt", "5", "the type xid cannot be compared by lt"),
    ("grid", "in", "{1}", "there are no lists of integer[]"),
    ("numbers", "not_in", "{1}", "there are no lists of integer[]"),
    *((name, "like", "%", "has no operator for like") for name in ("id", "mood", "js", "jb", "grid", "path")),
    ("bytes", "ilike", "a", "has no operator for ilike"),
    ("bytes", "match", "a", "has no operator for match"),
    ("body", "match", "(", "invalid regular expression"),
    ("body", "not_imatch", "*", "not_imatch cannot match '*'"),
    ("label", "match", "(", "invalid regular expression"),
    ("body", "like", "a\\", "ends with its escape character"),
    ("insensitive", "not_ilike", "a\\\\\\", "ends with its escape character"),
    ("bytes", "like", "\\x5c", "ends with its escape character"),
    ("any_case", "match", "a", "nondeterministic collations"),
    ("body", "is", "maybe", "Give null, not null, true, false or unknown"),
    ("body", "is", None, "Give null, not null, true, false or unknown"),
    ("body", "is", "true", "needs a boolean, the column is of type text"),
]


def test_values_and_operators_that_fit_the_columns_type_are_taken(db: psycopg.Connection[Any]) -> None:
    for each in ACCEPTED:
        assert subscribe(db, each)["filters"] == [dict(zip(("column_name", "op", "value"), each, strict=True))]


def test_what_could_not_be_tested_on_a_row_is_refused_with_the_reason(db: psycopg.Connection[Any]) -> None:
    for name, op, value, reason in REFUSED:
        said = refusal(db, (name, op, value))
        assert reason in said
        assert 'of "Own types"."The table"' in said


def test_all_operators_are_there(db: psycopg.Connection[Any]) -> None:
    rows = db.execute("select unnest(enum_range(null::realtime.equality_op))::text").fetchall()
    assert [label for (label,) in rows] == OPERATORS


def test_the_operator_does_not_come_from_the_search_path(db: psycopg.Connection[Any]) -> None:
    db.execute(
        "create function public.always(json, json) returns bool language sql as 'select true';"
        "create operator public.= (leftarg = json, rightarg = json, function = public.always);"
        "create operator public.~~ (leftarg = json, rightarg = json, function = public.always);"
        "set search_path = public, pg_catalog"
    )
    assert "cannot be compared by eq" in refusal(db, ("js", "eq", "{}"))
    assert "has no operator for like" in refusal(db, ("js", "like", "{}"))


def test_the_role_must_be_allowed_to_select_the_columns(db: psycopg.Connection[Any], role: str) -> None:
    subscribe(db, ("body", "eq", "x"), role=role, selected=["body"])

    assert "may not select it | grant select (secret) on" in refusal(db, ("secret", "eq", "x"), role=role)
    assert "may not select column secret" in refusal(db, role=role, selected=["id", "secret"])
    assert "has no column missing" in refusal(db, role=role, selected=["missing"])
    assert "has no column NULL" in refusal(db, role=role, selected=["id", None])


def test_order_makes_no_two_rows_of_one(db: psycopg.Connection[Any]) -> None:
    one, other = ("id", "in", hundred(100)), ("body", "neq", "x")
    first = subscribe(db, one, other, selected=["id", "body"])

    with pytest.raises(psycopg.errors.UniqueViolation):
        subscribe(db, other, one, selected=["body", "id"])

    assert [each["column_name"] for each in first["filters"]] == ["body", "id"]
    assert first["selected_columns"] == ["body", "id"]
    subscribe(db, one, other, selected=["id"])
    subscribe(db, one, other, selected=["body", "id"], action="DELETE")
    subscribe(db, one, selected=["body", "id"])


def test_all_columns_count_as_equal_however_they_are_said(db: psycopg.Connection[Any]) -> None:
    assert subscribe(db, selected=[])["selected_columns"] is None
    for selected in ([], None):
        with pytest.raises(psycopg.errors.UniqueViolation):
            subscribe(db, selected=selected)


def test_filters_and_columns_may_be_long(db: psycopg.Connection[Any]) -> None:
    rows = db.execute("select string_agg(md5(n::text), '') from generate_series(1, 3000) as n").fetchone()
    assert rows is not None
    long = rows[0]
    db.execute(
        sql.SQL("create table public.wide ({})").format(
            sql.SQL(", ").join(sql.SQL("{} int").format(sql.Identifier(f"{n:0>60}")) for n in range(200))
        )
    )
    subscribe(db, ("body", "eq", long))
    with pytest.raises(psycopg.errors.UniqueViolation):
        subscribe(db, ("body", "eq", long))
    subscribe(db, ("body", "eq", long + "!"))
    subscribe(db, entity="public.wide", selected=[f"{n:0>60}" for n in range(200)])


@pytest.mark.parametrize("name", ["UPPER", "plain", '"quoted"', "a-b c", "10", "naïve Ä", "Editor's"])
def test_any_legal_role_name_works_as_it_is_and_quoted(db: psycopg.Connection[Any], name: str) -> None:
    name = f"{name} {os.getpid()}"
    db.execute(sql.SQL("create role {}").format(sql.Identifier(name)))
    try:
        for claim in (name, '"' + name.replace('"', '""') + '"'):
            subscribe(db, role=claim)
            row = db.execute(
                "delete from realtime.subscription s using pg_roles r where r.oid = s.claims_role::oid"
                " returning r.rolname, claims ->> 'role'"
            ).fetchall()
            assert row == [(name, claim)]
    finally:
        db.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_an_unquoted_name_in_capitals_is_the_role_in_small_letters(db: psycopg.Connection[Any]) -> None:
    assert subscribe(db, role="Postgres")["claims_role"] == "postgres"


@pytest.mark.parametrize(
    "claims", ["{}", "[]", '"postgres"', '{"role": null}', '{"role": "nobody there"}', '{"role": ""}']
)
def test_claims_need_a_role_that_exists(db: psycopg.Connection[Any], claims: str) -> None:
    with pytest.raises(psycopg.Error, match="claims: there is no") as raised:
        db.execute(
            "insert into realtime.subscription (subscription_id, entity, claims)"
            ' values (gen_random_uuid(), \'"Own types"."The table"\', %s)',
            (claims,),
        )
    assert raised.value.diag.message_hint


def test_only_tables_with_changes_can_be_subscribed_to(db: psycopg.Connection[Any]) -> None:
    db.execute(
        "create view public.v as select 1; create materialized view public.m as select 1;"
        "create unlogged table public.u (id int); create temp table t (id int);"
        "create table public.p (id int primary key) partition by range (id);"
        "create table public.p1 partition of public.p default"
    )
    for entity in ("public.p", "public.p1"):
        subscribe(db, entity=entity)
    for entity in ("public.v", "public.m", "public.u", "pg_temp.t", "public.p_pkey", "4294967000", "pg_class"):
        assert "is no table whose changes can be streamed" in refusal(db, entity=entity)


def test_actions(db: psycopg.Connection[Any]) -> None:
    assert subscribe(db, action=None)["action_filter"] == "*"
    for action in ("INSERT", "UPDATE", "DELETE"):
        subscribe(db, action=action)
    assert "Give *, INSERT, UPDATE or DELETE" in refusal(db, action="insert")


def test_what_is_left_out_has_its_default(db: psycopg.Connection[Any]) -> None:
    row = db.execute(
        "insert into realtime.subscription (subscription_id, entity, claims) values (gen_random_uuid(),"
        ' \'"Own types"."The table"\', \'{"role": "postgres"}\') returning filters::text, action_filter,'
        " selected_columns, claims_role::text, created_at - timezone('utc', now())"
    ).fetchone()
    assert row is not None
    assert row[:4] == ("{}", "*", None, "postgres")
    assert row[4].total_seconds() == 0


def test_an_update_is_checked_too_and_carries_long_values_whole(db: psycopg.Connection[Any]) -> None:
    subscribe(db)
    with pytest.raises(psycopg.Error, match="cannot be cast"):
        db.execute("update realtime.subscription set filters = array[('id', 'eq', 'x')::realtime.user_defined_filter]")

    # Out of line and hard to compress: what an UPDATE leaves as it is would not be in the stream.
    db.execute(
        "update realtime.subscription set claims = claims || jsonb_build_object('long',"
        " (select string_agg(md5(n::text), '') from generate_series(1, 1000) as n)),"
        " filters = array[('body', 'eq', (select string_agg(md5(n::text), '') from generate_series(1, 1000) as n))"
        "::realtime.user_defined_filter]"
    )
    slot = f"whole_{os.getpid()}"
    db.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (slot,))
    try:
        db.execute("update realtime.subscription set action_filter = 'DELETE'")
        rows = db.execute("select data from pg_logical_slot_get_changes(%s, null, null)", (slot,)).fetchall()
    finally:
        db.execute("select pg_drop_replication_slot(%s)", (slot,))
    [change] = [data for (data,) in rows if "UPDATE" in data]
    assert "unchanged-toast-datum" not in change
    assert len(change) > 64000


def test_an_application_without_other_rights_can_subscribe(db: psycopg.Connection[Any], dsn: str) -> None:
    login = f"application_{os.getpid()}"
    db.execute(
        f'create role {login} login; grant usage on schema realtime, "Own types" to {login};'
        f"grant select, insert, update, delete on realtime.subscription to {login}"
    )
    try:
        with psycopg.connect(pg_conninfo.make_conninfo(dsn, user=login), autocommit=True) as connection:
            for op in ("eq", "ilike"):
                said = refusal(connection, ("label", op, "a"))
                assert f"permission denied for schema extensions | Grant it to {login}" in said
            db.execute(f"grant usage on schema extensions to {login}")
            subscribe(connection, ("label", "ilike", "a%"), ("body", "match", "a"), ("mood", "eq", "sad"))
            assert "cannot be cast" in refusal(connection, ("id", "eq", "x"))
            assert connection.execute("delete from realtime.subscription").rowcount == 1
    finally:
        db.execute(f"drop owned by {login}; drop role {login}")


def test_the_table_is_not_open_to_everybody(db: psycopg.Connection[Any]) -> None:
    row = db.execute(
        "select has_schema_privilege('public', 'realtime', 'usage'),"
        " has_table_privilege('public', 'realtime.subscription', 'insert, select, update, delete'),"
        " has_schema_privilege('public', 'walrus_bridge', 'usage')"
    ).fetchone()
    assert row == (False, False, False)


def test_a_filter_type_with_negate_is_taken_as_it_is(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "create schema realtime; create type realtime.equality_op as enum ('eq', 'in');"
            "create type realtime.user_defined_filter as (column_name text, op realtime.equality_op, value text,"
            " negate boolean); create table public.t (id int primary key)"
        )
        connection.execute(migrations.plain_sql().encode())
        statement = (
            "insert into realtime.subscription (subscription_id, entity, claims, filters) values"
            " ('50000000-0000-4000-8000-000000000001', 'public.t', '{\"role\": \"postgres\"}',"
            " %s::realtime.user_defined_filter[]) returning filters::text"
        )
        [(made,)] = connection.execute(statement, ('{"(id,eq,1,t)","(id,eq,1,f)"}',)).fetchall()
        assert made == '{"(id,eq,1,f)","(id,eq,1,t)"}'
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(statement, ('{"(id,eq,1,f)","(id,eq,1,t)"}',))
        connection.execute(statement, ('{"(id,eq,1,t)"}',))
