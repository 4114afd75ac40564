"""What Prometheus reads of the loop's numbers."""

import platform
import re
import time
import urllib.request
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge import __version__
from bridge.checkpoint import Checkpoint, Ticket
from bridge.health import MOST_TABLES, Health
from bridge.lag import Retained
from bridge.listener import Listener
from bridge.live import live
from bridge.metrics import exposition
from bridge.units import Address
from bridge.window_facts import Facts

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def full() -> Health:
    """One that has something to tell of everything."""
    health = Health("realtime", "kafka")
    health.events["public", "book"] += 2
    health.events["public", 'a "b"\\\n'] += 1
    health.dead_letters["public", "book"] += 1
    health.in_flight.events, health.in_flight.bytes = 3, 400
    health.lag.looked(1 << 52, 1e9, time.monotonic() - 20)
    health.received((1 << 52) + 1)
    health.confirmed(1 << 52, time.monotonic())
    health.acknowledged_at = time.monotonic() - 2
    health.retained = Retained(5000, 6000)
    health.held_back_seconds = 1.5
    health.tally.judged({("public", "book"): 6, ("public", "note"): 2}, 4.0)
    at = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
    health.replay = Facts("realtime_replay", 1 << 40, at, 64 << 20, 700, "reserved")
    health.tally.joined_rows, health.tally.single_decisions = 7, 8
    health.tally.ways["public", "book", "anon"] = None
    health.tally.ways["public", "note", "anon"] = "it is volatile"
    return health


@pytest.fixture
def health() -> Health:
    return full()


def numbers(health: Health) -> dict[tuple[str, ...], float]:
    """By name and label values, less the common prefix; what the client's own parser reads."""
    return {
        (sample.name.removeprefix("walrus_bridge_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(exposition(health).decode())
        for sample in family.samples
    }


def labelled(health: Health, name: str) -> list[tuple[dict[str, str], float]]:
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(exposition(health).decode())
        for sample in family.samples
        if sample.name == f"walrus_bridge_{name}"
    ]


def names(health: Health) -> Iterable[str]:
    return {name for name, *_ in numbers(health)}


def test_every_number_is_told(health: Health) -> None:
    found = numbers(health)

    assert found["events_total", "public", "book"] == 2
    assert found["events_total", "public", 'a "b"\\\n'] == 1
    assert found["dead_letters_total", "public", "book"] == 1
    version, python = __version__, platform.python_version()
    labels = {"version": version, "python": python, "slot": "realtime", "sink": "kafka"}
    assert labelled(health, "info") == [(labels, 1)]
    assert (found["in_flight_events",], found["in_flight_bytes",]) == (3, 400)
    assert (found["received_lsn",], found["confirmed_lsn",]) == ((1 << 52) + 1, 1 << 52)
    assert found["lag_bytes",] == 1
    assert 20 <= found["lag_seconds",] < 25
    assert 0 <= found["progress_age_seconds",] < 5
    assert found["held_back_seconds_total",] == 1.5
    assert found["reconnects_total",] == 0
    assert (found["row_security_joined_rows_total",], found["row_security_single_decisions_total",]) == (7, 8)
    assert (found["slot_retained_bytes",], found["slot_safe_bytes",]) == (5000, 6000)
    assert 2 <= found["acknowledgement_age_seconds",] < 5
    assert found["row_security_rows_total", "public", "book"] == 6
    assert (
        found["row_security_seconds_total", "public", "book"],
        found["row_security_seconds_total", "public", "note"],
    ) == (3, 1)
    assert found["row_security_way", "", "anon", "public", "book", "join"] == 1
    assert found["row_security_way", "it is volatile", "anon", "public", "note", "one_by_one"] == 1


def test_they_are_read_when_they_are_asked_for(health: Health) -> None:
    before = numbers(health)
    health.events["public", "book"] += 1
    health.streaming = True

    assert numbers(health)["events_total", "public", "book"] == before["events_total", "public", "book"] + 1
    assert (before["streaming",], numbers(health)["streaming",]) == (0, 1)


def test_an_acknowledgement_is_timed_for_each_batch() -> None:
    health, checkpoint = Health(), Checkpoint()

    def batch(end_lsn: int, sent: float) -> Ticket:
        checkpoint.current.sent(100)
        ticket = checkpoint.current
        checkpoint.commit(end_lsn)
        health.acknowledging.sent(checkpoint.newest, sent)
        return ticket

    # Given two batches that wait, and reading that goes on without events
    first, second = batch(10, 100.0), batch(20, 100.5)
    health.acknowledging.sent(checkpoint.newest, 100.7)
    health.acknowledging.look(101.0)
    assert health.acknowledging.waiting_seconds(101.0) == 1.0
    assert sum(health.acknowledging.counts) == 0

    # When the first is acknowledged at once, the second late
    first.acknowledge(100)
    health.acknowledging.look(100.02)
    second.acknowledge(100)
    health.acknowledging.look(160.5)
    checkpoint.advance()
    health.acknowledging.sent(checkpoint.newest, 161.0)

    # Then both are counted, and nothing waits
    assert health.acknowledging.waiting_seconds(170.0) == 0
    buckets = {labels["le"]: count for labels, count in labelled(health, "acknowledgement_seconds_bucket")}
    assert (buckets["0.01"], buckets["0.025"], buckets["30.0"], buckets["+Inf"]) == (0, 1, 1, 2)
    assert labelled(health, "acknowledgement_seconds_count") == [({}, 2)]
    assert labelled(health, "acknowledgement_seconds_sum")[0][1] == pytest.approx(60.02)

    # When a stream is lost, what it had in flight is not timed
    batch(30, 200.0)
    health.restarted()
    assert health.acknowledging.waiting_seconds(300.0) == 0


def test_bytes_are_of_all_that_was_sent_acknowledged_or_not() -> None:
    health = Health()
    checkpoint = Checkpoint(in_flight=health.in_flight)
    for size in (100, 50):
        checkpoint.current.sent(size)
    checkpoint.current.acknowledge(100)

    assert labelled(health, "sent_bytes_total") == [({}, 150)]
    assert labelled(health, "in_flight_bytes") == [({}, 50)]


def test_tables_that_come_and_go_do_not_make_labels_without_end() -> None:
    health = Health()
    for number in range(3 * MOST_TABLES):
        health.events["public", f"t{number}"] += 2
        health.dead_letters["public", f"t{number}"] += 1
        health.tally.judged({("public", f"t{number}"): 1}, 0.5)
        health.tally.ways["public", f"t{number}", "anon"] = None
    before = labelled(health, "events_total")
    other = {"schema": "", "table": "other"}

    assert len(before) == MOST_TABLES + 1
    assert (other, 4 * MOST_TABLES) in before
    assert (other, 2 * MOST_TABLES) in labelled(health, "dead_letters_total")
    assert (other, 2 * MOST_TABLES) in labelled(health, "row_security_rows_total")
    assert (other, MOST_TABLES) in labelled(health, "row_security_seconds_total")
    assert len(labelled(health, "row_security_way")) == MOST_TABLES
    assert len(live(health).tables) == MOST_TABLES + 1

    # And no counter ever goes down
    health.events["public", "one more"] += 1
    after = labelled(health, "events_total")
    assert [labels for labels, _ in after] == [labels for labels, _ in before]
    assert all(now >= then for (_, now), (_, then) in zip(after, before, strict=True))


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
    families = [
        family
        for family in text_string_to_metric_families(exposition(health).decode())
        if not family.name.startswith("process_")
    ]
    told = {
        family.name if family.type == "histogram" else sample.name: set(sample.labels) - {"le"}
        for family in families
        for sample in family.samples
    }

    assert {name: set(labels) for name, labels in written.items()} == told
    assert all(family.documentation for family in families)
    assert "`process_*`" in OPERATIONS
