"""A table's policies both ways: as a join, wired as bridge/joining.py says, and as PostgreSQL itself has them."""

import json
from typing import Any

import psycopg
from psycopg import sql

from bridge.catalog import SETTINGS, Catalog
from bridge.joining import Joinable, NotJoinable
from bridge.policy_facts import PolicyFacts
from bridge.purity import KEY_TYPE_NAMES
from bridge.sql import connect
from bridge.table import Table
from tests.servers.postgres import Database

Claims = dict[str, Any]
AMBIENT = [
    "",
    json.dumps({"sub": "10000000-0000-0000-0000-000000000000", "role": "vis_b", "level": 3, "rooms": [1, 2, 3]}),
]
"""What the join runs under: no claims, and those of someone who may see much. Neither may matter."""


class Both:
    def __init__(self, database: Database, table: tuple[str, str] = ("app", "docs")) -> None:
        self.database = database
        self._name = table
        self._source = connect(database.dsn, SETTINGS)
        self._judge = connect(database.dsn)
        self._catalog = Catalog(self._source)
        self._facts = PolicyFacts(self._catalog)
        self._table: Table

    def close(self) -> None:
        self._source.close()
        self._judge.close()

    def joinable(self, role: str) -> Joinable | NotJoinable:
        """In a transaction of its own, as for a batch."""
        self._catalog.begin()
        try:
            (found,) = self._catalog.look_up([(*self._name, None)])
            assert found is not None
            self._table = self._catalog.tables([found.oid])[found.oid]
            ((oid,),) = self._source.execute("select oid from pg_roles where rolname = %s", (role,))
            rights = self._catalog.rights([(found.oid, oid)])[found.oid, oid]
            (answer,) = self._facts.joinables([(self._table, rights)])
            return answer
        finally:
            self._catalog.end()

    def plain(self, role: str, claims: Claims) -> set[int] | None:
        """The ids that a plain SELECT shows; None where a policy raises."""
        try:
            with self._judge.transaction(force_rollback=True):
                self._become(role, json.dumps(claims))
                query = sql.SQL("select id from {}").format(sql.Identifier(*self._name))
                return {number for (number,) in self._judge.execute(query)}
        except psycopg.DataError:
            return None

    def joined(self, join: Joinable, role: str, everyone: list[Claims]) -> list[set[int]] | None:
        """The ids that each claims show, by the join; None where something raises."""
        try:
            values = [self._keys(join, role, claims) for claims in everyone]
            answers = [self._run(join, role, values, ambient) for ambient in AMBIENT]
        except psycopg.DataError:
            return None
        assert answers[0] == answers[1], "the claims that the join runs under show in its answer"
        return answers[0]

    def _become(self, role: str, claims: str) -> None:
        self._judge.execute("set transaction read only")
        self._judge.execute(
            "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)", (role, claims)
        )

    def _keys(self, join: Joinable, role: str, claims: Claims) -> list[tuple[str, str]]:
        """The type and the text of each key."""
        if not join.keys:
            return []
        with self._judge.transaction(force_rollback=True):
            self._become(role, json.dumps(claims))
            columns = ", ".join(f"pg_typeof({key})::text, ({key})::text" for key in join.keys)
            row = self._judge.execute(f"select {columns}").fetchone()
            assert row is not None
            pairs = list(zip(row[::2], row[1::2], strict=True))
        assert all(kind in KEY_TYPE_NAMES for kind, _ in pairs), pairs
        return pairs

    def _run(self, join: Joinable, role: str, values: list[list[tuple[str, str]]], ambient: str) -> list[set[int]]:
        kinds = [kind for kind, _ in values[0]]
        assert all([kind for kind, _ in each] == kinds for each in values)
        table, alias = sql.Identifier(*self._name), sql.Identifier(self._name[1])
        lines = [
            line for (line,) in self._judge.execute(sql.SQL("select {0}::text from {1} as {0}").format(alias, table))
        ]
        shown: list[set[int]] = [set() for _ in values]
        with self._judge.transaction(force_rollback=True):
            columns = ", ".join(["_walrus_id int4", *(f"_walrus_key_{n} {kind}" for n, kind in enumerate(kinds))])
            self._judge.execute(f"create temp table the_claims ({columns}) on commit drop")
            self._judge.execute("grant select on the_claims to public")
            places = ", ".join(["%s", *(f"%s::{kind}" for kind in kinds)])
            for number, each in enumerate(values):
                self._judge.execute(
                    f"insert into the_claims values ({places})", (number, *(value for _, value in each))
                )
            self._become(role, ambient)
            for branch in join.branches:
                query = sql.SQL(
                    "select distinct _walrus_claims._walrus_id, {alias}.id from unnest(%s::text[]) with ordinality"
                    " as _walrus_rows (_walrus_line, _walrus_n) cross join lateral"
                    " unnest(array[_walrus_line::{table}]) as {alias} cross join pg_temp.the_claims as _walrus_claims{lateral}"
                    " where {condition}"
                ).format(
                    table=table,
                    alias=alias,
                    lateral=sql.SQL(branch.lateral.replace("%", "%%")),
                    condition=sql.SQL(branch.condition.replace("%", "%%")),
                )
                for number, identifier in self._judge.execute(query, (lines,)):
                    shown[number].add(identifier)
        return shown
