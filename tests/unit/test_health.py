"""The health endpoint: what probes see."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from bridge.errors import ConfigError
from bridge.health import STUCK_SECONDS, Health
from bridge.listener import Listener
from bridge.units import Address


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def listener(health: Health) -> Iterator[Listener]:
    listener = Listener(Address("127.0.0.1:0"), health)
    yield listener
    listener.close()


def status(listener: Listener, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{listener.port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_live_while_the_loop_moves_ready_while_it_streams(health: Health, listener: Listener) -> None:
    # Given a process that starts
    assert (status(listener, "/live"), status(listener, "/ready")) == (200, 503)

    # When it streams
    health.streaming = True
    assert (status(listener, "/live"), status(listener, "/ready")) == (200, 200)

    # When the loop is stuck
    health.loop_at = time.monotonic() - STUCK_SECONDS - 1
    assert (status(listener, "/live"), status(listener, "/ready")) == (503, 503)

    # When it moves again
    health.turn(time.monotonic())
    assert (status(listener, "/live"), status(listener, "/ready")) == (200, 200)


def test_other_paths_are_not_found(listener: Listener) -> None:
    assert [status(listener, path) for path in ("/favicon.ico", "/page.html", "/../status")] == [404] * 3


@pytest.mark.parametrize("path", ["/", "/?x=1", "/live", "/status", "/metrics"])
def test_browsers_are_told_to_trust_nothing_else(health: Health, listener: Listener, path: str) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{listener.port}{path}", timeout=5) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert policy.startswith("default-src 'none'; frame-ancestors 'none'")
    assert "unsafe" not in policy
    assert ("script-src 'sha256-" in policy) == (path in {"/", "/?x=1"})


def test_an_address_in_use_is_an_error_that_names_the_key(listener: Listener, health: Health) -> None:
    with pytest.raises(ConfigError, match=r"http\.listen: cannot listen on 127\.0\.0\.1:\d+: .*What to do"):
        Listener(Address(f"127.0.0.1:{listener.port}"), health)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9187", "127.0.0.1", 9187),
        (":80", "", 80),
        ("[::1]:9187", "::1", 9187),
        ("localhost:0", "localhost", 0),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = Address.parse(text)

    assert (address.host, address.port) == (host, port)
