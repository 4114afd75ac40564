"""How long a refused message is offered again, and when."""

from typing import Any

from bridge.checkpoint import Checkpoint
from bridge.sinks.rabbitmq_refusals import Refusals
from bridge.sinks.rabbitmq_window import Outgoing
from tests.integration.sinks import an_event

TICKET = Checkpoint().current


def message(number: int = 1, **changed: Any) -> Outgoing:
    return Outgoing(an_event(number, **changed), TICKET, number)


def offered(refusals: Refusals, refused: Outgoing, start: float, end: float) -> float:
    """Refused every 5 seconds from `start`: until when it was kept."""
    now = start
    while now < end and refusals.add(refused, now):
        now += 5.0
        assert refusals.due(now) == [refused]
    return now


def test_a_message_is_kept_until_it_has_been_refused_for_too_long() -> None:
    refusals = Refusals(60.0, 10)

    assert offered(refusals, message(), 100.0, 1000.0) == 160.0
    assert len(refusals) == 0


def test_each_message_has_its_own_time() -> None:
    refusals, first, second = Refusals(60.0, 10), message(1), message(2)
    offered(refusals, first, 100.0, 150.0)
    refusals.add(second, 150.0)
    assert offered(Refusals(60.0, 10), first, 150.0, 1000.0) == 160.0

    assert refusals.due(155.0) == [second]
    assert refusals.add(second, 165.0)


def test_a_dead_letter_is_kept_for_ever() -> None:
    assert offered(Refusals(60.0, 10), message(dead_letter=True), 0.0, 10_000.0) == 10_000.0


def test_the_time_while_the_broker_takes_or_answers_nothing_does_not_count() -> None:
    refusals, refused = Refusals(60.0, 10), message()
    offered(refusals, refused, 100.0, 150.0)
    refusals.add(refused, 3600.0)  # it answers late
    refusals.due(7200.0)  # it could be offered again only then

    assert refusals.add(refused, 7200.0)
    refusals.due(7205.0)
    assert not refusals.add(refused, 7205.0)


def test_the_time_begins_anew_once_it_was_taken() -> None:
    refusals, refused = Refusals(60.0, 10), message()
    offered(refusals, refused, 100.0, 160.0)
    refusals.taken(refused)

    assert offered(refusals, refused, 200.0, 1000.0) == 260.0


def test_it_is_full_by_number_and_what_is_kept_goes_first() -> None:
    refusals, messages = Refusals(60.0, 2), [message(number) for number in (1, 2, 3)]
    refusals.add(messages[1], 0.0)
    assert not refusals.is_full
    refusals.add(messages[0], 0.0)
    assert refusals.is_full

    due = refusals.due(1.0)

    assert due == messages[:2], "by their numbers"
    assert not refusals.is_full
    refusals.add(messages[2], 1.0)
    refusals.keep(due[1:])
    assert refusals.due(1.0) == messages[1:]


def test_one_pause_for_all_that_grows_to_seconds_until_there_is_room() -> None:
    refusals, now, pauses = Refusals(60.0, 10), 0.0, []
    refused = message()
    for _ in range(12):
        refusals.add(refused, now)
        pause = refusals.pause(now)
        assert pause is not None
        assert refusals.pause(now) is None, "it is under way"
        assert refusals.due(now) == []
        pauses.append(pause)
        now += pause
        assert refusals.due(now) == [refused]

    assert pauses[0] <= 0.1
    assert 2.5 <= pauses[-1] <= 5
    refusals.taken(message())
    assert 2.5 <= (refusals.pause(now) or 0), "others that go through say nothing of the full queue"
    refusals.taken(refused)
    assert (refusals.pause(now + 5) or 1) <= 0.1
