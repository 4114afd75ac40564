"""Where the events from an LSN on begin, in partitions whose offsets are in no order: against reading all of them."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.kafka_reading import stamp
from bridge.lsn import format_lsn, parse_lsn
from bridge.offsets import CLOCK_SECONDS, ClocksDiffer, Found, Message, Stamp, UnknownServer, find, target

SERVER, OTHER = "7409", "8511"
SECOND = 1000


class Log:
    """A partition in memory. Its time index is Kafka's: the first message that is not older, in whatever order."""

    name = "realtime.public.book partition 0"

    def __init__(self, messages: Sequence[tuple[int, Stamp | None, int]], low: int = 0, end: int | None = None) -> None:
        """`messages`: offset, stamp, and time in ms."""
        self._messages = list(messages)
        self.low = low
        self.end = end if end is not None else (messages[-1][0] + 1 if messages else low)
        self.given = 0
        """How many messages have been read."""

    def read(self, start: int) -> Iterator[Message]:
        for offset, each, _ in self._from(start):
            self.given += 1
            yield Message(offset, each)

    def sent_since(self, ms: int) -> int:
        return next((offset for offset, _, sent in self._messages if sent >= ms), self.end)

    def _from(self, start: int) -> Sequence[tuple[int, Stamp | None, int]]:
        low, high = 0, len(self._messages)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._messages[middle][0] < start else (low, middle)
        return self._messages[low:]

    def first(self, lsn: int, system: str = SERVER) -> int:
        """What is right: by reading all."""
        wanted = (
            offset
            for offset, each, _ in self._messages
            if each is not None and each.system_identifier == system and each.commit_lsn >= lsn
        )
        return next(wanted, self.end)


def event(lsn: int, committed_ms: int, sent_ms: int, *, again: bool = False, system: str = SERVER) -> Stamp:
    return Stamp(lsn, system, committed_ms, sent_ms, again)


def steady(count: int, low: int = 0, every_ms: int = SECOND) -> Log:
    """Event after event: at offset n the LSN 10 n, committed at n seconds and sent at once."""
    return Log([(n, event(10 * n, n * every_ms, n * every_ms), n * every_ms) for n in range(low, count)], low)


# -- against reading everything -----------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[Log]:
    """What a bridge, crashes, replays, retries, other programs, retention, compaction and transactions make of partitions."""
    skew_ms = draw(st.integers(-20, CLOCK_SECONDS // 2 - 1)) * SECOND  # by so much the sender's clock is behind
    gaps_s = draw(st.lists(st.integers(0, 100), min_size=1, max_size=60))
    committed = [sum(gaps_s[: n + 1]) * SECOND for n in range(len(gaps_s))]  # of LSN 10 n
    partitions = draw(st.integers(1, 3))
    of = [n % partitions for n in range(len(gaps_s))]
    logs: list[list[tuple[int, Stamp | None, int]]] = [[] for _ in range(partitions)]
    offsets = [0] * partitions
    clock = 0

    def send(n: int, *, again: bool = False) -> None:
        nonlocal clock
        clock = max(clock, committed[n])  # nothing is sent before it is committed
        sent = clock - skew_ms
        offset = offsets[of[n]]
        logs[of[n]].append((offset, event(10 * n, committed[n], sent, again=again), sent))
        offsets[of[n]] += draw(st.sampled_from([1, 1, 1, 2, 9]))  # markers, and what compaction has taken

    position = reached = 0
    while reached < len(gaps_s):
        what = draw(st.sampled_from(["run", "run", "crash", "replay", "retry", "foreign", "wait"]))
        if what == "run":
            end = min(len(gaps_s), position + draw(st.integers(1, 20)))
            for n in range(position, end):
                send(n)
            position, reached = end, max(reached, end)
        elif what == "crash":
            position = draw(st.integers(0, position))
        elif what in {"replay", "retry"} and reached:
            start = draw(st.integers(0, reached - 1))
            for n in range(start, min(reached, start + (1 if what == "retry" else draw(st.integers(1, 80))))):
                send(n, again=True)
        elif what == "foreign":
            each = draw(st.integers(0, partitions - 1))
            for _ in range(draw(st.integers(1, 80))):
                logs[each].append((offsets[each], None, draw(st.sampled_from([0, clock, 10**15]))))
                offsets[each] += 1
        else:
            clock += draw(st.integers(0, 300)) * SECOND
    made = []
    for log, end in zip(logs, offsets, strict=True):
        kept = log[draw(st.sampled_from([0, 0, 0, len(log) // 2, len(log)])) :]
        low = 0 if kept == log else (kept[0][0] if kept else end)
        made.append(Log(kept, low, end))
    return made


@given(histories(), st.integers(0, 620), st.booleans())
def test_it_is_the_first_event_whatever_the_order(logs: list[Log], lsn: int, scan: bool) -> None:
    assert [each.offset for each in find(logs, lsn, scan=scan)] == [log.first(lsn) for log in logs]


@given(histories(), histories(), st.integers(0, 620))
def test_events_of_another_server_are_none(logs: list[Log], others: list[Log], lsn: int) -> None:
    mixed = []
    for log, other in zip(logs, others, strict=False):
        moved = [
            (offset + log.end, None if each is None else event(each.commit_lsn, 0, 0, system=OTHER), sent)
            for offset, each, sent in other._messages
        ]
        mixed.append(Log([*log._messages, *moved], log.low, log.end + other.end))
    try:
        found = find(mixed, lsn, SERVER)
    except UnknownServer:
        assert all(log.first(0) == log.end for log in mixed)
        return
    assert [each.offset for each in found] == [log.first(lsn) for log in mixed]


# -- what it costs ------------------------------------------------------------------------------------------------


def test_a_long_log_is_not_read_through() -> None:
    log = steady(1_000_000)
    assert find([log], 7_654_321) == [Found(765_433, 7_654_330, is_oldest=False)]
    assert log.given < 200  # 20 looks, and what was sent in the minute before


def test_a_replay_is_leapt_over() -> None:
    log = [(n, event(10 * n, n * SECOND, n * SECOND), n * SECOND) for n in range(100_000)]
    log += [
        (n, event(10 * (n - 100_000), (n - 100_000) * SECOND, n * SECOND, again=True), n * SECOND)
        for n in range(100_000, 200_000)
    ]
    log += [(n, event(10 * n, n * SECOND, n * SECOND), n * SECOND) for n in range(200_000, 300_000)]
    made = Log(log)
    assert find([made], 2_500_000)[0].offset == 250_000
    assert made.given < 2000


def test_a_partition_with_few_events_goes_by_what_the_others_tell() -> None:
    quiet = Log([(n, None, n * SECOND) for n in range(100_000)])
    busy = steady(100_000)
    assert [each.offset for each in find([quiet, busy], 900_000)] == [100_000, 90_000]
    assert quiet.given < 20_000  # not those before the time of LSN 900,000


# -- the single cases ---------------------------------------------------------------------------------------------


def test_a_run_that_came_again_does_not_hide_the_first_event() -> None:
    def at(lsn: int, sent_s: int) -> tuple[Stamp, int]:
        return event(lsn, lsn * SECOND, sent_s * SECOND), sent_s * SECOND

    sent = [at(n, n) for n in range(100)] + [at(n, 1000 + n) for n in range(20, 80)]  # a crash, then idle
    log = Log([(offset, each, ms) for offset, (each, ms) in enumerate(sent)])
    assert find([log], 90)[0].offset == 90
    assert find([log], 50)[0].offset == 50


def test_an_lsn_beyond_the_end_is_the_end() -> None:
    assert find([steady(100)], 10_000) == [Found(100, None, is_oldest=False)]


def test_an_lsn_before_what_is_left_is_the_oldest_and_says_so() -> None:
    assert find([steady(100, low=50)], 10) == [Found(50, 500, is_oldest=True)]
    assert find([steady(100, low=50)], 510) == [Found(51, 510, is_oldest=False)]


def test_the_first_offset_of_all_is_not_told_as_the_oldest_that_is_left() -> None:
    assert find([steady(100)], 0) == [Found(0, 0, is_oldest=False)]


def test_an_empty_partition_is_at_its_end_and_says_what_it_had() -> None:
    assert find([Log([])], 10) == [Found(0, None, is_oldest=False)]
    assert find([Log([], low=7)], 10) == [Found(7, None, is_oldest=True)]


def test_clocks_that_differ_too_much_are_an_error_and_a_scan_asks_none() -> None:
    apart = (CLOCK_SECONDS // 2 + 1) * SECOND
    log = Log([(n, event(10 * n, n * SECOND + apart, n * SECOND), n * SECOND) for n in range(100)])
    with pytest.raises(ClocksDiffer, match=r"partition 0, offset \d+.*--scan"):
        find([log], 500)
    assert find([log], 500, scan=True)[0].offset == 50


@pytest.mark.parametrize("behind_s", [CLOCK_SECONDS // 2, -1000])
def test_clocks_that_differ_a_little_hide_nothing(behind_s: int) -> None:
    sent = [(n - behind_s) * SECOND for n in range(1000)]
    log = Log([(n, event(10 * n, n * SECOND, sent[n]), sent[n]) for n in range(1000)])
    assert [find([log], 10 * n)[0].offset for n in range(1000)] == list(range(1000))


def test_several_servers_need_to_be_told_apart() -> None:
    log = Log([(n, event(10 * n, 0, 0, system=SERVER if n < 50 else OTHER), 0) for n in range(100)])
    with pytest.raises(UnknownServer, match=f"{OTHER}.*--system|{SERVER}.*--system"):
        find([log], 700)
    assert find([log], 700, OTHER)[0].offset == 70
    assert find([log], 700, SERVER)[0].offset == 100
    with pytest.raises(UnknownServer, match="no events of the server 1, only of"):
        find([log], 700, "1")


@pytest.mark.parametrize(
    ("committed", "forward", "expected"), [(None, False, 10), (20, False, 10), (5, False, 5), (5, True, 10)]
)
def test_a_group_is_not_set_past_what_it_has_not_read(committed: int | None, forward: bool, expected: int) -> None:
    assert target(10, committed, forward=forward) == expected


# -- headers ------------------------------------------------------------------------------------------------------

HEADERS = {
    "id": "7409-1/00000000015E4E50/00000000015E4DD0/00000000/public.book/authenticated",
    "commit_lsn": "0/15E4E50",
    "commit_timestamp": "2026-03-01T10:00:00.123456Z",
}


def test_headers_tell_the_place() -> None:
    assert stamp(HEADERS, 5) == Stamp(parse_lsn("0/15E4E50"), "7409", 1772359200123, 5, again=False)


@pytest.mark.parametrize("changed", [{"replayed": "true"}, {"id": HEADERS["id"] + "/retry-0a1b2c3d"}])
def test_a_replay_and_a_retry_are_known(changed: dict[str, str]) -> None:
    found = stamp(HEADERS | changed, 5)
    assert found is not None
    assert found.again


@pytest.mark.parametrize(
    "changed",
    [{"id": "other"}, {"commit_lsn": "12"}, {"commit_timestamp": "yesterday"}, {"id": ""}, {"commit_timestamp": ""}],
)
def test_other_programs_messages_have_none(changed: dict[str, str]) -> None:
    assert stamp(HEADERS | changed, 5) is None


@given(st.integers(0, (1 << 64) - 1))
def test_every_lsn_is_read_as_it_is_written(lsn: int) -> None:
    found = stamp(HEADERS | {"commit_lsn": format_lsn(lsn)}, 0)
    assert found is not None
    assert found.commit_lsn == lsn
