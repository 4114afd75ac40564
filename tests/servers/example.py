"""The consumers' guide's programs as processes, and what their stores hold."""

import pathlib
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from tests.servers.kafka import JARS
from tests.servers.waiting import PATIENCE, wait_until

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs" / "examples"


class Program:
    """An example as a process. Whenever it has ended by itself, or is killed, it is started again by `keep`."""

    def __init__(self, log: pathlib.Path, *command: str) -> None:
        self._command = command
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> int | None:
        """The exit status, where it had ended."""
        status = None if self._process is None else self._process.poll()
        if self._process is None or status is not None:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        return status

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def wait_for(self, condition: Callable[[], Any], what: str) -> None:
        """Running meanwhile, as a supervisor would have it."""

        def found() -> Any:
            self.keep()
            return condition()

        try:
            wait_until(found, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-3000:]}") from None


def ask(store: pathlib.Path, query: str) -> list[tuple[Any, ...]]:
    """Of an example's SQLite store; nothing while it has not been made."""
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []


def compiled(name: str, folder: pathlib.Path) -> Sequence[str]:
    """A Java example's command line without its arguments, compiled once: the source alone would be at every start."""
    java = shutil.which("java") or ""
    compiler = [java, "-m", "jdk.compiler/com.sun.tools.javac.Main", "-cp", ":".join(map(str, JARS.glob("*.jar")))]
    subprocess.run([*compiler, "-d", str(folder), str(EXAMPLES / f"{name}.java")], check=True, timeout=120)
    return [java, "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{folder}:{JARS}/*", name]
