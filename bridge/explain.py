"""`walrus-bridge explain`: which way a table's row security goes for each role, the queries, their plans, and hints.

The queries are those of the parts that judge, planned but not run, as the role and read-only. Neither rows of the table
nor claims are shown: the rows are made up, for planning does not look into them, and the claims are in their tables.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click
import msgspec
import psycopg
from psycopg import sql

from bridge import explain_text, log
from bridge.catalog import SETTINGS as CATALOG_SETTINGS
from bridge.config import Config
from bridge.errors import TableError
from bridge.explain_text import Explained, Query
from bridge.hint_facts import read_hint_facts
from bridge.hints import hints
from bridge.join_queries import queries
from bridge.joined import BECOME, NOBODY
from bridge.judged import Subscription
from bridge.patterns import parse_pattern
from bridge.pools import Bucket, Roster
from bridge.rls import BEGIN_JUDGING, SET_LIMITS, statement
from bridge.rls import SETTINGS as JUDGING_SETTINGS
from bridge.sql import Connection, connect, is_transient, translate
from bridge.subscriptions import Subscriptions
from bridge.ways import Found, Subscribers, Ways, subscribers_of

_FIND: Final = """
select c.oid, n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relname = %(name)s and c.relkind in ('r', 'p')
  and (n.nspname = %(schema)s or %(schema)s::text is null and n.nspname !~ '^pg_' and n.nspname <> 'information_schema')
order by 2
"""
_ROLE_OF_SINGLE: Final = "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)"
_PREPARED: Final = "_walrus_explained"


def run(config: Config, name: str, role: str | None) -> None:
    """Print it. Raises TableError where the table, the role, or any subscription to the table is not there."""
    log.configure("warning")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(connect(config.source.connection, CATALOG_SETTINGS)))
        judging = stack.enter_context(
            contextlib.closing(connect(config.rls.connection or config.source.connection, JUDGING_SETTINGS))
        )
        try:
            explained, gone = _explained(source, judging, name, role, current=config.rls.judge == "current")
        except psycopg.Error as error:
            raise translate(error, f"explaining {name}") from error
        for line in explain_text.lines(explained, gone):
            click.echo(line)


def _explained(
    source: Connection, judging: Connection, name: str, role: str | None, *, current: bool
) -> tuple[list[Explained], int]:
    """For each role; and how many subscriptions claim a role that is gone."""
    # A statement that is prepared here and there would be planned as one that is executed often.
    source.prepare_threshold = judging.prepare_threshold = None
    subscriptions = Subscriptions()
    subscriptions.load(source)
    oid, label = _find(source, name, set(subscriptions.entities()))
    every = subscribers_of(subscriptions, oid)
    gone = sum(each.subscriptions for each in every if each.roster.role == 0)
    if role is not None:
        every = [_of_role(source, role, every, oid)]
    elif not every:
        raise TableError(
            f"nobody is subscribed to {label}. What to do: name a role to explain it for: --role authenticated"
        )
    found = Ways(source, judging, current=current).look({oid: every})
    return [
        Explained(each, _queries(judging, each), hints(each, read_hint_facts(source, judging, each))) for each in found
    ], gone


def _find(source: Connection, name: str, subscribed: set[int]) -> tuple[int, str]:
    """The table's OID and full name."""
    try:
        schema, table = parse_pattern(name).exact
    except ValueError:
        schema, table = "", re.sub(r"\\(.)", r"\1", name)
    rows = source.execute(_FIND, {"schema": schema or None, "name": table}).fetchall()
    if len(rows) > 1:
        rows = [row for row in rows if row[0] in subscribed] or rows
    if not rows:
        raise TableError(
            f"there is no table {name}. What to do: write schema.table, as the catalog has the names: upper and lower case"
            " matter, and there are no quotes"
        )
    if len(rows) > 1:
        raise TableError(
            f"{name} may be {', '.join(f'{schema}.{table}' for _, schema, table in rows)}. What to do: name the schema too"
        )
    oid, schema, table = rows[0]
    return oid, f"{schema}.{table}"


def _of_role(source: Connection, role: str, every: Sequence[Subscribers], entity: int) -> Subscribers:
    """The role's subscribers; without any, one that is made up, whose claims are the role only."""
    row = source.execute("select oid from pg_roles where rolname = %s", (role,)).fetchone()
    if row is None:
        raise TableError(f"there is no role {role}. What to do: name it as the catalog has it, without quotes")
    for each in every:
        if each.roster.role == row[0]:
            return each
    roster, bucket = Roster(row[0]), Bucket(())
    text = msgspec.json.encode({"role": role}).decode()
    claims = roster.enter(text)
    bucket.add(claims, Subscription(0, "", entity, row[0], text, (), "*", None))
    return Subscribers(roster, (bucket,), 0, frozenset({claims}))


# -- queries and plans -------------------------------------------------------------------------------------------------


def _queries(judging: Connection, found: Found) -> list[Query]:
    if found.rows is not None and found.kind == "joined":
        become = (BECOME, (found.rights.role, NOBODY))
        asked = queries(found.rows, range(len(found.rows.places)))
        return [_planned(judging, become, query, parameters, branch) for branch, query, parameters in asked]
    if found.kind == "single":
        question = found.question()
        become = (_ROLE_OF_SINGLE, (question.role, question.claims))
        return [_planned(judging, become, statement(question), {"": list(question.lines)})]
    return []


def _planned(
    judging: Connection,
    become: tuple[str, tuple[str, str]],
    query: sql.Composed,
    parameters: Mapping[str, Any],
    branch: Any = None,
) -> Query:
    """The query with its plan: prepared and explained, as `plan_cache_mode` counts for that."""
    text, names = as_sent(query.as_string(judging))
    arguments = sql.SQL(", ").join([sql.Literal(parameters[name]) for name in names])
    prepare = sql.SQL("prepare {} as {}").format(sql.Identifier(_PREPARED), sql.SQL(text))
    explain = sql.SQL("explain execute {} ({})").format(sql.Identifier(_PREPARED), arguments)
    plan: list[str] = []
    problem = None
    try:
        judging.execute(BEGIN_JUDGING)
        judging.execute(SET_LIMITS)
        judging.execute(*become)
        judging.execute(prepare)
        plan = [line for (line,) in judging.execute(explain)]
    except psycopg.Error as error:
        if is_transient(error):
            raise
        # Not its message, which may quote a value.
        problem = f"{error.sqlstate} {type(error).__name__}"
    finally:
        if not judging.closed:
            judging.execute("rollback")
            # It is there even if it could not be explained, and stays.
            judging.execute("deallocate all")
    reads = "" if branch is None else " and ".join(_reads(branch.by_row, branch.by_claims)) or "nothing"
    return Query(text, tuple(plan), problem, reads)


def _reads(by_row: bool, by_claims: bool) -> Iterator[str]:
    if by_row:
        yield "the row"
    if by_claims:
        yield "the claims"


def as_sent(text: str) -> tuple[str, list[str]]:
    """A query for psycopg as it goes to the server, with $1, $2, …; and the parameters' names in that order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        name = match[1] or ""
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return re.sub(r"%%|%(?:\((\w+)\))?[sbt]", number, text), names
