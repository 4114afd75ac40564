"""The installed command, run as a process to its end."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from bridge.errors import Exit


class Done(msgspec.Struct, frozen=True):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    def refused(self, status: Exit, *words: str) -> None:
        """Assert that it ended with this status and one clear message that has these words."""
        assert self.status == status, self.stderr
        assert "Traceback" not in self.stderr
        # Apart from log lines there is the one message.
        messages = [line for line in self.stderr.splitlines() if line.startswith("walrus")]
        assert len(messages) == 1, self.stderr
        for word in words:
            assert word in messages[0]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without the bridge's variables and libpq's, with these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WALRUS_BRIDGE_", "PG"))}
    return clean | variables


def program(name: str = "walrus-bridge") -> str:
    """The installed script, beside the interpreter that runs the tests."""
    return str(Path(sys.executable).with_name(name))


def run(folder: Path, *arguments: str, name: str = "walrus-bridge", stdin: str = "", **variables: str) -> Done:
    """Run the script `name` in `folder`."""
    done = subprocess.run(
        [program(name), *arguments],
        cwd=folder,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
