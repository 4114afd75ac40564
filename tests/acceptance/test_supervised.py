"""Under a service manager: what the bridge tells it, and deploy/systemd/walrus-bridge.service under a real systemd."""

import contextlib
import json
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from bridge.errors import Exit
from tests.acceptance.test_cli_run import TRY_IT_OUT
from tests.servers.postgres import Database
from tests.servers.systemd import Systemd
from tests.servers.waiting import meanwhile, wait_until


def settings(dsn: str, slot: str) -> dict[str, Any]:
    return {"source": {"connection": dsn, "slot": slot}, "sink": {"stdout": {}}, "http": {"listen": None}}


@pytest.fixture
def messages(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The lines that bridges have told. A thread takes them: where the socket's queue is full, a bridge soon gives up."""
    lines: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(0.1)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        # A sign of life every half second: also while this process stands still, ten of which may fill the queue.
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")

        def take(done: threading.Event) -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    lines.extend(listening.recv(4096).decode().split("\n"))

        with meanwhile(take):
            yield lines


def test_it_is_ready_when_it_streams_and_alive_while_the_loop_moves(
    database: Database, bridge: Callable[..., Any], messages: list[str]
) -> None:
    # Given a slot that another bridge holds
    first = bridge(config=settings(database.dsn, database.slot))
    first.wait_for(lambda: "READY=1" in messages, "it is ready")
    messages.clear()

    # When a standby starts, it asks for more time and is not ready
    standby = bridge(config=settings(database.dsn, database.slot), arguments=("--wait",))
    standby.wait_for(lambda: messages.count("EXTEND_TIMEOUT_USEC=300000000") >= 2, "it asks for more time")
    assert "READY=1" not in messages

    # When it has the slot, it is ready
    first.process.send_signal(signal.SIGKILL)
    first.wait()
    standby.wait_for(lambda: "READY=1" in messages, "it is ready")

    # And gives signs of life, idle too
    messages.clear()
    standby.wait_for(lambda: messages.count("WATCHDOG=1") >= 3, "signs of life")
    assert "EXTEND_TIMEOUT_USEC=300000000" not in messages

    # And it says that it stops
    assert standby.stop() == Exit.OK
    wait_until(lambda: "STOPPING=1" in messages, "it says so")


def test_it_tells_of_a_lost_connection(database: Database, bridge: Callable[..., Any], messages: list[str]) -> None:
    running = bridge(config=settings(database.dsn, database.slot))
    running.wait_for(lambda: "READY=1" in messages, "it is ready")
    messages.clear()

    database.execute(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", (database.slot,)
    )

    running.wait_for(lambda: "STATUS=streaming" in messages, "it streams again")
    assert "STATUS=PostgreSQL is lost, reconnecting" in messages
    assert running.stop() == Exit.OK


def test_the_unit_runs_in_its_walls_and_the_watchdog_ends_what_is_stuck(
    dsn: str, systemd: Callable[..., Systemd], tmp_path: pathlib.Path
) -> None:
    # Given secrets in a file that only root reads
    (tmp_path / "secrets.env").write_text(f"SLOT={dsn.rpartition('/')[2]}\n")
    (tmp_path / "secrets.env").chmod(0o600)
    secrets = f"EnvironmentFile={tmp_path}/secrets.env\n"

    # When the unit starts on an empty database
    manager = systemd(settings(dsn, "${SLOT}"), f"{secrets}WatchdogSec=10\nRestartSec=100ms\n")
    manager.ask("start", manager.name)

    # Then it has applied the migrations, and streams
    manager.wait_for("active")
    assert manager.show("StatusText") == "streaming"
    assert "migrations applied" in manager.text("stderr")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in TRY_IT_OUT.split(";")[:-1]:
            connection.execute(statement.encode())
        wait_until(lambda: manager.text("stdout").endswith("\n"), "its event")
        assert json.loads(manager.text("stdout"))["wal"]["record"] == {"id": 1, "title": "Foo"}

        # When the process stands still
        main, restarts = manager.show("MainPID"), int(manager.show("NRestarts"))
        manager.signal_main(signal.SIGSTOP)

        # Then the watchdog ends it, it is started again, and goes on
        wait_until(lambda: int(manager.show("NRestarts")) > restarts, "a restart")
        manager.wait_for("active")
        assert manager.show("MainPID") != main
        connection.execute("insert into book values (2, 'Bar')")
        wait_until(lambda: '"title":"Bar"' in manager.text("stdout"), "the next event")
    assert "Fatal Python error: Aborted" in manager.text("stderr")

    # When it is stopped, it ends well
    manager.ask("stop", manager.name)
    assert manager.show("ActiveState") == "inactive"
    assert manager.show("Result") == "success"
    assert manager.show("ExecMainStatus") == "0"


def test_the_unit_of_a_standby_may_wait_longer_than_a_start_may_take(
    database: Database, systemd: Callable[..., Systemd], bridge: Callable[..., Any]
) -> None:
    # Given a bridge that holds the slot
    first = bridge(config=settings(database.dsn, database.slot))
    first.wait_until_streaming()

    # When a standby has been starting for longer than the unit allows
    manager = systemd(
        settings(database.dsn, database.slot), "TimeoutStartSec=5\nEnvironment=WALRUS_BRIDGE_RUN_WAIT=1\n"
    )
    manager.ask("start", "--no-block", manager.name)
    wait_until(lambda: "waiting for the slot" in manager.text("stderr"), "it waits")
    time.sleep(6)
    assert manager.show("ActiveState") == "activating"

    # Then it takes over all the same
    assert first.stop() == Exit.OK
    manager.wait_for("active")
    assert manager.show("NRestarts") == "0"


def test_the_unit_is_not_started_again_for_what_does_not_pass_by_itself(
    dsn: str, systemd: Callable[..., Systemd]
) -> None:
    manager = systemd(settings(dsn, "slot") | {"sink": {}}, "RestartSec=100ms\n")

    manager.ask("start", manager.name)

    manager.wait_for("failed")
    assert manager.show("ExecMainStatus") == str(Exit.CONFIG.value)
    assert manager.show("NRestarts") == "0"
