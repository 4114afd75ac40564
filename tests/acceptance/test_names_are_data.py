"""Names, filters and claims that would be SQL, JSON or a routing pattern are data everywhere."""

import json
from typing import Any

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from bridge.errors import Exit
from tests.servers.postgres import Database

NASTY = """x"; drop table y; -- '\\.*,{}$1%s"""

pytestmark = [pytest.mark.versions, pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])]


def test_they_are_only_what_they_say(database: Database, bridge: Any, plugin: str) -> None:
    # Given a role, a schema, a table, its columns, a type and a policy by that name, and a table that must survive
    nasty = sql.Identifier(NASTY)
    role = sql.Identifier(f"{NASTY}{database.name}")
    database.execute("create table y (id int primary key); create publication everything for all tables")
    database.execute(sql.SQL("create role {role}; create schema {n}; create type public.{n} as enum ({v})").format(
        role=role, n=nasty, v=sql.Literal(NASTY)
    ))  # fmt: skip
    database.execute(
        sql.SQL("""
            create table {n}.{n} ({n} text primary key, kind public.{n});
            grant usage on schema {n} to {role};
            grant select on {n}.{n} to {role};
            alter table {n}.{n} replica identity full;
            alter table {n}.{n} enable row level security;
            create policy {n} on {n}.{n} to {role} using ({n} <> '' and auth.jwt() ->> 'sub' = {v});
        """).format(n=nasty, role=role, v=sql.Literal(NASTY))
    )
    claims = Jsonb({"role": f"{NASTY}{database.name}", "sub": NASTY, NASTY: NASTY})
    database.execute(
        sql.SQL(
            "insert into realtime.subscription (subscription_id, entity, claims, filters, selected_columns) select"
            " gen_random_uuid(), c.oid::regclass, %(claims)s, array[(%(n)s, 'eq', %(n)s), ('kind', 'in', %(list)s)]"
            "::realtime.user_defined_filter[], array[%(n)s, 'kind'] from pg_class c where relname = %(n)s and relkind = 'r'"
        ),
        {"claims": claims, "n": NASTY, "list": "{" + json.dumps(NASTY) + "}"},
    )
    source = {"connection": database.dsn, "slot": database.slot, "plugin": plugin}
    source |= {"publication": "everything"} if plugin == "pgoutput" else {}
    running = bridge(config={"source": source, "sink": {"stdout": {}}, "http": {"listen": None}})
    running.wait_until_streaming()

    # When there are changes
    try:
        insert = sql.SQL("insert into {n}.{n} values ({v}, {v}), ('x', {v})")
        database.execute(insert.format(n=nasty, v=sql.Literal(NASTY)))
        database.execute(sql.SQL("delete from {n}.{n}").format(n=nasty))
        database.wait_until_confirmed()

        # Then
        inserted, deleted = running.events
        assert inserted["wal"]["record"] == {NASTY: NASTY, "kind": NASTY}
        assert (inserted["wal"]["schema"], inserted["wal"]["table"]) == (NASTY, NASTY)
        assert inserted["wal"]["columns"][1]["type"] == NASTY
        assert deleted["wal"]["old_record"] == {NASTY: NASTY, "kind": NASTY}
        assert running.dead_letters == []
        assert database.execute("select count(*) from y") == [(0,)]
        assert running.stop() == Exit.OK
    finally:
        database.execute(sql.SQL("drop owned by {role} cascade; drop role {role}").format(role=role))
