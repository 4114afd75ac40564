"""An event as a line for people. Pure.

    2026-03-01T10:00:00.123Z 0/15E4E50 INSERT public.book {"id":1} 1 subscription as authenticated {"id":1,"title":"Foo"}

What stdout carries has no headers: then the LSN, the key and the role are a dash.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import click
import msgspec

_SHOWN_CHARACTERS: Final = 160
"""Of a record."""
_COLOURS: Final = {"INSERT": "green", "UPDATE": "yellow", "DELETE": "red"}
_MARKS: Final = ("replayed", "leave", "part", "unchanged_toast")
"""Headers that are shown where there are any."""


class Item(msgspec.Struct, frozen=True):
    """A message as it came; `headers` is empty where there are none."""

    headers: Mapping[str, str]
    value: bytes
    key: bytes | None = None
    sent_ms: int = 0
    """When it was sent, where that is known."""


class Wanted(msgspec.Struct, frozen=True):
    """What is shown; empty: all."""

    tables: AbstractSet[tuple[str, str]] = frozenset()
    subscriptions: AbstractSet[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.tables or self.subscriptions)


class Line(msgspec.Struct, frozen=True):
    order: tuple[int, str]
    """Of several lines: when they were sent, then as their events are."""
    text: str
    """With terminal colours."""
    value: bytes
    is_event: bool


class _Wal(msgspec.Struct):
    schema: str
    table: str
    type: str = "-"
    commit_timestamp: str = "-"
    record: msgspec.Raw = msgspec.Raw()
    old_record: msgspec.Raw = msgspec.Raw()


class _Change(msgspec.Struct):
    type: str = "-"
    commit_timestamp: str = "-"


class _Undecided(msgspec.Struct):
    subscription_id: str = ""


class _DeadLetter(msgspec.Struct):
    schema: str
    table: str
    reason: str = "-"
    commit_lsn: str = "-"
    undecided: list[_Undecided] = []
    undelivered: list[str] = []
    change: _Change | None = None


class _Value(msgspec.Struct):
    wal: _Wal | None = None
    dead_letter: _DeadLetter | None = None
    subscription_ids: list[str] = []
    errors: list[str] = []


_decode = msgspec.json.Decoder(_Value).decode


def line(item: Item, wanted: Wanted) -> Line | None:
    """None where it is not wanted."""
    try:
        value = _decode(item.value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        value = _Value()
    body = value.wal or value.dead_letter
    if body is None:
        text = click.style(f"no event of a bridge, {len(item.value)} bytes", dim=True)
        return None if wanted else Line((item.sent_ms, ""), text, item.value, is_event=False)
    if wanted.tables and (body.schema, body.table) not in wanted.tables:
        return None
    if wanted.subscriptions and wanted.subscriptions.isdisjoint(_subscriptions(value)):
        return None
    text = _event(item, value, body) if isinstance(body, _Wal) else _dead_letter(item, body)
    return Line((item.sent_ms, item.headers.get("id", "")), text, item.value, is_event=True)


def _subscriptions(value: _Value) -> list[str]:
    """For whom it is, or for whom it is not decided or not delivered."""
    letter = value.dead_letter
    missed = [] if letter is None else [*(each.subscription_id for each in letter.undecided), *letter.undelivered]
    return value.subscription_ids + missed


def _event(item: Item, value: _Value, wal: _Wal) -> str:
    count = len(value.subscription_ids)
    record = (bytes(wal.record) or bytes(wal.old_record)).decode()
    marks = [f"[{name} {item.headers[name]}]".replace(" true]", "]") for name in _MARKS if name in item.headers]
    return " ".join(
        [
            *_head(item, wal, wal.type, wal.commit_timestamp, "-"),
            _plain((item.key or b"-").decode(errors="replace")),
            f"{count} subscription{'' if count == 1 else 's'} as {_plain(item.headers.get('role', '-'))}",
            _short(record or "-"),
            *(click.style(_plain(each), fg="cyan") for each in marks),
            *(click.style(_plain(each), fg="red") for each in value.errors),
        ]
    )


def _dead_letter(item: Item, letter: _DeadLetter) -> str:
    change = letter.change or _Change()
    head = _head(item, letter, change.type, change.commit_timestamp, letter.commit_lsn)
    return " ".join([*head, click.style("dead letter:", fg="red"), _plain(letter.reason)])


def _head(item: Item, body: _Wal | _DeadLetter, kind: str, when: str, lsn: str) -> list[str]:
    """Time, commit LSN, type and table."""
    return [
        click.style(_plain(_milliseconds(item.headers.get("commit_timestamp", when))), dim=True),
        _plain(item.headers.get("commit_lsn", lsn)),
        click.style(_plain(kind), fg=_COLOURS.get(kind)),
        click.style(_plain(f"{body.schema}.{body.table}"), bold=True),
    ]


def _milliseconds(when: str) -> str:
    """Of a time with microseconds."""
    return f"{when[:23]}Z" if len(when) > 24 and when.endswith("Z") else when


def _short(record: str) -> str:
    return _plain(record if len(record) <= _SHOWN_CHARACTERS else record[: _SHOWN_CHARACTERS - 1] + "…")


def _plain(text: str) -> str:
    """Without what a terminal would obey: names and values are other people's."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
