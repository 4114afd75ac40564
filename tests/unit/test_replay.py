"""The replay's decisions: whom an event concerns, what a dry run says, which texts mean which times and LSNs."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from bridge.checkpoint import InFlight, Ticket
from bridge.event import lsns_of
from bridge.progress import share
from bridge.replay import concerns
from bridge.sampling import SamplingSink
from bridge.units import Window, parse_moment
from tests.integration.sinks import an_event

MINE, OTHER = "af68a1b5-fbb3-4154-84cc-a2ee1a7048f9", "b2e5f7d0-0000-4000-8000-000000000000"


def test_an_event_concerns_those_whom_it_is_for() -> None:
    event = an_event(subscription_ids=(OTHER, MINE))
    assert concerns(event, None)
    assert concerns(event, MINE)
    assert not concerns(an_event(subscription_ids=(OTHER,)), MINE)


@pytest.mark.parametrize(("undecided", "told"), [([], True), ([MINE], True), ([OTHER, MINE], True), ([OTHER], False)])
def test_a_dead_letter_concerns_those_who_got_nothing(undecided: list[str], told: bool) -> None:
    listed = [{"id": 1, "subscription_id": each, "reason": "policy"} for each in undecided]
    value = json.dumps({"dead_letter": {"reason": "policy", "undecided": listed}}).encode()
    letter = an_event(dead_letter=True, subscription_ids=(), value=value)
    assert concerns(letter, MINE) is told
    assert concerns(letter, None)


def test_a_dry_run_counts_and_shows() -> None:
    sink = SamplingSink()
    ticket = Ticket(InFlight())
    assert sink.report() == "0 events would be sent"
    for number in range(12):
        assert sink.send(an_event(number), ticket)
    sink.send(an_event(1, table="other", value=b"x" * 5000), ticket)
    sink.send(an_event(1, dead_letter=True), ticket)

    lines = sink.report().splitlines()

    assert ticket.pending == 0
    assert lines[0] == "14 events would be sent"
    assert lines[1] == "   1  dead letters"
    assert "  12  public.book" in lines
    assert sum('"record"' in line for line in lines) == 3
    assert max(map(len, lines)) < 1100


def test_the_time_left_is_as_the_time_so_far() -> None:
    assert share(0, 100, 5.0) == {"percent": 0}
    assert share(25, 100, 5.0) == {"percent": 25, "seconds_left": 15}
    assert share(100, 100, 5.0) == {"percent": 100, "seconds_left": 0}


def test_an_id_has_its_lsns() -> None:
    head = "7409-12/00000001015E4E50/00000000015E4DD0/00000003/public.book"
    for rest in ("", "/authenticated", "/authenticated+0a1b2c3d/leave"):
        assert lsns_of(head + rest) == (0x1_015E_4E50, 0x15E_4DD0)
    for wrong in ("", head[:50], head.replace("/", " "), f" {head}", head.replace("7409-12", "x-1")):
        with pytest.raises(ValueError, match="no event's id"):
            lsns_of(wrong)


def test_a_time_has_its_zone() -> None:
    assert parse_moment("2026-11-23T03:00Z") == datetime(2026, 11, 23, 3, tzinfo=UTC)
    east = timezone(timedelta(hours=1))
    assert parse_moment("2026-11-23 04:00:00.5+01:00") == datetime(2026, 11, 23, 4, 0, 0, 500_000, tzinfo=east)
    for wrong in ("2026-11-23T03:00", "2026-11-23", "3 o'clock"):
        with pytest.raises(ValueError, match="2026-11-23T03:00Z"):
            parse_moment(wrong)


def test_a_window_is_a_time_or_a_size() -> None:
    assert (Window.parse("24h").seconds, Window.parse("24h").bytes) == (86400, None)
    assert (Window.parse("20GiB").seconds, Window.parse("20GiB").bytes) == (None, 20 << 30)
    assert (Window.parse("500 MB").seconds, Window.parse("500 MB").bytes) == (None, 500_000_000)
