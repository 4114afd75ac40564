"""Limits on the rate of events, with a clock that the test turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.pace import AHEAD_SECONDS, CREDIT_SECONDS, EPISODE_SECONDS, Pace, parse_table

BOOK, NOTE = ("public", "book"), ("public", "note")


class Clock:
    """Lets events go as the loop does, and notes when each went."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.now = 1000.0
        self.went: list[float] = []

    def send(self, table: tuple[str, str] = BOOK, count: int = 1, *, late: float = 0.0) -> None:
        for _ in range(count):
            seconds = self.pace.wait_seconds(table, self.now)
            if seconds:
                self.now += seconds + late
                self.pace.waited(seconds + late, self.now)
            self.pace.spend(table, self.now)
            self.went.append(self.now)


@given(
    rate=st.integers(1, 5000),
    pauses=st.lists(st.floats(0, 3), min_size=1, max_size=200),
    late=st.sampled_from([0.0, 0.001, 0.01]),
)
def test_never_more_than_the_rate_and_a_tenth_of_a_second_s_credit(rate: int, pauses: list[float], late: float) -> None:
    clock = Clock(Pace(rate))
    for pause in pauses:
        clock.now += pause if pause > 1 else 0
        clock.send(late=late)
    for first in range(len(clock.went)):
        for last in range(first, len(clock.went)):
            seconds = clock.went[last] - clock.went[first]
            assert last - first + 1 <= rate * (seconds + CREDIT_SECONDS) + 1 + 1e-6


@pytest.mark.parametrize("rate", [1, 7, 100, 10_000])
def test_a_backlog_goes_at_the_rate_though_each_wait_ends_late(rate: int) -> None:
    clock = Clock(Pace(rate))
    start = clock.now
    clock.send(count=10 * rate, late=0.002)
    assert clock.now - start == pytest.approx(10, abs=1.2)


def test_a_single_event_after_silence_never_waits() -> None:
    clock = Clock(Pace(1))
    for _ in range(5):
        clock.now += 1.0
        before = clock.now
        clock.send()
        assert clock.now == before


def test_the_events_of_one_change_may_overdraw_and_the_next_pays() -> None:
    pace = Pace(10)
    for _ in range(20):
        pace.spend(BOOK, 1000.0)
    assert pace.wait_seconds(BOOK, 1000.0) == pytest.approx(2.0 - CREDIT_SECONDS)
    assert pace.wait_seconds(BOOK, 1001.0) == pytest.approx(1.0 - CREDIT_SECONDS)


def test_a_table_s_limit_is_its_own_and_that_of_all_counts_besides() -> None:
    pace = Pace(100, {BOOK: 1})
    pace.spend(BOOK, 1000.0)
    assert pace.wait_seconds(BOOK, 1000.0) == pytest.approx(0.9)
    assert pace.wait_seconds(NOTE, 1000.0) == 0
    for _ in range(100):
        pace.spend(NOTE, 1000.0)
    assert pace.wait_seconds(NOTE, 1000.0) == pytest.approx(0.91)
    assert pace.wait_seconds(BOOK, 1000.0) == pytest.approx(0.91)


def test_without_limits_nothing_waits_and_nothing_is_divided() -> None:
    pace = Pace()
    assert not pace.is_limited
    pace.spend(BOOK, 1000.0)
    assert pace.wait_seconds(BOOK, 1000.0) == 0
    assert list(pace.portions([*range(5000)])) == [[*range(5000)]]
    assert list(pace.portions([])) == []


def test_waiting_is_told_once_in_an_episode_and_counted_always() -> None:
    pace = Pace(1)
    assert pace.waited(0.5, 1000.0)
    assert not pace.waited(0.5, 1001.0)
    assert not pace.waited(EPISODE_SECONDS, 1001.0 + EPISODE_SECONDS + 1)
    assert pace.waited(0.5, 1001.0 + 3 * EPISODE_SECONDS)
    assert pace.waited_seconds == 1.5 + EPISODE_SECONDS


@pytest.mark.parametrize("rate", [1, 20, 400])
def test_not_much_more_is_judged_at_a_time_than_can_go(rate: int) -> None:
    clock = Clock(Pace(rate))
    took, sizes = [], []
    for portion in clock.pace.portions([*range(20 * rate)]):
        before = clock.now
        clock.send(count=len(portion))
        took.append(clock.now - before)
        sizes.append(len(portion))
    assert sum(sizes) == 20 * rate
    assert max(took[8:]) <= max(2 * AHEAD_SECONDS, 1 / rate)


def test_portions_grow_again_when_nothing_waits() -> None:
    pace = Pace(1)
    first = pace.portions([*range(8)])
    next(first)
    pace.waited(10.0, 1000.0)
    assert list(first) == []
    sizes = [len(portion) for portion in pace.portions([*range(4000)])]
    assert (sizes[:5], sum(sizes), len(sizes)) == ([1, 2, 4, 8, 16], 4000, 12)


@pytest.mark.parametrize(
    ("text", "table"),
    [("public.book", BOOK), (r"a\.b.c\*", ("a.b", "c*"))],
)
def test_a_table_is_named_as_in_source_tables(text: str, table: tuple[str, str]) -> None:
    assert parse_table(text) == table


@pytest.mark.parametrize("text", ["book", "*.*", "public.*", "*.book", "a.b.c"])
def test_what_names_no_single_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_table(text)
