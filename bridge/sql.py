"""Ordinary SQL connections to PostgreSQL that never stop the loop, and the translation of the driver's errors.

While a query runs, `Connection.on_wait` is called at least every 50 ms: status updates and the sink go on, whatever
a lock or a slow policy does.
"""

import select
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo as pg_conninfo
from psycopg import sql
from psycopg.waiting import Ready, Wait

from bridge.errors import BridgeError, SourceRefused, SourceUnreachable

APPLICATION_NAME = "walrus-bridge"
CONNECT_TIMEOUT_SECONDS = 10
TICK_SECONDS = 0.05

FIXED_SETTINGS = {
    # The text of values depends on these, so no database or role may change them (SEMANTICS, section 3).
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmloption": "content",
    "row_security": "on",
    # A role's own time limits must not break the bridge.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
FIRST_WITH_TRANSACTION_TIMEOUT = 170000
"""A connection that names it is refused by older servers, so it is set once that is known."""

T = TypeVar("T")

_OWN_CERTIFICATE = "give a certificate that the server trusts for this user as sslcert, and its key as sslkey"

# What PostgreSQL says while it refuses a connection for a reason that waiting does not mend. libpq gives no SQLSTATE
# for a failed connection, so its text has to do.
_REFUSALS = (
    ("password authentication failed", "check the user and the password"),
    ("authentication failed", "check the user and how pg_hba.conf lets it in"),
    ("no password supplied", "give the password, in the connection or in a passfile"),
    ("no pg_hba.conf entry", "allow this client in pg_hba.conf (a walsender's entry names the database too)"),
    ("pg_hba.conf rejects", "allow this client in pg_hba.conf"),
    ("is not permitted to log in", "use a role that has LOGIN"),
    ("must be superuser or replication role to start walsender", "alter role … replication"),
    ("permission denied to start WAL sender", "alter role … replication"),
    ("permission denied for database", "grant connect on the database"),
    ("server does not support SSL", "turn TLS on in the server, or lower sslmode"),
    ("certificate verify failed", "give the right sslrootcert"),
    ("root certificate file", "give the file of the server's authority as sslrootcert"),
    ("does not match host name", "connect by the name in the server's certificate"),
    ("requires a valid client certificate", _OWN_CERTIFICATE),
    ("alert unknown ca", _OWN_CERTIFICATE),
    ("alert bad certificate", _OWN_CERTIFICATE),
    ("alert certificate", _OWN_CERTIFICATE),
    ("could not read certificate file", _OWN_CERTIFICATE),
    ("private key file", _OWN_CERTIFICATE),
    ("invalid sslmode value", "use one of libpq's values"),
    ("invalid connection option", "use libpq's connection parameters"),
)
_MISSING = (("database", "create it, or correct the connection"), ("role", "create it, or correct the connection"))


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """In autocommit mode; `on_wait` is called while a query waits. What it raises ends the wait, and
    the connection."""

    on_wait: Callable[[], None] | None = None

    def wait(self, gen: Generator[Any, Any, T], interval: float = TICK_SECONDS, timeout: float | None = None) -> T:
        """Drive a psycopg generator (psycopg.waiting), calling `on_wait` every `interval` seconds.

        `timeout` (psycopg's own calls never give one for a query) ends the wait as a lost connection.
        """
        deadline = time.monotonic() + timeout if timeout is not None else None
        poller = select.poll()
        descriptor = self.pgconn.socket
        due = time.monotonic() + interval
        try:
            wanted = next(gen)
            while True:
                mask = (select.POLLIN if wanted & Wait.R else 0) | (select.POLLOUT if wanted & Wait.W else 0)
                poller.register(descriptor, mask)
                try:
                    found = poller.poll(interval * 1000)
                    if self.on_wait is not None and time.monotonic() >= due:
                        self.on_wait()
                        due = time.monotonic() + interval
                except BaseException:
                    # Half an answer must not be taken for the next question's, nor an interrupted query for a policy's error.
                    self.close()
                    raise
                if deadline is not None and time.monotonic() > deadline:
                    raise psycopg.errors.ConnectionTimeout("no answer in time")
                ready = 0
                for _, events in found:
                    ready |= Ready.R if events & ~select.POLLOUT else 0
                    ready |= Ready.W if events & select.POLLOUT else 0
                wanted = gen.send(Ready(ready & wanted) if ready & wanted else Ready.NONE)
        except StopIteration as stop:
            result: T = stop.value
            return result


def options_of(settings: dict[str, str]) -> str:
    """libpq's `options`: settings that win over those of the database and the role."""

    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace(" ", "\\ ")

    return " ".join(f"-c {name}={escaped(value)}" for name, value in settings.items())


_FORM = "postgresql://user:password@host:port/database, or host=… port=… user=… password=… dbname=…"


def connection_fault(conninfo: str) -> str | None:
    """What is wrong with a connection string and what to do; None: nothing. Pure.

    Nothing of the string is quoted, nor are libpq's own words, which quote the part of it that they stumble over: that
    may be of a password with a character that should have been escaped. And libpq takes some of these without a word:
    of postgresql://user:pass@word@host it makes the host "word@host", and of postgresql://user:pa/ss@host the port "pa".
    """
    try:
        given = pg_conninfo.conninfo_to_dict(conninfo)
    except psycopg.Error:
        given = None
    after = conninfo.partition("://")[2] if conninfo.startswith(("postgresql://", "postgres://")) else ""
    if "@" in after.partition("/")[0]:
        after = after.partition("@")[2]
    if given is None or "@" in after.partition("?")[0]:
        return (
            f"not a connection that libpq understands. What to do: write {_FORM}; in the first, special characters of the"
            " password are percent-encoded (@ is %40, / is %2F), in the second, a password with spaces or quotes is quoted"
        )
    ports = str(given.get("port") or "")
    if not all(port.strip().isdigit() for port in ports.split(",") if port):
        return f"without a port that is a number. What to do: write {_FORM}"
    return None


def conninfo_with(conninfo: str, settings: dict[str, str], **parameters: str) -> str:
    """The user's connection with our settings after the user's own `options`, so that ours win.

    Raises SourceRefused for a connection string that libpq does not understand.
    """
    if fault := connection_fault(conninfo):
        raise SourceRefused(f"the connection is {fault}")
    given = pg_conninfo.conninfo_to_dict(conninfo)
    merged = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "fallback_application_name": APPLICATION_NAME,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "tcp_user_timeout": 60_000,
        **given,
        "client_encoding": "UTF8",
        "options": f"{given.get('options') or ''} {options_of(settings)}".strip(),
        **parameters,
    }
    return pg_conninfo.make_conninfo("", **merged)


def connect(conninfo: str, settings: dict[str, str] | None = None) -> Connection:
    """Open an ordinary connection with FIXED_SETTINGS and `settings`.

    Raises SourceUnreachable where waiting may help, SourceRefused where it does not.
    """
    full = conninfo_with(conninfo, FIXED_SETTINGS | (settings or {}))
    try:
        connection = Connection.connect(full, autocommit=True)
    except psycopg.Error as error:
        raise connection_error(conninfo, str(error)) from error
    try:
        for name, value in later_settings(connection.info.server_version).items():
            connection.execute("select set_config(%s, %s, false)", (name, value))
    except psycopg.Error as error:
        connection.close()
        raise connection_error(conninfo, str(error)) from error
    return connection


def later_settings(version: int) -> dict[str, str]:
    """What belongs to FIXED_SETTINGS, once the server's version is known."""
    return {"transaction_timeout": "0"} if version >= FIRST_WITH_TRANSACTION_TIMEOUT else {}


def connection_error(conninfo: str, text: str) -> BridgeError:
    """The error for a connection that failed with libpq's `text`."""
    where = describe(conninfo)
    reason = " ".join(text.split())
    for sign, remedy in _REFUSALS:
        if sign in reason:
            return SourceRefused(f"PostgreSQL at {where} refuses the connection: {reason}. What to do: {remedy}")
    for noun, remedy in _MISSING:
        if f'{noun} "' in reason and "does not exist" in reason:
            return SourceRefused(f"PostgreSQL at {where} refuses the connection: {reason}. What to do: {remedy}")
    return SourceUnreachable(f"PostgreSQL at {where} cannot be reached: {reason}")


def describe(conninfo: str) -> str:
    """host:port/database as user, without any secret."""
    try:
        parts = pg_conninfo.conninfo_to_dict(conninfo)
    except psycopg.Error:
        return "an unreadable connection"
    host = parts.get("host") or parts.get("hostaddr") or parts.get("service") or "the local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    database = parts.get("dbname") or parts.get("user") or ""
    user = f" as {parts['user']}" if parts.get("user") else ""
    return f"{host}{port}/{database}{user}"


def quoted(*name: str) -> sql.SQL:
    """A name, with what qualifies it, for a query that has parameters: there a percent sign begins a placeholder, which
    sql.Identifier does not mind."""
    return sql.SQL(sql.Identifier(*name).as_string().replace("%", "%%"))


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


def is_transient(error: psycopg.Error) -> bool:
    """Whether waiting may mend it: a lost connection, a restarting server, a deadlock, too few resources."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state[:2] in {"08", "40", "53"} or state[:3] == "57P" or state == "55P03"


def translate(error: psycopg.Error, doing: str) -> BridgeError:
    """An error of one of our own queries (never of a policy's), for an operator."""
    if is_transient(error):
        return SourceUnreachable(f"while {doing}: {first_line(error)}")
    state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    return SourceRefused(f"PostgreSQL refuses {doing}: {first_line(error)}{state}{remedy(error.sqlstate)}")


def remedy(state: str | None) -> str:
    """What to do where PostgreSQL's own words do not say it; empty where nothing general can be said."""
    if state == "42501":  # insufficient_privilege
        return ". What to do: grant the right to the login; deploy/roles.sql has all that are needed"
    if state in {"42P01", "3F000"}:  # undefined_table, invalid_schema_name
        return ". What to do: look who dropped or renamed it; `walrus-bridge migrate deploy` makes what is the bridge's"
    return ""
