"""`walrus-bridge explain TABLE`: how row level security is asked for a table's subscribers, with PostgreSQL's plans."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import click
import psycopg
from psycopg import sql

from bridge.catalog import SETTINGS as CATALOG_SETTINGS
from bridge.config import Config
from bridge.errors import SourceRefused
from bridge.hints import hints, missing_indexes
from bridge.join_queries import queries
from bridge.joined import BECOME, NOBODY
from bridge.patterns import parse_pattern
from bridge.rls import BEGIN_JUDGING, SET_LIMITS, Question, statement
from bridge.rls import SETTINGS as JUDGING_SETTINGS
from bridge.row_security import BATCH, LINES, Looking, RoleWay
from bridge.sql import Connection, connect, translate


def run(config: Config, name: str, role: str | None) -> None:
    """Print it. Raises SourceRefused where there is no such table, or nobody subscribes to it."""
    with (
        contextlib.closing(connect(config.source.connection, CATALOG_SETTINGS)) as source,
        contextlib.closing(connect(config.rls.connection or config.source.connection, JUDGING_SETTINGS)) as judging,
    ):
        try:
            for line in _explained(source, judging, name, role):
                click.echo(line)
        except psycopg.Error as error:
            raise translate(error, f"explaining {name}") from error


def _explained(source: Connection, judging: Connection, name: str, role: str | None) -> Iterator[str]:
    try:
        pattern = parse_pattern(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    schema, table = pattern.schema or "", pattern.table or ""
    looking = Looking(source, judging)
    subscribed = looking.subscribed()
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
    looking.catalog.begin()
    try:
        if way.rows is not None:
            yield "  way: by a join of a batch's rows with all claims"
            yield from (f"  key, evaluated once for each claims value: {key}" for key in way.rows.plan.keys)
            count = len(way.rows.plan.branches)
            yield f"  cost: {count} {'query' if count == 1 else 'queries'} for a batch of changes, however many subscribe"
            yield from _joined_plans(looking, way)
        else:
            yield f"  way: for each claims value by itself, because {way.reason}"
            yield f"  cost: {claims:,} {'query' if claims == 1 else 'queries'} for a batch of changes that all may see"
            yield from _single_plan(looking, way)
    finally:
        looking.catalog.end()
    for hint in [*hints(way.rights.policies, way.reason), *missing_indexes(source, way.rights.policies)]:
        yield f"  hint: {hint}"


def _joined_plans(looking: Looking, way: RoleWay) -> Iterator[str]:
    assert way.rows is not None
    asked = [(query, parameters) for _, query, parameters in queries(way.rows, range(BATCH))]
    yield from _plans(looking, way.rights.role, NOBODY, asked)


def _single_plan(looking: Looking, way: RoleWay) -> Iterator[str]:
    # A function that is labelled IMMUTABLE puts what it reads of the claims into the plan: so these hold the role only.
    claims = json.dumps({"role": way.rights.role})
    question = Question(way.table, way.rights.policies, way.rights.role, claims, LINES)
    yield from _plans(looking, way.rights.role, claims, [(statement(question), (list(LINES),))])


def _plans(looking: Looking, role: str, claims: str, asked: Iterable[tuple[sql.Composed, Any]]) -> Iterator[str]:
    """Each query, and how PostgreSQL would run it as the role: it is not run."""
    judging = looking.judging
    snapshot = looking.catalog.export()
    for query, parameters in asked:
        yield f"  query: {query.as_string(judging).replace('%%', '%')}"
        try:
            judging.execute(BEGIN_JUDGING)
            judging.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
            judging.execute(SET_LIMITS)
            judging.execute(BECOME, (role, claims))
            lines = [line for (line,) in judging.execute(sql.SQL("explain ") + query, parameters)]
        except psycopg.Error as error:
            # Not its message, which may quote a value.
            lines = [f"none: {type(error).__name__}, SQLSTATE {error.sqlstate}"]
        finally:
            judging.execute("rollback")
        yield f"  plan, for {BATCH:,} rows:"
        yield from (f"    {line}" for line in lines)
