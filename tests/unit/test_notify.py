"""What a service manager is told, on a real socket."""

import math
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge import notify
from bridge.notify import INTERVAL_SECONDS, Supervisor


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify") if request.param == "path" else f"\0walrus-bridge-{os.getpid()}")
        listening.setblocking(False)
        yield listening


@pytest.fixture
def told(manager: socket.socket) -> Callable[[], list[list[str]]]:
    """The messages since the last time, as lines."""

    def take() -> list[list[str]]:
        messages = []
        while True:
            try:
                messages.append(manager.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return messages

    return take


def environment(manager: socket.socket, **variables: str) -> dict[str, str]:
    name = manager.getsockname()
    return {"NOTIFY_SOCKET": f"@{name[1:].decode()}" if isinstance(name, bytes) else name} | variables


def test_from_start_to_end(manager: socket.socket, told: Callable[[], list[list[str]]]) -> None:
    # Given a manager with a watchdog
    supervisor = Supervisor(environment(manager, WATCHDOG_USEC="20000000", WATCHDOG_PID=str(os.getpid())))

    # While the bridge starts, it asks for more time, a quarter of the watchdog's later again
    assert supervisor.due <= 100.0
    supervisor.alive(100.0)
    assert told() == [["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=300000000"]]
    assert supervisor.due == 105.0

    # Once it streams, it is only alive
    supervisor.streaming()
    supervisor.alive(105.0)
    assert told() == [["READY=1", "STATUS=streaming"], ["WATCHDOG=1"]]
    assert supervisor.due == 110.0

    supervisor.reconnecting()
    supervisor.stopping()
    assert told() == [
        ["STATUS=PostgreSQL is lost, reconnecting"],
        ["STOPPING=1", "STATUS=delivering what was read"],
    ]


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}],
    ids=["none", "zero", "no number", "another process's"],
)
def test_without_a_watchdog_the_loop_is_not_bothered_once_it_streams(
    manager: socket.socket, told: Callable[[], list[list[str]]], variables: dict[str, str]
) -> None:
    supervisor = Supervisor(environment(manager, **variables))

    supervisor.alive(100.0)
    assert supervisor.due == 100.0 + INTERVAL_SECONDS
    supervisor.streaming()

    assert supervisor.due == math.inf
    assert told() == [["EXTEND_TIMEOUT_USEC=300000000"], ["READY=1", "STATUS=streaming"]]


def test_without_a_manager_nothing_is_due() -> None:
    supervisor = Supervisor({"WATCHDOG_USEC": "20000000"})

    supervisor.streaming()
    supervisor.stopping()

    assert supervisor.due == math.inf


def test_a_manager_that_does_not_listen_is_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "20000000"})

    supervisor.alive(1.0)
    supervisor.streaming()

    said = "".join(capsys.readouterr())
    assert said.count("the service manager cannot be told") == 1


def test_a_manager_that_was_too_slow_for_it_is_told_again_that_it_streams(
    manager: socket.socket, told: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "SEND_SECONDS", 0.05)
    supervisor = Supervisor(environment(manager))
    with pytest.raises(BlockingIOError):  # one after the other, for a sender has a limit of its own
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                other.setblocking(False)
                other.sendto(b"full", manager.getsockname())

    supervisor.streaming()
    assert ["READY=1", "STATUS=streaming"] not in told()
    assert supervisor.due < math.inf
    supervisor.alive(100.0)

    assert told() == [["READY=1"]]
    assert supervisor.due == math.inf
