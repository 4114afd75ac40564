"""Compares what a broker holds with what PostgreSQL committed. Pure."""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

Row = Mapping[str, Any]
Audiences = Mapping[str, frozenset[str]]
"""By role: the subscription ids that must get the event. A role without any gets none."""


class Op(msgspec.Struct, frozen=True):
    """A committed change, as a trigger noted it in the same transaction."""

    number: int
    """Ascending in commit order among the changes of one row's key."""
    xid: int
    table: str
    kind: str
    key: tuple[Any, ...]
    """The new one; a DELETE's old one."""
    new: Row | None = None
    old: Row | None = None


class Message(msgspec.Struct, frozen=True):
    """What a consumer gets."""

    id: str
    xid: int
    table: str
    kind: str
    role: str
    key: tuple[Any, ...]
    record: Row | None
    unchanged: frozenset[str]
    """Columns that the record lacks, as unchanged TOAST values."""
    audience: frozenset[str]
    payload: bytes
    place: tuple[Any, ...]
    """Where it lies; ascending within a log or queue, in which all of a key's messages are."""


class Report(msgspec.Struct):
    expected: int = 0
    received: int = 0
    lost: list[str] = []
    phantom: list[str] = []
    changed: list[str] = []
    """One id with two payloads."""
    disordered: list[str] = []
    consumers: list[str] = []
    """What a consumer keeps and should not, or lacks."""
    duplicates: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.phantom or self.changed or self.disordered or self.consumers)

    def line(self) -> str:
        return (
            f"expected {self.expected}, received {self.received}, lost {len(self.lost)}, phantom {len(self.phantom)},"
            f" changed {len(self.changed)}, disordered {len(self.disordered)}, duplicates {self.duplicates},"
            f" wrong at consumers {len(self.consumers)}"
        )

    def details(self, most: int = 5) -> str:
        names = ("lost", "phantom", "changed", "disordered", "consumers")
        return "\n".join(f"{name}: {text}" for name in names for text in getattr(self, name)[:most])


def check(ops: Iterable[Op], messages: Sequence[Message], audiences: Callable[[Op], Audiences]) -> Report:
    """Every expected event is there, with its record and audience; nothing else is; each key's come in commit order."""
    report = Report(received=len(messages))
    expected: dict[Any, deque[Op]] = defaultdict(deque)
    for op in sorted(ops, key=lambda op: op.number):
        for role, audience in audiences(op).items():
            if audience:
                expected[op.xid, op.table, op.kind, role, op.key].append(op)
                report.expected += 1
    first = _first_occurrences(messages, report)
    numbers: dict[str, int] = {}
    for message in sorted(first.values(), key=lambda message: message.id):
        waiting = expected[message.xid, message.table, message.kind, message.role, message.key]
        fits = next((op for op in waiting if _fits(op, message, audiences)), None)
        if fits is None:
            report.phantom.append(_tell(message))
            continue
        while (op := waiting.popleft()) is not fits:
            report.lost.append(f"{op}, of {message.role}")
        numbers[message.id] = fits.number
    report.lost += [f"{op}, of {group[3]}" for group, waiting in expected.items() for op in waiting]
    _check_order(first, numbers, report)
    return report


def _first_occurrences(messages: Sequence[Message], report: Report) -> dict[str, Message]:
    first: dict[str, Message] = {}
    for message in sorted(messages, key=lambda message: message.place):
        before = first.setdefault(message.id, message)
        if before is not message:
            report.duplicates += 1
            if before.payload != message.payload:
                report.changed.append(f"{message.id}: {before.payload[:300]!r}, then {message.payload[:300]!r}")
    return first


def _fits(op: Op, message: Message, audiences: Callable[[Op], Audiences]) -> bool:
    record = (
        None if op.new is None else {name: value for name, value in op.new.items() if name not in message.unchanged}
    )
    if message.unchanged and any((op.old or {}).get(name) != (op.new or {}).get(name) for name in message.unchanged):
        return False
    return message.record == record and message.audience == audiences(op)[message.role]


def _check_order(first: Mapping[str, Message], numbers: Mapping[str, int], report: Report) -> None:
    last: dict[Any, tuple[int, str]] = {}
    for message in sorted(first.values(), key=lambda message: message.place):
        if message.id not in numbers:
            continue
        key, now = (message.table, message.role, message.key), (numbers[message.id], message.id)
        before = last.get(key)
        if before is not None and (before[0] > now[0] or before[1] > now[1]):
            report.disordered.append(f"{key}: {before}, then {now}")
        last[key] = now


def _tell(message: Message) -> str:
    return f"{message.id}: {message.payload[:400]!r}"


def message_of(
    headers: Mapping[str, str], payload: bytes, key_columns: Sequence[str], place: tuple[Any, ...]
) -> Message:
    """From what the wire carries."""
    event = json.loads(payload)
    wal = event["wal"]
    record = wal.get("record")
    key = tuple((record if record is not None else wal["old_record"])[name] for name in key_columns)
    return Message(
        id=headers["id"],
        xid=int(headers["xid"]),
        table=wal["table"],
        kind=wal["type"],
        role=headers["role"],
        key=key,
        record=record,
        unchanged=frozenset(json.loads(headers.get("unchanged_toast", "[]"))),
        audience=frozenset(event["subscription_ids"]),
        payload=payload,
        place=place,
    )


def tally(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
