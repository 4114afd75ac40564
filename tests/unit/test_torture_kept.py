"""What consumers keep is compared, and what is wrong with it is found."""

import json
from typing import Any

import msgspec
import pytest

from tests.torture.checker import Audiences, Message, Op, message_of
from tests.torture.kept import Entry, copy_faults, entry_faults, right_copy

ALICE, BOB = "alice", "bob"


def audiences(op: Op) -> Audiences:
    """A row's owner; a DELETE is for everyone."""
    if op.new is None:
        return {"reader": frozenset({ALICE, BOB})}
    return {"reader": frozenset({op.new["owner"]})}


OPS = [
    Op(1, 700, "book", "INSERT", (1,), {"id": 1, "owner": ALICE}),
    Op(2, 700, "book", "INSERT", (2,), {"id": 2, "owner": ALICE}),
    Op(3, 701, "book", "UPDATE", (1,), {"id": 1, "owner": BOB}, {"id": 1, "owner": ALICE}),
    Op(4, 702, "book", "UPDATE", (3,), {"id": 3, "owner": ALICE}, {"id": 2, "owner": ALICE}),
    Op(5, 703, "book", "DELETE", (1,), None, {"id": 1, "owner": BOB}),
]


def test_a_copy_has_the_rows_and_their_changes() -> None:
    assert right_copy(OPS, audiences, "reader", ALICE, ["id"]) == {
        (1,): (None, 2),
        (2,): (None, 2),
        (3,): ({"id": 3, "owner": ALICE}, 1),
    }
    assert right_copy(OPS, audiences, "reader", BOB, ["id"]) == {(1,): (None, 2)}
    assert right_copy(OPS, audiences, "nobody", ALICE, ["id"]) == {}


def test_a_right_copy_has_no_fault() -> None:
    right = right_copy(OPS, audiences, "reader", ALICE, ["id"])
    assert copy_faults(right, dict(right)) == []


COPIES: dict[str, dict[Any, Any]] = {
    "a change too much": {(2,): (None, 3)},
    "a change too few": {(2,): (None, 1)},
    "an older row": {(3,): ({"id": 3, "owner": BOB}, 1)},
    "a row that is gone": {(2,): ({"id": 2, "owner": ALICE}, 2)},
    "a row that was never seen": {(9,): (None, 1)},
    "no such row": {(1,): None},
}


@pytest.mark.parametrize("fault", COPIES)
def test_a_wrong_copy_has_a_fault(fault: str) -> None:
    right = right_copy(OPS, audiences, "reader", ALICE, ["id"])
    wrong = {key: value for key, value in {**right, **COPIES[fault]}.items() if value is not None}
    assert len(copy_faults(right, wrong)) == 1


def message(op: Op) -> Message:
    wal = {"table": op.table, "type": op.kind, **({"record": op.new} if op.new else {"old_record": op.old})}
    payload = json.dumps({"wal": wal, "subscription_ids": sorted(audiences(op)["reader"])}).encode()
    headers = {"id": f"{op.number:04}/reader", "xid": str(op.xid), "role": "reader"}
    return message_of(headers, payload, ["id"], ("log", op.number))


MESSAGES = [message(op) for op in OPS]


def entries(*, apart: bool) -> list[Entry]:
    return [
        Entry(whose, each.id, json.loads(each.payload)["wal"])
        for each in MESSAGES
        for whose in (sorted(each.audience) if apart else [",".join(sorted(each.audience))])
    ]


@pytest.mark.parametrize("apart", [True, False])
def test_each_event_once_is_right_though_the_broker_has_it_twice(apart: bool) -> None:
    assert entry_faults(MESSAGES + MESSAGES[:2], entries(apart=apart), apart=apart) == []


@pytest.mark.parametrize("apart", [True, False])
def test_what_is_lost_repeated_changed_or_for_others_is_found(apart: bool) -> None:
    right = entries(apart=apart)
    for number, each in enumerate(right):
        lost = right[:number] + right[number + 1 :]
        assert len(entry_faults(MESSAGES, lost, apart=apart)) == 1
        assert len(entry_faults(MESSAGES, [*right, each], apart=apart)) >= 1
        for change in ({"wal": {**each.wal, "type": "x"}}, {"whose": "carol"}, {"id": "9999/reader"}):
            changed = [*right[:number], msgspec.structs.replace(each, **change), *right[number + 1 :]]
            assert len(entry_faults(MESSAGES, changed, apart=apart)) >= 2


@pytest.mark.parametrize("apart", [True, False])
def test_the_order_of_a_row_is_found_wrong(apart: bool) -> None:
    right = entries(apart=apart)
    first, later = (next(n for n, each in enumerate(right) if each.id == f"{op}/reader") for op in ("0003", "0005"))
    if apart:
        later += 1  # Bob's; the one before it is Alice's
    right[first], right[later] = right[later], right[first]
    assert len(entry_faults(MESSAGES, right, apart=apart)) == 1
