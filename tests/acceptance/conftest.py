"""The installed command, run as a process."""

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import command
from tests.servers.postgres import Database

ROLES_SQL = Path(__file__).parents[2] / "deploy" / "roles.sql"


@pytest.fixture
def walrus_bridge(tmp_path: Path) -> Callable[..., command.Done]:
    """`walrus_bridge("config", "check", …)` runs it to its end, in an empty folder; other keywords are variables."""
    return partial(command.run, tmp_path)


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[[str], str]:
    """Write a configuration and give its path."""

    def write(text: str) -> str:
        path = tmp_path / "bridge.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def logins(database: Database) -> Iterator[tuple[str, str]]:
    """The source's and the judge's connections."""
    source, judge = f"source_{database.name}", f"judge_{database.name}"
    done = subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"source_login={source}", "-v", f"judge_login={judge}",
         "-v", "claims_roles=anon,authenticated", "-d", database.dsn, "-f", str(ROLES_SQL)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    yield database.cluster.dsn(database.name, source), database.cluster.dsn(database.name, judge)
    for login in (source, judge):
        database.execute(f"drop owned by {login} cascade; drop role {login}")
