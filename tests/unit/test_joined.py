"""How many rows a join is asked for at once: as many as answer in good time, and not too much."""

import pytest

from bridge.joined import LONG_SECONDS, MANY_PAIRS, next_room


@pytest.mark.parametrize(
    ("asked", "pairs", "seconds", "room"),
    [
        (100, 10, 0.01, 200),
        (100, MANY_PAIRS, 0.01, 100),
        (100, 10, LONG_SECONDS / 2, 100),
        (100, MANY_PAIRS + 1, 0.01, 50),
        (100, 10, 5 * LONG_SECONDS, 20),
        (1, MANY_PAIRS * 2, 0.01, 1),
        (1, 10, 10 * LONG_SECONDS, 1),
    ],
)
def test_the_room_follows_time_and_answers(asked: int, pairs: int, seconds: float, room: int) -> None:
    assert next_room(asked, asked, pairs, seconds) == room


def test_few_rows_do_not_show_that_many_would_do() -> None:
    assert next_room(100, asked=1, pairs=1, seconds=0.001) == 100


def test_few_rows_that_take_long_show_that_many_would_not_do() -> None:
    assert next_room(100, asked=10, pairs=1, seconds=5 * LONG_SECONDS) == 2
