"""Confirms matched to messages, whatever their order."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.checkpoint import Checkpoint
from bridge.sinks.rabbitmq_window import Outgoing, Window
from tests.integration.sinks import an_event

TICKET = Checkpoint().current


def filled(count: int) -> Window:
    window = Window(1000, 1 << 20)
    for number in range(1, count + 1):
        window.add(Outgoing(an_event(number), TICKET, number))
    return window


def numbers(messages: list[Outgoing]) -> list[int]:
    return [message.number for message in messages]


def test_a_confirm_settles_one_message_or_all_up_to_it() -> None:
    window = filled(5)

    assert numbers(window.settle(3, multiple=False)) == [3]
    assert numbers(window.settle(4, multiple=True)) == [1, 2, 4]
    assert numbers(window.settle(0, multiple=True)) == [5]
    assert window.is_empty


def test_a_confirm_of_what_is_settled_settles_nothing() -> None:
    window = filled(2)
    window.settle(2, multiple=True)

    assert window.settle(1, multiple=False) == []
    assert window.settle(2, multiple=True) == []


@given(st.data())
def test_each_message_is_settled_once(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    window = filled(count)
    settled: list[int] = []

    for tag, multiple in data.draw(st.lists(st.tuples(st.integers(1, count), st.booleans()))):
        found = numbers(window.settle(tag, multiple=multiple))
        assert found == sorted(found)
        settled += found
    settled += numbers(window.lose())

    assert sorted(settled) == list(range(1, count + 1))


def test_what_came_back_from_an_exchange_is_not_its_twin_that_is_being_parked() -> None:
    window = filled(0)
    parked, later = (Outgoing(an_event(1), TICKET, number) for number in (1, 2))
    parked.parked = True
    window.add(parked)
    window.add(later)

    window.mark_returned(an_event(1).id, "NO_ROUTE", parked=False)

    assert (parked.returned, later.returned) == (None, "NO_ROUTE")


def test_a_returned_message_is_marked_and_its_twin_only_by_the_next() -> None:
    window = filled(0)
    first, second = (Outgoing(an_event(1), TICKET, number) for number in (1, 2))
    window.add(first)
    window.add(second)

    assert window.mark_returned(an_event(1).id, "first", parked=False)
    assert (first.returned, second.returned) == ("first", None)
    assert window.mark_returned(an_event(1).id, "second", parked=False)
    assert (first.returned, second.returned) == ("first", "second")

    assert not window.mark_returned(an_event(1).id, "third", parked=False)
    assert not window.mark_returned("another", "NO_ROUTE", parked=False)


def test_it_is_full_by_number_and_by_bytes() -> None:
    by_number, by_bytes = Window(2, 1 << 20), Window(100, 50)
    for window in (by_number, by_bytes):
        window.add(Outgoing(an_event(value=b"x" * 20), TICKET, 1))
        assert not window.is_full
        window.add(Outgoing(an_event(value=b"x" * 20), TICKET, 2))
        assert window.is_full
        window.settle(1, multiple=False)
        assert not window.is_full


def test_a_lost_channel_gives_back_all_in_order_and_counts_anew() -> None:
    window = filled(4)
    window.mark_returned(an_event(2).id, "NO_ROUTE", parked=False)
    window.settle(3, multiple=False)

    lost = window.lose()

    assert numbers(lost) == [1, 2, 4]
    assert [message.returned for message in lost] == [None, None, None]
    window.add(lost[0])
    assert numbers(window.settle(1, multiple=False)) == [1]
