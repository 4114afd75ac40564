"""The query that asks the simple way which of a table's rows some claims show. Pure."""

from collections.abc import Callable, Sequence

import msgspec
from psycopg import sql

from bridge.sql import quoted
from bridge.table import Policy, Table


class Question(msgspec.Struct, frozen=True, eq=False):
    """Which of these rows do these claims show? The rows are distinct, and all of one table."""

    table: Table
    policies: tuple[Policy, ...]
    role: str
    claims: str
    lines: tuple[str, ...]
    """Each row as the text of a composite value of the table's type, NULL where the change lacks a column."""
    absent: frozenset[str] = frozenset()
    """Columns that policies read and no line carries: the current row lends them, and must pass too."""
    current: bool = False
    """The current row must pass as well: `absent`, or a policy that reads system columns."""
    record: bool = True
    """The recorded row must pass; False for ``judge: current``, and where a policy is not `sayable`."""
    same: frozenset[str] = frozenset()
    """Columns in which the current row must be as recorded: then what passes for one passes for the other."""


def statement(question: Question) -> sql.Composed:
    """The query that gives the ordinals, from 1, of the lines that are shown. Its parameter is the lines.

    A policy's column names are unqualified or qualified by the table's name, so each expression stands in a
    sub-select of its own whose only FROM item carries that name: nothing of ours can capture a name there. And that item
    is of the table's own row type, for policies that read the row as a whole.
    """
    table = quoted(question.table.schema, question.table.name)
    alias = quoted(question.table.name)
    if not any(policy.permissive for policy in question.policies):
        return sql.SQL("select n::int4 from unnest(%b::text[]) with ordinality as r (line, n) where false").format()
    if not question.current:
        return sql.SQL(
            "select r.n::int4 from unnest(%b::text[]) with ordinality as r (line, n)"
            " where (select {condition} from unnest(array[r.line::{table}]) as {alias})"
        ).format(condition=combined(question.policies, expression_of), table=table, alias=alias)

    def recorded(policy: Policy) -> sql.Composable:
        return sql.SQL("(select {expression} from {row})").format(
            expression=expression_of(policy), row=_merged(question, policy, table, alias)
        )

    same = sql.SQL(" and ").join(
        sql.SQL("now.{name} {equals} (x.line).{name}").format(
            name=quoted(name), equals=sql.SQL(equals.replace("%", "%%"))
        )
        for name, equals in zip(question.table.key, question.table.key_equals, strict=True)
    )
    # Selecting from the table as the role applies its row security: so the current row is judged by PostgreSQL.
    return sql.SQL(
        "select r.n::int4 from unnest(%b::text[]) with ordinality as r (line, n)"
        " where exists (select from (select r.line::{table} as line offset 0) as x join {table} as now on {same}"
        " where {recorded})"
    ).format(
        table=table,
        same=same,
        recorded=combined(question.policies, recorded) if question.record else _unchanged(sorted(question.same)),
    )


def combined(policies: Sequence[Policy], test: Callable[[Policy], sql.Composable]) -> sql.Composable:
    """Every restrictive policy, and any permissive one."""
    permissive = sql.SQL(" or ").join([test(policy) for policy in policies if policy.permissive])
    restrictive = [test(policy) for policy in policies if not policy.permissive]
    return sql.SQL(" and ").join([*restrictive, sql.SQL("({})").format(permissive)])


def expression_of(policy: Policy) -> sql.Composable:
    """As PostgreSQL prints it; its percent signs would be placeholders in a query that has parameters."""
    return sql.SQL(f"({policy.expression.replace('%', '%%')})")


def _unchanged(columns: Sequence[str]) -> sql.Composable:
    """Byte for byte, for not every type has an equality."""
    if not columns:
        return sql.SQL("true")
    now, recorded = (
        sql.SQL(", ").join([sql.SQL(f"{source}.{{}}").format(quoted(name)) for name in columns])
        for source in ("now", "(x.line)")
    )
    return sql.SQL("row({now})::record operator(pg_catalog.*=) row({recorded})::record").format(
        now=now, recorded=recorded
    )


def _merged(question: Question, policy: Policy, table: sql.SQL, alias: sql.SQL) -> sql.Composable:
    """The recorded row with what it lacks from the current one, under the table's name."""
    values = [
        sql.SQL("{source}.{name}").format(
            source=sql.SQL("now" if column.name in question.absent else "(x.line)"), name=quoted(column.name)
        )
        for column in question.table.columns
    ]
    if not policy.system_columns:
        return sql.SQL("unnest(array[row({values})::{table}]) as {alias}").format(
            values=sql.SQL(", ").join(values), table=table, alias=alias
        )
    named = [
        sql.SQL("{value} as {name}").format(value=value, name=quoted(column.name))
        for value, column in zip(values, question.table.columns, strict=True)
    ]
    system = [
        sql.SQL("{value} as {name}").format(value=_system_value(question.table, name), name=quoted(name))
        for name in sorted(policy.system_columns)
    ]
    return sql.SQL("(select {columns}) as {alias}").format(columns=sql.SQL(", ").join([*named, *system]), alias=alias)


def _system_value(table: Table, name: str) -> sql.Composable:
    """The current row's; an ordinary table's tableoid is known, and reading it would take rights on the whole table."""
    if name == "tableoid" and not table.partitioned:
        return sql.SQL("{}::pg_catalog.oid").format(sql.Literal(table.oid))
    return sql.SQL("now.{}").format(quoted(name))
