"""Compares what a consumer keeps with what it must: each event once, each row's in order, and nothing else. Pure."""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tests.torture.checker import Audiences, Message, Op, Row

Key = tuple[Any, ...]
Copy = Mapping[Key, tuple[Row | None, int]]
"""By key: the row, None where it is gone, and how many changes it has had."""


class Entry(msgspec.Struct, frozen=True):
    """An event as a consumer has written it down."""

    whose: str
    """A subscription's id, or several of them: whom the entry is for."""
    id: str
    wal: Mapping[str, Any]


def right_copy(
    ops: Iterable[Op], audiences: Callable[[Op], Audiences], role: str, subscription: str, columns: Sequence[str]
) -> Copy:
    """What the changes of one table that a subscription gets make of its rows; `columns`: the key's."""
    rows: dict[Key, tuple[Row | None, int]] = {}

    def write(key: Key, row: Row | None) -> None:
        rows[key] = (row, rows.get(key, (None, 0))[1] + 1)

    for op in sorted(ops, key=lambda op: op.number):
        if subscription in audiences(op).get(role, frozenset()):
            old_key = tuple(op.old[name] for name in columns) if op.old else op.key
            if old_key != op.key:
                write(old_key, None)
            write(op.key, op.new)
    return rows


def copy_faults(right: Copy, copy: Copy) -> list[str]:
    keys = sorted(right.keys() | copy.keys())
    return [
        f"{key}: {_short(copy.get(key))}, must be {_short(right.get(key))}"
        for key in keys
        if copy.get(key) != right.get(key)
    ]


def entry_faults(messages: Iterable[Message], entries: Sequence[Entry], *, apart: bool) -> list[str]:
    """`entries`, as they came, must have each event of `messages` once: for its subscribers together, or `apart`."""
    events = {message.id: message for message in messages}
    right: Counter[Hashable] = Counter()
    for event in events.values():
        wal = _text(json.loads(event.payload)["wal"])
        right.update((whose, event.id, wal) for whose in (sorted(event.audience) if apart else [_all(event)]))
    kept = Counter[Hashable]((entry.whose, entry.id, _text(entry.wal)) for entry in entries)
    faults = [f"lacks {_short(entry)}" for entry in right - kept]
    faults += [f"has too much: {_short(entry)}" for entry in kept - right]
    last: dict[Hashable, str] = {}
    for entry in entries:
        if entry.id in events:
            event = events[entry.id]
            row = (entry.whose if apart else "", event.table, event.role, event.key)
            before = last.get(row, "")
            if before > entry.id:
                faults.append(f"{row}: {before}, then {entry.id}")
            last[row] = entry.id
    return faults


def _short(what: object) -> str:
    """Both ends of it: a row may be long, and how often it changed comes last."""
    text = str(what)
    return text if len(text) <= 300 else f"{text[:200]} … {text[-100:]}"


def _all(message: Message) -> str:
    return ",".join(sorted(message.audience))


def _text(wal: Mapping[str, Any]) -> str:
    return json.dumps(wal, sort_keys=True)
