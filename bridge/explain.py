"""`walrus-bridge explain TABLE`: how row level security is asked for a table's subscribers, with PostgreSQL's plans."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click
import psycopg
from psycopg import sql

from bridge.catalog import SETTINGS as CATALOG_SETTINGS
from bridge.config import Config
from bridge.errors import SourceRefused
from bridge.hint_facts import read_hint_facts
from bridge.hints import hints
from bridge.inquiry import AS_RECORDED
from bridge.join_queries import queries
from bridge.joined import BECOME, JOIN_FROM, NOBODY
from bridge.patterns import parse_pattern
from bridge.rls import SET_LIMITS, begin_judging
from bridge.rls import SETTINGS as JUDGING_SETTINGS
from bridge.row_queries import Question, statement
from bridge.row_security import BATCH, LINES, Looking, RoleWay
from bridge.sql import Connection, connect, is_transient, translate

_BECOME_ONE: Final = "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)"


def run(config: Config, name: str, role: str | None) -> None:
    """Print it. Raises SourceRefused where there is no such table, or nobody subscribes to it."""
    with (
        contextlib.closing(connect(config.source.connection, CATALOG_SETTINGS)) as source,
        contextlib.closing(connect(config.rls.connection or config.source.connection, JUDGING_SETTINGS)) as judging,
    ):
        # A statement that is prepared by psycopg would be in the way of `deallocate all`.
        judging.prepare_threshold = None
        try:
            for line in _explained(source, judging, name, role, current=config.rls.judge == "current"):
                click.echo(line)
        except psycopg.Error as error:
            raise translate(error, f"explaining {name}") from error


def _explained(source: Connection, judging: Connection, name: str, role: str | None, *, current: bool) -> Iterator[str]:
    looking = Looking(source, judging, current=current)
    subscribed = looking.subscribed()
    schema, table = _full_name(name, looking.names())
    oid = looking.find(schema, table)
    if oid is None:
        raise SourceRefused(
            f"there is no table {name}. What to do: give it as schema.table, as `source.tables` names it"
        )
    ways = [way for way in looking.ways([oid] if oid in subscribed else []) if role in {None, way.rights.role}]
    if not ways:
        who = "nobody" if role is None else f"no subscription with the role {role}"
        raise SourceRefused(f"{who} subscribes to {name}, so nothing is judged. What to do: subscribe first")
    for way in ways:
        yield from _way(looking, source, way)


def _full_name(name: str, subscribed: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Of schema.table, or of the name of one subscribed table alone. Pure."""
    try:
        return parse_pattern(name).exact
    except ValueError as error:
        found = [each for each in subscribed if each[1] == name]
        if len(found) != 1:
            which = ", ".join(".".join(each) for each in found) or "no subscribed table"
            raise SourceRefused(f"{name} may be {which}. What to do: write schema.table") from error
        return found[0]


def _way(looking: Looking, source: Connection, way: RoleWay) -> Iterator[str]:
    claims = len(way.claims)
    yield f"{way.table.schema}.{way.table.name}, role {way.rights.role}"
    yield f"  subscriptions: {way.subscriptions:,}, with {claims:,} distinct claims"
    if not way.rights.subject:
        yield "  way: row level security does not apply to this role; nothing is asked"
        return
    if not any(policy.permissive for policy in way.rights.policies):
        yield "  way: no permissive policy for SELECT applies to this role, so nobody is shown anything"
        return
    if way.way is None:
        yield "  way: the role may not SELECT enough for its policies to be asked, so nobody is shown anything"
        return
    decisions = f"{BATCH:,} rows are {BATCH * claims:,} decisions"
    looking.catalog.begin()
    try:
        if way.rows is not None:
            few = (
                ""
                if claims >= JOIN_FROM
                else f", from {JOIN_FROM} distinct claims on; until then each is asked for by itself"
            )
            yield f"  way: by a join of a batch's rows with all claims{few}"
            yield from (f"  key, evaluated once for each claims value: {key}" for key in way.rows.plan.keys)
            count = len(way.rows.plan.branches)
            yield f"  cost: {count} {'query' if count == 1 else 'queries'} for a batch of changes, however many subscribe; {decisions}"
            yield from _joined_plans(looking, way)
        else:
            yield f"  way: for each claims value by itself, because {way.reason}"
            yield f"  cost: {claims:,} {'query' if claims == 1 else 'queries'} for a batch of changes that all may see; {decisions}"
            yield from _single_plan(looking, way)
    finally:
        looking.catalog.end()
    for hint in hints(way.rights, way.reason, read_hint_facts(source, looking.judging, way)):
        yield f"  hint: {hint}"


def _joined_plans(looking: Looking, way: RoleWay) -> Iterator[str]:
    assert way.rows is not None
    for _, query, parameters in queries(way.rows, range(BATCH)):
        yield from _plan(looking, (BECOME, (way.rights.role, NOBODY)), query, parameters)


def _single_plan(looking: Looking, way: RoleWay) -> Iterator[str]:
    # A function that is labelled IMMUTABLE puts what it reads of the claims into the plan: so these hold the role only.
    claims = json.dumps({"role": way.rights.role})
    how = way.way or AS_RECORDED
    question = Question(
        way.table, way.rights.policies, way.rights.role, claims, LINES, how.absent, how.current, how.record, how.same
    )
    yield from _plan(looking, (_BECOME_ONE, (way.rights.role, claims)), statement(question), {"": list(LINES)})


def _plan(
    looking: Looking, become: tuple[str, tuple[str, str]], query: sql.Composed, parameters: Mapping[str, Any]
) -> Iterator[str]:
    """The query, and how PostgreSQL would run it as the role: it is prepared, for that is what plan_cache_mode is about, and
    not run."""
    judging = looking.judging
    text, names = as_sent(query.as_string(judging))
    arguments = sql.SQL(", ").join([sql.Literal(parameters[name]) for name in names])
    yield f"  query: {text}"
    try:
        begin_judging(judging, looking.catalog)
        judging.execute(SET_LIMITS)
        judging.execute(*become)
        judging.execute(sql.SQL("prepare _walrus_explained as {}").format(sql.SQL(text)))
        lines = [
            line for (line,) in judging.execute(sql.SQL("explain execute _walrus_explained ({})").format(arguments))
        ]
    except psycopg.Error as error:
        if is_transient(error):
            raise
        # Not its message, which may quote a value.
        lines = [f"none: {type(error).__name__}, SQLSTATE {error.sqlstate}"]
    finally:
        if not judging.closed:
            judging.execute("rollback; deallocate all")
    yield f"  plan, for {BATCH:,} rows:"
    yield from (f"    {line}" for line in lines)


def as_sent(text: str) -> tuple[str, list[str]]:
    """A query for psycopg as it goes to the server, with $1, $2, …; and the parameters' names in that order. Pure."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        name = match[1] or ""
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return re.sub(r"%%|%(?:\((\w+)\))?[sbt]", number, text), names
