"""Which LSN may be confirmed, whatever order the broker acknowledges in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.checkpoint import Checkpoint, Ticket


def send(checkpoint: Checkpoint, size: int = 10) -> Ticket:
    checkpoint.current.sent(size)
    return checkpoint.current


def test_a_transaction_without_events_is_confirmed_at_once() -> None:
    checkpoint = Checkpoint()
    checkpoint.commit(100)
    assert checkpoint.advance() == 100


def test_nothing_is_confirmed_while_an_event_is_in_flight() -> None:
    checkpoint = Checkpoint(5)
    ticket = send(checkpoint)
    checkpoint.commit(100)
    assert checkpoint.advance() == 5
    ticket.acknowledge(10)
    assert checkpoint.advance() == 100


def test_a_transaction_is_not_confirmed_before_its_commit() -> None:
    checkpoint = Checkpoint()
    send(checkpoint).acknowledge(10)
    assert checkpoint.advance() == 0
    checkpoint.commit(100)
    assert checkpoint.advance() == 100


def test_a_later_transaction_acknowledged_first_waits_for_the_earlier() -> None:
    checkpoint = Checkpoint()
    first = send(checkpoint)
    checkpoint.commit(100)
    second = send(checkpoint)
    checkpoint.commit(200)
    second.acknowledge(10)
    assert checkpoint.advance() == 0
    first.acknowledge(10)
    assert checkpoint.advance() == 200


def test_a_keepalive_queues_behind_what_is_in_flight() -> None:
    checkpoint = Checkpoint()
    ticket = send(checkpoint)
    checkpoint.commit(100)
    checkpoint.keepalive(500)
    assert checkpoint.advance() == 0
    ticket.acknowledge(10)
    assert checkpoint.advance() == 500


def test_a_position_never_goes_back() -> None:
    checkpoint = Checkpoint(1000)
    checkpoint.keepalive(500)
    ticket = send(checkpoint)
    checkpoint.commit(600)
    ticket.acknowledge(10)
    assert checkpoint.advance() == 1000


def test_bytes_and_events_in_flight_are_counted() -> None:
    checkpoint = Checkpoint()
    ticket = send(checkpoint, 30)
    send(checkpoint, 12)
    assert (checkpoint.in_flight_events, checkpoint.in_flight_bytes) == (2, 42)
    ticket.acknowledge(30)
    assert (checkpoint.in_flight_events, checkpoint.in_flight_bytes) == (1, 12)


def test_an_acknowledgement_too_many_is_a_bug() -> None:
    checkpoint = Checkpoint()
    ticket = send(checkpoint)
    ticket.acknowledge(10)
    with pytest.raises(AssertionError):
        ticket.acknowledge(10)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.randoms())
def test_confirmed_is_always_the_end_of_a_fully_acknowledged_prefix(sizes: list[int], random: object) -> None:
    checkpoint = Checkpoint()
    outstanding: list[tuple[int, Ticket]] = []
    for number, events in enumerate(sizes, 1):
        outstanding.extend((number, send(checkpoint)) for _ in range(events))
        checkpoint.commit(number * 100)
    getattr(random, "shuffle")(outstanding)
    while True:
        confirmed = checkpoint.advance()
        waiting = min((number for number, _ in outstanding), default=len(sizes) + 1)
        assert confirmed == (waiting - 1) * 100
        if not outstanding:
            break
        outstanding.pop()[1].acknowledge(10)


def test_what_is_in_flight_of_a_lost_stream_counts_for_the_next() -> None:
    before = Checkpoint()
    old = send(before, 10)
    after = Checkpoint(50, before.in_flight)
    new = send(after, 7)
    after.commit(100)
    assert (after.in_flight_events, after.in_flight_bytes) == (2, 17)
    new.acknowledge(7)
    assert after.advance() == 100  # the old stream's events come again, so they hold nothing back
    old.acknowledge(10)
    assert (after.in_flight_events, after.in_flight_bytes) == (0, 0)
