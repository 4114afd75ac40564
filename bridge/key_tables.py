"""The claims as tables, for joins: what policies ask of a subscriber's claims, evaluated once for each claims value.

A temporary table of the judging session for each role and list of keys (joining.py), filled as subscribers come. Keys
depend on the claims alone, so their values stay right as long as the policies' functions do. The keys are evaluated as the
role, read-only, like policies; only the tables themselves are written as the login.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from bridge.pools import Claims, Roster
from bridge.purity import KEY_TYPE_NAMES
from bridge.rls import BEGIN_JUDGING, SET_LIMITS
from bridge.sql import Connection, first_line, is_transient

CHUNK: Final = 10_000
FREEZE_SECONDS: Final = 3600.0
"""Autovacuum does not come to temporary tables, and what is never frozen holds back the whole database in the end."""

ID: Final = "_walrus_id"
KEY: Final = "_walrus_key_"


class NoTable(Exception):
    """The claims cannot be put into a table. The message is for operators."""


class KeyTable:
    """One role's claims with their keys. Numbers are those of the role's roster."""

    def __init__(self, name: str, types: Sequence[str]) -> None:
        self.name = name
        self.types = types
        self.roster: Roster | None = None
        self.generation = 0
        self.known = 0
        """How many of the roster's claims have been looked at."""
        self.analyzed = 0
        self.apart: set[int] = set()
        """Claims for which a key raised: they are not in the table."""
        self.frozen_at = time.monotonic()

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier("pg_temp", self.name)


class KeyTables:
    """Those of the judging session."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._tables: dict[tuple[int, tuple[str, ...]], KeyTable | NoTable] = {}
        """By the role's OID, for another role may take its name."""
        self._generation = 0
        self.writes = 0
        """Grows when something is written: snapshots from before do not have it."""

    def current(self, role: str, roster: Roster, keys: tuple[str, ...], generation: int) -> KeyTable:
        """The table with all claims of the roster in it.

        With another `generation` of the policies' functions nothing that was evaluated counts any more. Raises
        NoTable where the login or the role cannot have it; psycopg.Error where it is transient.
        """
        if generation != self._generation:
            self._drop_all()
            self._generation = generation
        key = (roster.role, keys)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = self._made(role, keys)
        if isinstance(table, NoTable):
            raise table
        try:
            self._fill(table, role, roster)
        except psycopg.Error as error:
            if is_transient(error):
                raise
            raise NoTable(f"the claims cannot be put into a table: {first_line(error)}") from error
        if time.monotonic() - table.frozen_at > FREEZE_SECONDS:
            self._connection.execute(sql.SQL("vacuum (freeze) {}").format(table.identifier))
            table.frozen_at = time.monotonic()
        return table

    def _drop_all(self) -> None:
        for table in self._tables.values():
            if isinstance(table, KeyTable):
                self._connection.execute(
                    sql.SQL("drop function if exists {name}(text[]); drop table if exists {name}").format(
                        name=table.identifier
                    )
                )
        self._tables.clear()

    def _made(self, role: str, keys: tuple[str, ...]) -> KeyTable | NoTable:
        name = f"_walrus_claims_{next(self._numbers)}"
        try:
            types = self._types(role, keys)
            if unknown := sorted(set(types) - KEY_TYPE_NAMES):
                return NoTable(
                    f"a policy compares claims as {unknown[0]}, which is not one of PostgreSQL's plain types"
                )
            self._create(name, keys, types)
        except psycopg.Error as error:
            if is_transient(error):
                raise
            return NoTable(f"the claims cannot be put into a table: {first_line(error)}")
        return KeyTable(name, types)

    def _types(self, role: str, keys: tuple[str, ...]) -> list[str]:
        """The keys' types, without evaluating any."""
        connection = self._connection
        try:
            connection.execute(BEGIN_JUDGING)
            connection.execute("select set_config('role', %s, true)", (role,))
            cursor = connection.execute(_raw(f"select {', '.join(['null', *keys])} where false"))
            found = [column.type_code for column in cursor.description or ()][1:]
        finally:
            if not connection.closed:
                connection.execute("rollback")
        rows = connection.execute(
            "select format_type(t, -1) from unnest(%s::oid[]) with ordinality as w (t, n) order by n", (found,)
        )
        return [name for (name,) in rows]

    def _create(self, name: str, keys: tuple[str, ...], types: Sequence[str]) -> None:
        connection = self._connection
        columns = ", ".join([f"{ID} int4 primary key", *(f"{KEY}{n} {each}" for n, each in enumerate(types))])
        table = sql.Identifier("pg_temp", name)
        with connection.transaction():
            connection.execute(sql.SQL("create table {} ({})").format(table, _raw(columns)))
            connection.execute(_raw(_evaluator(name, keys)))
            # A grant to the role would keep it from being dropped; other sessions cannot read the table anyway.
            connection.execute(
                sql.SQL("grant select on {name} to public; grant execute on function {name}(text[]) to public").format(
                    name=table
                )
            )
            for number in range(len(types)):
                try:
                    with connection.transaction():
                        column = sql.Identifier(f"{KEY}{number}")
                        connection.execute(sql.SQL("create index on {} using hash ({})").format(table, column))
                except psycopg.errors.UndefinedObject:  # a type without hashing: it is joined without an index
                    continue

    def _fill(self, table: KeyTable, role: str, roster: Roster) -> None:
        """What the roster has that the table has not."""
        connection = self._connection
        if table.roster is not roster or table.generation != roster.generation:
            connection.execute(sql.SQL("truncate {}").format(table.identifier))
            table.roster, table.generation, table.known, table.analyzed = roster, roster.generation, 0, 0
            table.apart.clear()
        while table.known < len(roster.listed):
            new = roster.listed[table.known : table.known + CHUNK]
            self.writes += 1
            self._insert(table, self._evaluated(table, role, new))
            table.known += len(new)
        if table.known > table.analyzed * 1.5:
            connection.execute(sql.SQL("analyze {}").format(table.identifier))
            table.analyzed = table.known

    def _evaluated(self, table: KeyTable, role: str, new: Sequence[Claims]) -> list[tuple[str | int | None, ...]]:
        """Each claims' number and keys; those that a key raises for are set apart."""
        connection = self._connection
        try:
            connection.execute(BEGIN_JUDGING)
            connection.execute(SET_LIMITS)
            connection.execute("select set_config('role', %s, true)", (role,))
            cursor = connection.execute(
                sql.SQL("select * from {}(%b)").format(table.identifier), ([claims.text for claims in new],)
            )
            rows = cursor.fetchall()
        finally:
            if not connection.closed:
                connection.execute("rollback")
        table.apart.update(new[n - 1].number for n, fine, *_ in rows if not fine)
        return [(new[n - 1].number, *keys) for n, fine, *keys in rows if fine]

    def _insert(self, table: KeyTable, rows: Sequence[tuple[str | int | None, ...]]) -> None:
        if not rows:
            return
        names = [ID, *(f"k{n}" for n in range(len(table.types)))]
        columns = ", ".join([ID, *(f"k{n}::{each}" for n, each in enumerate(table.types))])
        arrays = ", ".join(["%b::int4[]", *(["%b::text[]"] * len(table.types))])
        self._connection.execute(
            sql.SQL("insert into {} select {} from unnest({}) as w ({})").format(
                table.identifier, _raw(columns), _raw(arrays), _raw(", ".join(names))
            ),
            [list(column) for column in zip(*rows, strict=True)],
        )


def _evaluator(name: str, keys: Sequence[str]) -> str:
    """A function that gives the keys of many claims, each evaluated in a statement of its own: nothing that depends on
    the claims may be evaluated once for all."""
    columns = ", ".join(f"{KEY}{n} text" for n in range(len(keys)))
    into = ", ".join(f"{KEY}{n}" for n in range(len(keys)))
    listed = ", ".join(f"({each})::text" for each in keys)
    return f"""
create function pg_temp.{name}(_walrus_texts text[]) returns table (_walrus_n int4, _walrus_fine bool, {columns})
language plpgsql as $_walrus_$
begin
  for _walrus_at in 1 .. cardinality(_walrus_texts) loop
    _walrus_n := _walrus_at;
    perform pg_catalog.set_config('request.jwt.claims', _walrus_texts[_walrus_at], true);
    begin
      select {listed} into {into};
      _walrus_fine := true;
    exception when others then
      _walrus_fine := false;
    end;
    return next;
  end loop;
end $_walrus_$"""


def _raw(text: str) -> sql.SQL:
    """Text of PostgreSQL's own printing; never a subscriber's."""
    return sql.SQL(text)
