"""The checker of the torture test catches what it is there to catch."""

import json
from typing import Any

import msgspec
import pytest

from tests.torture.checker import Audiences, Message, Op, Report, check, message_of

SUBSCRIBER = "af68a1b5"


def audiences(op: Op) -> Audiences:
    return {"reader": frozenset({SUBSCRIBER}), "nobody": frozenset()}


OPS = [
    Op(1, 700, "book", "INSERT", (1,), {"id": 1, "title": "Foo", "long": "x"}),
    Op(2, 700, "book", "INSERT", (2,), {"id": 2, "title": "Bar", "long": "y"}),
    Op(3, 701, "book", "UPDATE", (1,), {"id": 1, "title": "Baz", "long": "x"}, {"id": 1, "title": "Foo", "long": "x"}),
    Op(4, 702, "book", "DELETE", (1,), None, {"id": 1, "title": "Baz", "long": "x"}),
]


def message(op: Op, place: int, leave_out: tuple[str, ...] = (), **changed: Any) -> Message:
    """The right event of the change, at an offset."""
    wal: dict[str, Any] = {"schema": "public", "table": op.table, "type": op.kind}
    if op.new is not None:
        wal["record"] = {name: value for name, value in op.new.items() if name not in leave_out}
    if op.old is not None:
        wal["old_record"] = {"id": op.key[0]}
    headers = {"id": f"{op.number:04}/reader", "xid": str(op.xid), "role": "reader"}
    if leave_out:
        headers["unchanged_toast"] = json.dumps(leave_out)
    payload = json.dumps({"wal": wal, "subscription_ids": [SUBSCRIBER]}).encode()
    return msgspec.structs.replace(message_of(headers, payload, ["id"], ("log", place)), **changed)


def right() -> list[Message]:
    return [message(op, place) for place, op in enumerate(OPS)]


def checked(messages: list[Message]) -> Report:
    return check(OPS, messages, audiences)


def test_what_is_right_passes() -> None:
    report = checked(right())
    assert report.is_clean
    assert (report.expected, report.received, report.duplicates) == (4, 4, 0)


def test_repeated_events_are_counted_and_pass() -> None:
    again = [msgspec.structs.replace(each, place=("log", 10 + n)) for n, each in enumerate(right())]
    report = checked(right() + again)
    assert report.is_clean
    assert report.duplicates == 4


def test_an_unchanged_toast_value_may_be_left_out() -> None:
    assert checked([*right()[:2], message(OPS[2], 2, ("long",)), right()[3]]).is_clean


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_event_is_lost(missing: int) -> None:
    messages = right()
    del messages[missing]
    report = checked(messages)
    assert (len(report.lost), len(report.phantom)) == (1, 0)


FAULTS = {
    "of no committed change": {"xid": 999},
    "of another kind": {"kind": "UPDATE"},
    "of another key": {"key": (7,)},
    "of another role": {"role": "nobody"},
    "with another record": {"record": {"id": 2, "title": "Qux", "long": "y"}},
    "without a value": {"record": {"id": 2, "title": "Bar"}},
    "for someone who may not see it": {"audience": frozenset({SUBSCRIBER, "another"})},
    "for too few": {"audience": frozenset[str]()},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_event_that_should_not_be_is_a_phantom(fault: str) -> None:
    report = checked([right()[0], msgspec.structs.replace(right()[1], **FAULTS[fault]), *right()[2:]])
    assert (len(report.phantom), len(report.lost)) == (1, 1)


def test_an_event_too_many_is_a_phantom() -> None:
    report = checked([*right(), msgspec.structs.replace(right()[1], id="0009/reader", place=("log", 9))])
    assert (len(report.phantom), len(report.lost)) == (1, 0)


def test_a_changed_value_may_not_be_left_out_as_unchanged() -> None:
    report = checked([*right()[:2], message(OPS[2], 2, ("title",)), right()[3]])
    assert len(report.phantom) == 1


def test_one_id_with_two_payloads_is_found() -> None:
    other = msgspec.structs.replace(right()[1], payload=b"{}", place=("log", 9))
    assert len(checked([*right(), other]).changed) == 1


def test_a_key_s_events_out_of_commit_order_are_found() -> None:
    messages = right()
    messages[0], messages[2] = (
        msgspec.structs.replace(messages[0], place=("log", 2)),
        msgspec.structs.replace(messages[2], place=("log", 0)),
    )
    assert checked(messages).disordered


def test_ids_that_do_not_sort_as_the_commits_are_found() -> None:
    messages = right()
    messages[0], messages[2] = (
        msgspec.structs.replace(messages[0], id="0003/reader"),
        msgspec.structs.replace(messages[2], id="0001/reader"),
    )
    assert checked(messages).disordered


def test_a_repeated_event_between_others_is_no_disorder() -> None:
    again = [msgspec.structs.replace(right()[0], place=("log", 2.5)), right()[2], right()[3]]
    assert checked([*right(), *again]).is_clean
