"""A server's process: started in a session of its own, paused, killed and ended by its id."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from tests.servers.waiting import PATIENCE, wait_until


class Server:
    def __init__(self, home: pathlib.Path, name: str) -> None:
        self.home = home
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        path = self.home / f"{self._name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _launch(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with (self.home / f"{self._name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pause(self) -> None:
        """Freeze it: connections stay, nothing is answered. Its threads stop one by one, so this waits for the last:
        a thread that still runs may well answer."""
        self._signal(signal.SIGSTOP)
        wait_until(lambda: not self._running_threads(), f"{self._name}'s standing still")

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a power cut would."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(PATIENCE)

    def end(self) -> None:
        """With all that belongs to it."""
        self.kill()

    def _running_threads(self) -> list[str]:
        """Those of the process group that are neither stopped nor dead."""
        if self._process is None:
            return []
        found = []
        for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if _fields(status)[2] == str(self._process.pid):
                    threads = (status.parent / "task").glob("*/stat")
                    found += [str(thread) for thread in threads if _fields(thread)[0] not in "TtZX"]
        return found

    def _signal(self, number: signal.Signals) -> None:
        """To the process and all it has started: the process group is its own."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


class Startable(Protocol):
    def start(self) -> None: ...
    def end(self) -> None: ...


S = TypeVar("S", bound=Startable)


@contextlib.contextmanager
def running(make: Callable[[pathlib.Path], S]) -> Iterator[S]:
    """The server that `make` puts into a folder of its own; both are gone afterwards."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="walrus-bridge-server-"))
    server = make(home)
    try:
        server.start()
        yield server
    finally:
        server.end()
        shutil.rmtree(home, ignore_errors=True)


def _fields(status: pathlib.Path) -> list[str]:
    """State, parent, process group, … of /proc/…/stat: what follows the name, which may hold anything."""
    return status.read_text(errors="replace").rpartition(")")[2].split()
