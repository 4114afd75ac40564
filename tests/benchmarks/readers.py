"""Who reads a slot: the bridge as an operator runs it, and pg_recvlogical. Both are timed in the same way: from when
they say that they stream, so that starting a process is not part of it, until the slot is confirmed up to the end."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

import yaml

from bridge.pgoutput import start_options as pgoutput_options
from bridge.wal2json import start_options as wal2json_options
from tests.command import environment
from tests.servers.postgres import Database

PLUGINS = ("wal2json", "pgoutput")
START_SECONDS = 120.0
POLL_SECONDS = 0.005


class Reader:
    """A process, and when it said that it streams."""

    def __init__(self, command: Sequence[str], mark: bytes, stdout: int | IO[bytes]) -> None:
        self._mark = mark
        self._lines: list[bytes] = []
        self._marked = threading.Event()
        self._streaming_at = 0.0
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self._lines.append(line)
                if self._mark in line and not self._marked.is_set():
                    self._streaming_at = time.monotonic()
                    self._marked.set()
        self._marked.set()

    def streaming_at(self) -> float:
        """Wait for it."""
        if not self._marked.wait(START_SECONDS) or not self._streaming_at:
            raise AssertionError(f"it does not stream:\n{self.log}")
        return self._streaming_at

    @property
    def log(self) -> str:
        return b"".join(self._lines)[-3000:].decode(errors="replace")

    def has_ended(self, seconds: float) -> bool:
        """Within that time. By the end of its stderr, for waiting for a process itself looks only every 50 ms."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """As an operator would; or, where it does not end, as a power cut."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self._thread.join(10)


@contextlib.contextmanager
def bridge(
    folder: pathlib.Path,
    dsn: str,
    slot: str,
    plugin: str,
    sink: dict[str, Any],
    stdout: int | IO[bytes] = subprocess.DEVNULL,
) -> Iterator[Reader]:
    source = {"connection": dsn, "slot": slot, "plugin": plugin, "heartbeat": "1h"}
    if plugin == "pgoutput":
        source["publication"] = "everything"
    path = folder / f"{slot}.yaml"
    path.write_text(yaml.safe_dump({"source": source, "sink": sink, "http": {"listen": None}}), encoding="utf-8")
    reader = Reader([sys.executable, "-m", "bridge", "run", "--config", str(path)], b"] streaming ", stdout)
    try:
        yield reader
    finally:
        reader.stop()


@contextlib.contextmanager
def pg_recvlogical(
    database: Database, dsn: str, slot: str, plugin: str, end: str | None = None, stdout: int | IO[bytes] = 1
) -> Iterator[Reader]:
    """With the bridge's options. To /dev/null up to `end`; without one, to `stdout`."""
    version = database.connection.info.server_version
    options = wal2json_options(["*.*"], []) if plugin == "wal2json" else pgoutput_options("everything", version)
    command = ["pg_recvlogical", "-d", dsn, "-S", slot, "--start", "--no-loop", "--verbose"]
    command += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command += ["-f", "/dev/null", "-E", end] if end else ["-f", "-"]
    reader = Reader(command, b"streaming initiated", subprocess.DEVNULL if end else stdout)
    try:
        yield reader
    finally:
        reader.stop()


@contextlib.contextmanager
def copied(database: Database, origin: str, slot: str) -> Iterator[str]:
    """A slot that stands where `origin` does: so every reader has the same backlog."""
    database.execute("select pg_copy_logical_replication_slot(%s, %s, false)", (origin, slot))
    try:
        yield slot
    finally:
        drop(database, slot)


def drop(database: Database, slot: str) -> None:
    database.execute(
        "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
        " where slot_name = %s and active_pid is not null",
        (slot,),
    )
    database.execute("select pg_drop_replication_slot(%s)", (slot,))


def seconds_until_confirmed(database: Database, reader: Reader, slot: str, end: str, cap: float) -> float | None:
    """From when it streams; None: not within `cap`."""
    began = reader.streaming_at()
    query = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
    while database.execute(query, (end, slot)) != [(True,)]:
        if reader.process.poll() is not None:
            raise AssertionError(f"it has ended:\n{reader.log}")
        if time.monotonic() - began > cap:
            return None
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


def seconds_until_ended(reader: Reader, cap: float) -> float | None:
    """pg_recvlogical ends when it has confirmed the end."""
    began = reader.streaming_at()
    if not reader.has_ended(cap):
        return None
    took = time.monotonic() - began
    assert reader.process.wait(5) == 0, reader.log
    return took


def cpu_seconds(pid: int) -> float:
    """What a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
