"""Events that are too large for the sink: their parts, and what takes the place of those that cannot be divided."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.change import INSERT
from bridge.event import Event, rejected_letter, short_hash
from bridge.parts import PART_BYTES, room, smaller

ROLE_ID = "7409-1/00000000015E4E50/00000000015E4DD0/00000000/public.book/authenticated"
CHANGE_ID = ROLE_ID.rpartition("/")[0]
KNOWN = 39
"""Bytes of an id in the value: 36, quotes and comma."""


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def an_event(count: int, body: str = "x", event_id: str = ROLE_ID) -> Event:
    """An INSERT for so many subscribers."""
    ids = tuple(uuid(number) for number in range(count))
    value = (
        '{"wal":{"schema":"public","table":"book","type":"INSERT","commit_timestamp":"2022-04-29T19:04:23.123Z",'
        f'"columns":[],"record":{{"id":1,"price":1.10000000000000000000000001,"body":"{body}"}}}},"is_rls_enabled":true,'
        f'"subscription_ids":{json.dumps(ids, separators=(",", ":"))},"errors":[]}}'
    )
    return Event(
        event_id,
        "public",
        "book",
        INSERT,
        b'{"id":1}',
        value.encode(),
        [
            ("id", event_id),
            ("lsn", "0/15E4DD0"),
            ("commit_lsn", "0/15E4E50"),
            ("commit_timestamp", "…"),
            ("role", "authenticated"),
            ("content-type", "application/json"),
        ],
        ids,
        1_651_259_063,
    )


def divided(event: Event, share: int | None) -> list[Event]:
    found = smaller(event, share)
    assert found is not None
    return list(found)


def part(event: Event) -> str | None:
    return dict(event.headers).get("part")


def value(event: Event) -> Any:
    return json.loads(event.value)


def as_sent(event: Event, limit: int) -> list[Event]:
    """What arrives where the sink takes values of at most `limit` bytes, and says so."""
    size = len(event.value)
    if size <= limit:
        return [event]
    found = smaller(event, room(event, size, limit, 3))
    if found is None:
        return [rejected_letter(event, "too large")]
    return [each for one in found for each in as_sent(one, limit)]


# -- parts -----------------------------------------------------------------------------------------------------------


def test_each_part_has_the_whole_record_and_its_share_of_the_audience() -> None:
    event = an_event(10)
    parts = divided(event, 4)

    assert [len(each.subscription_ids) for each in parts] == [3, 3, 4]
    assert tuple(one for each in parts for one in each.subscription_ids) == event.subscription_ids
    assert [part(each) for each in parts] == ["1/3", "2/3", "3/3"]
    for each in parts:
        assert each.value == event.value.replace(
            msgspec.json.encode(event.subscription_ids), msgspec.json.encode(each.subscription_ids)
        )
        assert (each.key, each.order, each.schema, each.kind) == (event.key, event.order, event.schema, event.kind)
        assert each.id == f"{ROLE_ID}/part-{short_hash(each.subscription_ids)}" == each.headers[0][1]
        assert each.headers[1:-1] == event.headers[1:]
    assert len({each.id for each in parts}) == 3


def test_the_same_audience_gives_the_same_parts_and_no_id_stands_for_two_audiences() -> None:
    assert divided(an_event(10), 4) == divided(an_event(10), 4)
    parts = [each for count in range(5, 40) for each in divided(an_event(count), 4)]
    assert len({each.id for each in parts}) == len({each.subscription_ids for each in parts})


def test_a_part_that_is_divided_counts_on_in_smaller_fractions() -> None:
    second = divided(an_event(12), 4)[1]
    parts = divided(second, 2)
    assert [part(each) for each in parts] == ["3/6", "4/6"]
    assert [each.id for each in parts] == [f"{ROLE_ID}/part-{short_hash(each.subscription_ids)}" for each in parts]
    assert tuple(one for each in parts for one in each.subscription_ids) == second.subscription_ids


def test_a_leave_event_s_parts_keep_what_its_id_says() -> None:
    (first, _) = divided(an_event(2, event_id=f"{ROLE_ID}/leave"), 1)
    assert first.id == f"{ROLE_ID}/leave/part-{short_hash([uuid(0)])}"


@given(count=st.integers(1, 400), body=st.integers(0, 3000), limit=st.integers(300, 20_000))
def test_whatever_the_limit_all_arrives_once_and_fits(count: int, body: int, limit: int) -> None:
    event = an_event(count, "x" * body)
    sent = as_sent(event, limit)
    if sent[0].dead_letter:
        return
    assert tuple(one for each in sent for one in each.subscription_ids) == event.subscription_ids
    assert all(tuple(value(each)["subscription_ids"]) == each.subscription_ids for each in sent)
    assert all(len(each.value) <= limit for each in sent)
    assert len({each.id for each in sent}) == len(sent)
    fractions = [tuple(map(int, (part(each) or "1/1").split("/"))) for each in sent]
    assert sum(1 / of for _, of in fractions) == pytest.approx(1)
    # The record is shown whole if it fits with one subscriber.
    if len(event.value) - (count - 1) * KNOWN + PART_BYTES <= limit:
        assert all("body" in value(each)["wal"]["record"] and not value(each)["errors"] for each in sent)


# -- the audience or the record? -----------------------------------------------------------------------------------------


def test_where_the_record_is_too_large_by_itself_it_is_shrunk() -> None:
    (less,) = divided(an_event(10, "x" * 1000), 0)
    assert value(less)["errors"] == ["Error 413: Payload Too Large"]
    assert value(less)["wal"]["record"]["id"] == 1
    assert "body" not in value(less)["wal"]["record"]
    assert (less.id, part(less), len(less.subscription_ids)) == (ROLE_ID, None, 10)
    assert smaller(less, 0) is None


def test_where_both_are_too_large_the_shrunk_one_goes_in_parts() -> None:
    sent = as_sent(an_event(100, "x" * 5000), 2000)
    assert len(sent) > 1
    assert all(value(each)["errors"] for each in sent)


def test_an_unknown_limit_is_found_by_halving_while_the_audience_counts() -> None:
    halves = divided(an_event(5), None)
    assert [part(each) for each in halves] == ["1/2", "2/2"]
    assert [len(each.subscription_ids) for each in halves] == [2, 3]
    (less,) = divided(an_event(1), None)
    assert value(less)["errors"]
    (less,) = divided(an_event(2, "x" * 1000), None)
    assert value(less)["errors"]
    assert len(divided(an_event(3, "x" * 100), None)) == 2


def test_a_limit_that_cannot_be_the_one_that_counts_is_taken_for_unknown() -> None:
    assert [part(each) for each in divided(an_event(8), 8)] == ["1/2", "2/2"]


# -- what cannot be delivered --------------------------------------------------------------------------------------------


def test_the_dead_letter_of_a_part_lists_who_did_not_get_it() -> None:
    one = divided(an_event(10), 4)[1]
    letter = rejected_letter(one, "refused")
    body = value(letter)["dead_letter"]
    assert body["undelivered"] == list(one.subscription_ids)
    assert letter.id == body["id"] == dict(letter.headers)["id"] == (letter.key or b"").decode()
    assert letter.id.startswith(f"{CHANGE_ID}/part-")
    assert body["change"]["record"]["body"] == "x"
    assert b"1.10000000000000000000000001" in letter.value
    assert not {"part", "role"} & set(dict(letter.headers))
    assert letter.order == one.order


def test_each_refused_event_of_a_change_has_a_letter_of_its_own() -> None:
    events = [
        an_event(10, event_id=f"{CHANGE_ID}/{end}") for end in ("anon", "anon/leave", "anon+12345678", "authenticated")
    ]
    letters = [rejected_letter(event, "refused") for event in [*events, an_event(9), *divided(an_event(10), 5)]]
    assert len({letter.id for letter in letters}) == len({letter.key for letter in letters}) == len(letters)
    assert all("undelivered" not in value(letter)["dead_letter"] for letter in letters[:-2])


def test_a_dead_letter_too_large_by_those_it_lists_is_halved_before_it_loses_values() -> None:
    (one, _) = divided(an_event(20), 10)
    letter = rejected_letter(one, "refused")
    halves = divided(letter, None)
    bodies = [value(each)["dead_letter"] for each in halves]
    assert [len(each["undelivered"]) for each in bodies] == [5, 5]
    assert bodies[0]["undelivered"] + bodies[1]["undelivered"] == list(one.subscription_ids)
    assert all(
        b"1.10000000000000000000000001" in each.value and not body.get("truncated")
        for each, body in zip(halves, bodies, strict=True)
    )
    quarters = [quarter for half in halves for quarter in divided(half, None)]
    every = [letter, *halves, *quarters]
    assert len({each.id for each in every}) == len(every)
    assert all(each.id == value(each)["dead_letter"]["id"] == (each.key or b"").decode() for each in every)


def test_one_too_large_by_its_values_loses_the_long_ones_then_all_then_is_halved() -> None:
    (one, _) = divided(an_event(20, "x" * 5000), 10)
    (less,) = divided(rejected_letter(one, "refused"), None)
    body = value(less)["dead_letter"]
    assert body["truncated"] is True
    assert set(body["change"]["record"]) == {"id", "price"}
    assert b"1.10000000000000000000000001" in less.value
    halves = divided(less, None)
    assert [len(value(each)["dead_letter"]["undelivered"]) for each in halves] == [5, 5]
    assert all(value(each)["dead_letter"]["truncated"] for each in halves)
    one_left = rejected_letter(divided(an_event(2), 1)[0], "refused")
    (bare,) = divided(one_left, None)
    assert set(value(bare)["dead_letter"]["change"]) == {"type", "commit_timestamp"}
    assert smaller(bare, None) is None
