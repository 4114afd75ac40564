"""The installed command, run as a process."""

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import command
from tests.servers.postgres import Database
from tests.servers.systemd import Systemd, lacking

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "walrus-bridge.service"
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


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Callable[..., Systemd]]:
    """Start a systemd with the unit, some lines of it replaced. Asked for after the database, it ends before that goes."""
    if why := lacking():
        pytest.skip(f"a systemd of its own cannot be started here: {why}")
    started: list[Systemd] = []
    program = command.program()

    def start(config: dict[str, Any], drop_in: str = "") -> Systemd:
        # The configuration as a credential: a file that root alone reads, and the service.
        file = tmp_path / "bridge.yaml"
        file.write_text(yaml.safe_dump(config))
        file.chmod(0o600)
        command = f"ExecStart=\nExecStart={program} run --config ${{CREDENTIALS_DIRECTORY}}/bridge.yaml\n"
        command += f"LoadCredential=bridge.yaml:{file}\n"
        started.append(Systemd(tmp_path, UNIT, command + drop_in))
        return started[-1]

    yield start
    for each in started:
        each.end()
