"""`walrus-bridge check`: everything that must hold before streaming, looked at in order, and what to do about the rest.

Reading is thin and here or in the `read_…` functions; what the facts mean is decided in pure functions of
check_server.py, check_logins.py and check_tables.py.
"""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator

import click
import msgspec
import psycopg

from bridge import check_logins, check_row_security, check_server, check_tables, migrations, publication
from bridge.check_tables import TableFacts
from bridge.config import Config
from bridge.errors import BridgeError, CheckFailed, SourceRefused
from bridge.finding import Finding, of_error, ok, warning
from bridge.rls import SETTINGS as JUDGING_SETTINGS
from bridge.sinks import make_sink
from bridge.sql import Connection, connect, describe, translate
from bridge.units import counted

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def run(config: Config, *, as_json: bool) -> None:
    """Print the findings on stdout as they come. Raises CheckFailed where one of them is an error."""
    found: list[Finding] = []
    for finding in findings(config):
        found.append(finding)
        if not as_json:
            click.echo(line(finding, coloured=sys.stdout.isatty()))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2, ensure_ascii=False))
    counts = {level: sum(finding.level == level for finding in found) for level in COLOURS}
    if counts["error"]:
        raise CheckFailed(f"check failed: {counted(counts['error'], 'error')}, {counted(counts['warning'], 'warning')}")
    if not as_json:
        click.echo(f"no errors, {counted(counts['warning'], 'warning')}")


def line(finding: Finding, *, coloured: bool = False) -> str:
    """The finding in one aligned line, and what to do in an indented one."""
    level = f"{finding.level:7}"
    shown = click.style(level, fg=COLOURS[finding.level]) if coloured else level
    text = f"{shown}  {finding.name:25}  {finding.what}"
    return text if finding.remedy is None else f"{text}\n{'':9}→ {finding.remedy}"


def findings(config: Config) -> Iterator[Finding]:
    """All of them, as they are found; what needs a connection that there is none of is left out."""
    tables: list[TableFacts] = []
    try:
        source = connect(config.source.connection, {"search_path": ""})
    except BridgeError as raised:
        yield of_error("source.connection", raised)
    else:
        with contextlib.closing(source):
            yield ok("source.connection", describe(config.source.connection))
            yield from _guarded("server", _server(config, source))
            yield _migrations(config)
            yield from _guarded("source login", check_logins.source_rights(source))
            yield from _guarded("tables", _tables(config, source, tables))
            yield from _guarded("rls.connection", _judging(config, source))
    yield from _sink(config, [(table.schema, table.name) for table in tables if table.subscribed])


def _guarded(name: str, looking: Iterable[Finding]) -> Iterator[Finding]:
    """What PostgreSQL refuses to tell is a finding too, and the other checks go on."""
    try:
        yield from looking
    except psycopg.Error as raised:
        yield of_error(name, translate(raised, f"checking the {name}"))
    except BridgeError as raised:
        yield of_error(name, raised)


def _server(config: Config, source: Connection) -> Iterator[Finding]:
    facts = check_server.read_facts(source)
    slot, found = check_server.slot(source, config.source.slot, config.source.plugin)
    yield from check_server.settings(facts, slot)
    yield check_server.replication(config.source.connection)
    if facts.can_decode and facts.slots < facts.max_slots:
        yield check_server.plugin(source, config.source.plugin)
    yield found
    yield check_server.replay_window(source, config.source.slot, config.source.replay_window, facts)


def _migrations(config: Config) -> Finding:
    try:
        migrations.ensure(config.source.connection, "check")
    except BridgeError as raised:
        finding = of_error("migrations", raised)
        if config.migrations != "apply":
            return finding
        return warning(
            "migrations",
            finding.what,
            "none needed where the login may make them: `walrus-bridge run` does so at start",
        )
    return ok("migrations", "applied")


def _tables(config: Config, source: Connection, tables: list[TableFacts]) -> Iterator[Finding]:
    """The findings; the tables go into `tables`, for the sink."""
    settings = config.source
    if check_logins.subscriptions_readable(source):
        tables += check_tables.read_tables(source)
    major = source.info.server_version // 10000
    yield from check_tables.tables(tables, settings.plugin, major, settings.tables.include, settings.tables.exclude)
    if settings.publication is not None:
        yield from _guarded(
            "source.publication",
            _publication(source, settings.publication, [table.oid for table in tables if table.subscribed]),
        )


def _judging(config: Config, source: Connection) -> Iterator[Finding]:
    roles: list[str] = []
    if check_logins.subscriptions_readable(source):
        roles, gone = check_logins.claimed_roles(source)
        yield from gone
    with contextlib.closing(connect(config.rls.connection or config.source.connection, JUDGING_SETTINGS)) as judging:
        yield check_logins.may_become(judging, roles)
        if config.rls.connection is None:
            yield check_logins.shared_login()
        else:
            if elsewhere := check_logins.same_database(source, judging):
                yield elsewhere
                return
            yield from check_logins.judging_rights(judging, roles)
        if roles:
            yield from check_row_security.row_security(source, judging, current=config.rls.judge == "current")


def _publication(source: Connection, name: str, subscribed: list[int]) -> Iterator[Finding]:
    key = "source.publication"
    found = publication.read(source, name, subscribed)
    if found is None:
        publication.require(source, name, subscribed)
        return
    faults = publication.faults(found)
    for fault in faults:
        yield of_error(key, SourceRefused(f"{name}: {fault}"))
    if not faults:
        yield ok(key, f"{name} has all that is subscribed")


def _sink(config: Config, tables: list[tuple[str, str]]) -> Iterator[Finding]:
    """Open the sink as a start does: the broker answers, and each subscribed table's destination can be used."""
    name = config.sink.kind
    try:
        with contextlib.closing(make_sink(config)) as sink:
            refused = sink.open(tables)
            advice = sink.advice()
    except BridgeError as raised:
        yield of_error(f"sink.{name}", raised)
        return
    yield from (of_error(f"sink.{name}", each) for each in refused)
    yield from (warning(f"sink.{name}", what, remedy) for what, remedy in advice)
    if not refused:
        yield ok(
            f"sink.{name}", "nothing to reach" if name == "stdout" else "reachable, and its destinations can be used"
        )
