"""What one change costs on its way from the stream to the broker's acknowledgement, in counts that are the same on each
machine: so the hot path does not get slower by the way. What a call costs inside C is counted by
tests/integration/test_hot_path_instructions.py.

Where a test fails, look at what was added for each change. A limit is raised only for something worth its price, which
the commit message names; and it is lowered, to a twentieth above the count, with each change that makes the path shorter.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest

from bridge.judging import Judging
from bridge.wal2json import Wal2JsonDecoder
from bridge.writer import EventWriter
from tests.unit.hot_path import Cost, cost

# plugin, sink, rows in a transaction: calls of functions for a change; bytes held for an event in flight
LIMITS = {
    ("wal2json", "stdout", 1): Cost(119, 2_410),
    ("wal2json", "stdout", 1_000): Cost(68, 1_880),
    ("wal2json", "kafka", 1): Cost(125, 2_410),
    ("wal2json", "kafka", 1_000): Cost(74, 1_880),
    ("pgoutput", "stdout", 1): Cost(150, 2_440),
    ("pgoutput", "stdout", 1_000): Cost(97, 1_880),
    ("pgoutput", "kafka", 1): Cost(155, 2_440),
    ("pgoutput", "kafka", 1_000): Cost(103, 1_880),
}
ONE = ("wal2json", "kafka", 1_000)


measured = functools.cache(cost)


def exceeded(of: tuple[str, str, int], cost: Callable[..., Cost] = cost) -> list[str]:
    """By which counts, if any."""
    found, limit = cost(*of), LIMITS[of]
    return [
        f"{name}: {getattr(found, name):.1f} for a change, limit {getattr(limit, name)}"
        for name in Cost.__struct_fields__
        if getattr(found, name) > getattr(limit, name)
    ]


@pytest.mark.parametrize("of", LIMITS, ids=lambda of: "-".join(map(str, of)))
def test_a_change_costs_no_more_than_it_did(of: tuple[str, str, int]) -> None:
    assert not exceeded(of, measured)


@pytest.mark.parametrize("of", LIMITS, ids=lambda of: "-".join(map(str, of)))
def test_a_limit_is_close_enough_to_notice_a_third_more(of: tuple[str, str, int]) -> None:
    found, limit = measured(*of), LIMITS[of]
    assert limit.calls < 1.3 * found.calls
    assert limit.held_bytes < 1.3 * found.held_bytes


def twice(method: Any) -> Any:
    """The method, done for nothing once before."""

    def planted(self: Any, *arguments: Any) -> Any:
        method(self, *arguments)
        return method(self, *arguments)

    return planted


def test_events_that_are_written_twice_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventWriter, "write", twice(EventWriter.write))
    assert exceeded(ONE)


def test_a_question_for_each_value_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 % of the calls or so: one look at each column's name and value."""
    row = Wal2JsonDecoder._row

    def planted(self: Wal2JsonDecoder, columns: Any) -> Any:
        for column in columns:
            (
                isinstance(column.name, str),
                len(bytes(column.value)),
                hash(column.name),
                str.lower(column.name),
                id(column),
            )
        return row(self, columns)

    monkeypatch.setattr(Wal2JsonDecoder, "_row", planted)
    assert exceeded(ONE)


def test_something_kept_for_each_change_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    judge = Judging._judge

    def planted(self: Judging, messages: Any) -> Any:
        kept.append([repr(message) for message in messages])
        return judge(self, messages)

    monkeypatch.setattr(Judging, "_judge", planted)
    assert any("held_bytes" in line for line in exceeded(ONE))
