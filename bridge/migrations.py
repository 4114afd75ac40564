"""Applies, verifies and reverts the bridge's own objects in the database.

The scripts are a sqitch project. Whether they are applied is asked of the database itself, by the verify scripts over
one connection (some milliseconds): sqitch runs only where something is missing. All scripts may be run again, and
none replaces or drops what others made.
"""

import contextlib
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec
import psycopg
import structlog

from bridge import sqitch
from bridge.errors import MigrationError
from bridge.sql import Connection, connect, describe, first_line, is_transient, translate

log = structlog.get_logger()

_PROJECT: Final = "walrus-bridge"
_REGISTRY: Final = "walrus_sqitch"
_LOCK: Final = 0x77616C727573  # "walrus": the advisory lock of who migrates
_LOCK_TIMEOUT_SECONDS: Final = 120
_SETTINGS: Final = {"client_min_messages": "warning", "lock_timeout": f"{_LOCK_TIMEOUT_SECONDS}s"}
_TRANSACTION = re.compile(r"^(begin|commit);\n", re.MULTILINE)


class _Finding(msgspec.Struct, frozen=True):
    change: str
    problem: str | None
    """Why its verify script failed; None: it is applied."""


def ensure(conninfo: str, mode: str) -> None:
    """The config's `migrations`: apply what is missing, only check, or off. Raises MigrationError."""
    if mode == "apply":
        deploy(conninfo)
    elif mode == "check":
        verify(conninfo)


def deploy(conninfo: str) -> list[str]:
    """Apply what is missing, and give the names of the changes that were. Raises MigrationError.

    Several at once wait for each other.
    """
    with _connection(conninfo) as connection:
        if not _missing(connection):
            return []
        with _lock(connection):
            missing = _missing(connection)
            if not missing:
                return []
            _require_rights(connection)
            sqitch.run(folder(), connection, "deploy", "--mode", "change")
            left = _missing(connection)
            if left:
                raise MigrationError(
                    f"sqitch has the migrations of {describe(conninfo)} as applied, but {left[0].problem}. What to"
                    f" do: apply the plain SQL, which makes only what is missing: {sqitch.BY_HAND}"
                )
    names = [finding.change for finding in missing]
    log.info("migrations applied", changes=names)
    return names


def verify(conninfo: str) -> None:
    """Raises MigrationError where a change is missing."""
    with _connection(conninfo) as connection:
        missing = _missing(connection)
    if missing:
        reasons = "; ".join(f"{finding.change} ({finding.problem})" for finding in missing)
        raise MigrationError(
            f"migrations are missing in {describe(conninfo)}: {reasons}. What to do: walrus-bridge migrate deploy,"
            f" or, by hand, {sqitch.BY_HAND}"
        )


def status(conninfo: str) -> str:
    """A line for each change: applied, or what is missing; and whether sqitch's registry knows of it."""
    with _connection(conninfo) as connection:
        registered = _registered(connection)
        findings = _findings(connection)
    lines = []
    for finding in findings:
        state = "applied" if finding.problem is None else f"missing: {finding.problem}"
        by_hand = finding.problem is None and finding.change not in registered
        lines.append(f"{finding.change:14}{state}{' (not by sqitch)' if by_hand else ''}")
    return "\n".join(lines)


def revert(conninfo: str, to: str | None = None) -> list[str]:
    """Take the changes back, down to `to`, which stays; None: all. Gives the names of those that went.

    Raises MigrationError, also where subscriptions or a slot's state would be lost.
    """
    names = changes()
    if to is not None and to not in names:
        raise MigrationError(f"there is no migration {to!r}. What to do: name one of {', '.join(names)}")
    with _connection(conninfo) as connection, _lock(connection):
        _register(connection)
        leaving = [name for name in names[names.index(to) + 1 if to else 0 :] if name in _registered(connection)]
        if leaving:
            target = ("--to-change", to) if to else ()
            sqitch.run(folder(), connection, "revert", "-y", *target)
    if leaving:
        log.info("migrations reverted", changes=leaving)
    return leaving


def plain_sql() -> str:
    """All of it as one script of plain SQL, in one transaction. It may be run again."""
    parts = [_TRANSACTION.sub("", (folder() / "deploy" / f"{name}.sql").read_text("utf-8")) for name in changes()]
    return "begin;\n\n" + "\n".join(parts) + "\ncommit;\n"


def folder() -> Path:
    """The sqitch project: inside the package, or in a checkout beside it."""
    for place in (Path(str(resources.files("bridge"))) / "sqitch", Path(__file__).resolve().parent.parent / "sqitch"):
        if (place / "sqitch.plan").is_file():
            return place
    raise MigrationError("the migrations are not in this installation. What to do: install walrus-bridge again")


def changes() -> list[str]:
    """Names of the changes, in the plan's order."""
    plan = (folder() / "sqitch.plan").read_text("utf-8").splitlines()
    return [line.split()[0] for line in plan if line and not line.startswith("%")]


@contextlib.contextmanager
def _connection(conninfo: str) -> Iterator[Connection]:
    with contextlib.closing(connect(conninfo, _SETTINGS)) as connection:
        try:
            yield connection
        except psycopg.Error as error:
            raise translate(error, "asking for the migrations") from error


def _missing(connection: Connection) -> list[_Finding]:
    return [finding for finding in _findings(connection) if finding.problem is not None]


def _findings(connection: Connection) -> list[_Finding]:
    """What each change's verify script says, in the plan's order."""
    found = []
    for name in changes():
        script = (folder() / "verify" / f"{name}.sql").read_bytes()
        problem = None
        try:
            connection.execute(script)
        except psycopg.Error as error:
            if is_transient(error):
                raise
            problem = error.diag.message_primary or first_line(error)
            connection.execute("rollback")
        found.append(_Finding(name, problem))
    return found


def _registered(connection: Connection) -> set[str]:
    """The changes that sqitch's registry holds as deployed."""
    row = connection.execute("select to_regclass(%s)", (f"{_REGISTRY}.changes",)).fetchone()
    if row is None or row[0] is None:
        return set()
    rows = connection.execute(f"select change from {_REGISTRY}.changes where project = %s", (_PROJECT,)).fetchall()
    return {name for (name,) in rows}


def _register(connection: Connection) -> None:
    """Tell sqitch of changes that were applied by hand, so that it can revert them."""
    registered = _registered(connection)
    applied = [finding.change for finding in _findings(connection) if finding.problem is None]
    if set(applied) - registered:
        sqitch.run(folder(), connection, "deploy", "--log-only", "--to-change", applied[-1])


@contextlib.contextmanager
def _lock(connection: Connection) -> Iterator[None]:
    """One migrates at a time. Held by this session while sqitch works in its own."""
    try:
        connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationError(
            f"another bridge has been migrating this database for {_LOCK_TIMEOUT_SECONDS} s. What to do: see what its"
            f" session waits for (pg_locks), and try again"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.Error):  # a lost connection has given it up already
            connection.execute("select pg_advisory_unlock(%s)", (_LOCK,))


_RIGHTS = """
select current_user, current_database(), has_database_privilege(current_database(), 'CREATE'),
  array(select name from unnest(%(schemas)s::text[]) as name where to_regnamespace(name) is null),
  array(select nspname from pg_namespace where nspname = any (%(schemas)s::text[])
        and not has_schema_privilege(oid, 'CREATE, USAGE'))
"""


def _require_rights(connection: Connection) -> None:
    """Raises MigrationError where the login may not make what is missing, before anything is made."""
    schemas = ["realtime", "walrus_bridge", _REGISTRY]
    row = connection.execute(_RIGHTS, {"schemas": schemas}).fetchone()
    assert row is not None
    user, database, may_create, absent, closed = row
    way_out = (
        "or have an administrator run `walrus-bridge migrate deploy`, and set `migrations: check`"
        " (deploy/roles.sql tells more)"
    )
    if absent and not may_create:
        raise MigrationError(
            f"the login {user} may not create the schemas {', '.join(absent)}. What to do: grant create on database"
            f" {database} to {user}; {way_out}"
        )
    if closed:
        raise MigrationError(
            f"the login {user} may not create objects in the schemas {', '.join(closed)}. What to do: grant usage,"
            f" create on schema {', '.join(closed)} to {user}; {way_out}"
        )
