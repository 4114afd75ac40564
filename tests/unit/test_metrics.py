"""What Prometheus reads of the loop's numbers."""

import re
import time
import urllib.request
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.health import Health
from bridge.listener import Listener
from bridge.metrics import exposition
from bridge.units import Address
from bridge.window_facts import Facts

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.fixture
def health() -> Health:
    """One that has something to tell of everything."""
    health = Health()
    health.events["public", "book"] += 2
    health.events["public", 'a "b"\\\n'] += 1
    health.dead_letters["public", "book"] += 1
    health.in_flight.events, health.in_flight.bytes = 3, 400
    health.lag.looked(1 << 52, 1e9, time.monotonic() - 20)
    health.received((1 << 52) + 1)
    health.confirmed(1 << 52, time.monotonic())
    health.held_back_seconds = 1.5
    at = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
    health.replay = Facts("realtime_replay", 1 << 40, at, 64 << 20, 700, "reserved")
    health.tally.joined_rows, health.tally.single_decisions = 7, 8
    health.tally.ways["public", "book", "anon"] = None
    health.tally.ways["public", "note", "anon"] = "it is volatile"
    return health


def numbers(health: Health) -> dict[tuple[str, ...], float]:
    """By name and label values, less the common prefix; what the client's own parser reads."""
    return {
        (sample.name.removeprefix("walrus_bridge_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(exposition(health).decode())
        for sample in family.samples
    }


def names(health: Health) -> Iterable[str]:
    return {name for name, *_ in numbers(health)}


def test_every_number_is_told(health: Health) -> None:
    found = numbers(health)

    assert found["events_total", "public", "book"] == 2
    assert found["events_total", "public", 'a "b"\\\n'] == 1
    assert found["dead_letters_total", "public", "book"] == 1
    assert (found["in_flight_events",], found["in_flight_bytes",]) == (3, 400)
    assert (found["received_lsn",], found["confirmed_lsn",]) == ((1 << 52) + 1, 1 << 52)
    assert found["lag_bytes",] == 1
    assert 20 <= found["lag_seconds",] < 25
    assert 0 <= found["progress_age_seconds",] < 5
    assert found["held_back_seconds_total",] == 1.5
    assert found["reconnects_total",] == 0
    assert (found["row_security_joined_rows_total",], found["row_security_single_decisions_total",]) == (7, 8)
    assert found["row_security_way", "", "anon", "public", "book", "join"] == 1
    assert found["row_security_way", "it is volatile", "anon", "public", "note", "one_by_one"] == 1


def test_they_are_read_when_they_are_asked_for(health: Health) -> None:
    before = numbers(health)
    health.events["public", "book"] += 1
    health.streaming = True

    assert numbers(health)["events_total", "public", "book"] == before["events_total", "public", "book"] + 1
    assert (before["streaming",], numbers(health)["streaming",]) == (0, 1)


def test_before_it_has_streamed_there_is_no_position() -> None:
    assert not {"confirmed_lsn", "received_lsn", "lag_bytes", "lag_seconds", "progress_age_seconds"} & set(
        names(Health())
    )


def test_progress_is_a_position_that_moves_or_nothing_left_to_confirm() -> None:
    health = Health()

    def told(lsn: int, now: float) -> float | None:
        health.confirmed(lsn, now)
        return health.progress_at

    # All that was read is confirmed
    health.received(10)
    assert told(10, 1.0) == 1.0
    assert told(10, 2.0) == 2.0
    # More was read, and the position stays
    health.received(30)
    assert told(10, 3.0) == 2.0
    # It moves, though not up to there
    assert told(20, 4.0) == 4.0
    assert told(20, 5.0) == 4.0
    # It is there
    assert told(30, 6.0) == 6.0
    assert told(30, 7.0) == 7.0


def test_the_listener_serves_them(health: Health) -> None:
    listener = Listener(Address("127.0.0.1:0"), health)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{listener.port}/metrics", timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert 'walrus_bridge_events_total{schema="public",table="book"} 2.0' in answer.read().decode()
    finally:
        listener.close()


def test_the_docs_have_every_metric_with_its_labels_and_no_other(health: Health) -> None:
    rows = re.findall(r"^\| `(walrus_bridge_\w+)` \|([^|]*)\|", OPERATIONS, re.MULTILINE)
    written = {name: re.findall(r"`(\w+)`", labels) for name, labels in rows}
    families = list(text_string_to_metric_families(exposition(health).decode()))
    samples = [sample for family in families for sample in family.samples]

    told = {each.name: set(each.labels) for each in samples if not each.name.startswith("process_")}
    assert {name: set(labels) for name, labels in written.items()} == told
    assert all(family.documentation for family in families)
    assert "`process_*`" in OPERATIONS
