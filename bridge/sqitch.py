"""Runs sqitch as a subprocess, with the parameters of the connection that psycopg has made.

Every libpq parameter goes through the environment, whatever form the user gave it in: an argument, the password
above all, would show in the list of processes. sqitch sees no configuration but the one beside the migrations. How
long it may wait for a lock is the connection's lock_timeout.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from psycopg import pq

from bridge.errors import MigrationError
from bridge.sql import APPLICATION_NAME, Connection, later_settings, options_of

BY_HAND = "walrus-bridge migrate deploy --print | psql --set ON_ERROR_STOP=1 …"
"""The way without sqitch."""

_TARGET = "db:pg:"  # host, database, user and password: all from the environment
_UNWANTED = re.compile(r"SQITCH_|PG|DBI_")


def run(folder: Path, connection: Connection, command: str, *arguments: str) -> None:
    """`sqitch command` on the migrations in `folder`. Raises MigrationError."""
    for program, package in (("sqitch", "sqitch, libdbd-pg-perl"), ("psql", "postgresql-client")):
        if shutil.which(program) is None:
            raise MigrationError(
                f"{program} is not installed, and the migrations need it. What to do: install it (on Debian:"
                f" apt install {package}), or apply the plain SQL by hand: {BY_HAND}"
            )
    with tempfile.TemporaryDirectory(prefix="walrus-sqitch-") as home:
        done = subprocess.run(
            ["sqitch", command, *arguments, "--target", _TARGET],
            cwd=folder,
            env=_environment(folder, connection.pgconn.info, Path(home)) | {"PGOPTIONS": _options(connection)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode != 0:
        raise MigrationError(f"sqitch {command} failed: {reason(done.stdout, done.stderr)}")


def reason(stdout: str, stderr: str) -> str:
    """What went wrong, in one line: the server's own error and hint where there is one. Pure."""
    said: dict[str, list[str]] = {"ERROR": [], "FATAL": [], "HINT": []}
    for line in stderr.splitlines():
        found = re.search(r"\b(ERROR|FATAL|HINT):\s+(.*)", line)
        if found is not None and found[2] not in said[found[1]]:
            said[found[1]].append(found[2].rstrip("."))
    errors = said["ERROR"] + said["FATAL"]
    if not errors:
        last = (stderr.strip() or stdout.strip() or "it gave no reason").splitlines()[-3:]
        return ". ".join(line.strip().rstrip(".") for line in last)
    return ". ".join(errors) + "".join(f". What to do: {hint}" for hint in said["HINT"][:1])


def _environment(folder: Path, options: list[pq.ConninfoOption], home: Path) -> dict[str, str]:
    """This process's environment with the connection's parameters and without other settings of sqitch or libpq."""
    environment = {name: value for name, value in os.environ.items() if not _UNWANTED.match(name)}
    environment |= {
        # A container's user may have no name, and sqitch then leaves a broken registry.
        "SQITCH_FULLNAME": APPLICATION_NAME,
        "SQITCH_EMAIL": f"{APPLICATION_NAME}@localhost",
        "SQITCH_CONFIG": str(folder / "sqitch.conf"),
        "SQITCH_SYSTEM_CONFIG": os.devnull,
        "SQITCH_USER_CONFIG": os.devnull,
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "PGAPPNAME": APPLICATION_NAME,
    }
    for option in options:
        if option.val is None or option.val == option.compiled or option.keyword.startswith(b"service"):
            continue  # what a service says is among the other options
        value = option.val.decode()
        if option.envvar is not None:
            environment[option.envvar.decode()] = value
        elif option.keyword == b"sslpassword":  # has no variable
            service = home / "service"
            service.touch(mode=0o600)
            service.write_text(f"[{APPLICATION_NAME}]\nsslpassword={value}\n")
            environment |= {"PGSERVICEFILE": str(service), "PGSERVICE": APPLICATION_NAME}
    return environment


def _options(connection: Connection) -> str:
    """The connection's settings, with those that could only be made once the server's version was known."""
    given = next((option.val for option in connection.pgconn.info if option.keyword == b"options"), None) or b""
    return f"{given.decode()} {options_of(later_settings(connection.info.server_version))}".strip()
