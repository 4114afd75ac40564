"""The bridge as an operator runs it: the installed command, as a process."""

import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

import yaml

from tests.servers.waiting import PATIENCE, wait_until


class BridgeProcess:
    """`walrus-bridge run`, with a config or with the original worker's options."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        config: dict[str, Any] | None = None,
        arguments: tuple[str, ...] = (),
        program: tuple[str, ...] = ("-m", "bridge"),
    ) -> None:
        self._events: list[dict[str, Any]] = []
        self._rest = b""
        self._lock = threading.Lock()
        if config is not None:
            path = folder / "bridge.yaml"
            path.write_text(yaml.safe_dump(config), encoding="utf-8")
            arguments = ("run", "--config", str(path), *arguments)
        # A log of its own: what an earlier one has said must not pass for this one's words.
        with tempfile.NamedTemporaryFile(dir=folder, prefix="bridge-", suffix=".log", delete=False) as log:
            self._log = pathlib.Path(log.name)
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={
                    name: value for name, value in os.environ.items() if not name.startswith(("WALRUS_BRIDGE_", "PG"))
                },
                start_new_session=True,
            )
        assert self.process.stdout is not None
        self._stdout = self.process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        poller = select.poll()
        poller.register(self._stdout, select.POLLIN)
        while self._take():
            poller.poll()
        with self._lock:
            self._stdout.close()

    def _take(self) -> bool:
        """All that is in the pipe; whether more may come. A kill may have cut the last line."""
        with self._lock:
            while not self._stdout.closed:
                try:
                    chunk = os.read(self._stdout.fileno(), 1 << 16)
                except BlockingIOError:
                    return True
                if not chunk:
                    return False
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                self._events += map(json.loads, lines)
            return False

    @property
    def events(self) -> list[dict[str, Any]]:
        """What stdout has carried so far: all that has been acknowledged, for that is what lies in the pipe."""
        self._take()
        return list(self._events)

    @property
    def stderr(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        """Those on stderr, of the stdout sink."""
        lines = (line for line in self.stderr.split("\n") if line.startswith('{"dead_letter":'))
        return [json.loads(line)["dead_letter"] for line in lines]

    def wait_for_events(self, count: int, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        self.wait_for(lambda: len(self.events) >= count, f"{count} events", seconds)
        return self.events

    def wait_for(self, condition: Any, what: str, seconds: float = PATIENCE) -> Any:
        """Wait, and say what the bridge said last where it has ended or the time is up."""

        def found() -> Any:
            result = condition()
            if not result and self.process.poll() is not None:
                raise AssertionError(f"the bridge ended with {self.process.returncode}")
            return result

        try:
            return wait_until(found, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; events: {len(self.events)}\n{self.stderr[-3000:]}") from None

    def wait_until_streaming(self, times: int = 1) -> None:
        """It says so at its start, and again whenever it has lost its connection and found it."""
        self.wait_for(lambda: self.stderr.count("] streaming ") >= times, "streaming")

    def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = PATIENCE) -> int:
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the bridge does not end\n{self.stderr[-3000:]}") from None
        self._reader.join(PATIENCE)
        return status

    def kill(self) -> None:
        """As a power cut would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
