"""An event as a line for people. Pure.

    2026-03-01T10:00:00.123Z 0/15E4E50 INSERT public.book {"id":1} 1 subscription as authenticated {"id":1,"title":"Foo"}

What stdout carries has no headers: then the LSN, the key and the role are a dash.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

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

    tables: Collection[tuple[str, str]] = ()
    subscriptions: Collection[str] = ()

    def __bool__(self) -> bool:
        return bool(self.tables or self.subscriptions)


class Line(msgspec.Struct, frozen=True):
    order: tuple[int, str]
    """Of several lines: when they were sent, then as their events are."""
    text: str
    """With terminal colours."""
    value: bytes
    is_event: bool


def line(item: Item, wanted: Wanted) -> Line | None:
    """None where it is not wanted."""
    try:
        value = json.loads(item.value)
    except ValueError:
        value = None
    kind = next(
        (kind for kind in ("wal", "dead_letter") if isinstance(value, dict) and _is_object(value.get(kind))), None
    )
    if kind is None:
        text = click.style(f"no event of a bridge, {len(item.value)} bytes", dim=True)
        return None if wanted else Line((item.sent_ms, ""), text, item.value, is_event=False)
    body = value[kind]
    if not _is_wanted(value, body, wanted):
        return None
    text = _event(item, value, body) if kind == "wal" else _dead_letter(item, body)
    return Line((item.sent_ms, item.headers.get("id", "")), text, item.value, is_event=True)


def _is_wanted(value: Any, body: Any, wanted: Wanted) -> bool:
    if wanted.tables and (body.get("schema"), body.get("table")) not in wanted.tables:
        return False
    if not wanted.subscriptions:
        return True
    undecided = [each.get("subscription_id") for each in body.get("undecided") or []]
    told = {*(value.get("subscription_ids") or []), *undecided, *(body.get("undelivered") or [])}
    return not told.isdisjoint(wanted.subscriptions)


def _event(item: Item, value: Any, body: Any) -> str:
    count = len(value.get("subscription_ids") or [])
    record = body.get("record", body.get("old_record"))
    marks = [f"[{name} {item.headers[name]}]" for name in _MARKS if name in item.headers]
    return " ".join(
        [
            *_head(item, body),
            _plain((item.key or b"-").decode(errors="replace")),
            f"{count} subscription{'' if count == 1 else 's'} as {_plain(item.headers.get('role', '-'))}",
            _short(record) if record is not None else "-",
            *(click.style(_plain(each.replace(" true", "")), fg="cyan") for each in marks),
            *(click.style(_plain(str(error)), fg="red") for error in value.get("errors") or []),
        ]
    )


def _dead_letter(item: Item, body: Any) -> str:
    return " ".join([*_head(item, body), click.style("dead letter:", fg="red"), _plain(str(body.get("reason")))])


def _head(item: Item, body: Any) -> list[str]:
    """Time, commit LSN, type and table."""
    change = body.get("change") if _is_object(body.get("change")) else body
    kind = str(change.get("type") or item.headers.get("type", "-"))
    when = item.headers.get("commit_timestamp") or change.get("commit_timestamp") or "-"
    return [
        click.style(_plain(_milliseconds(str(when))), dim=True),
        _plain(item.headers.get("commit_lsn") or str(body.get("commit_lsn", "-"))),
        click.style(_plain(kind), fg=_COLOURS.get(kind)),
        click.style(_plain(f"{body.get('schema')}.{body.get('table')}"), bold=True),
    ]


def _milliseconds(when: str) -> str:
    """Of a time with microseconds."""
    return f"{when[:23]}Z" if len(when) > 24 and when.endswith("Z") else when


def _short(record: Any) -> str:
    text = _plain(json.dumps(record, ensure_ascii=False, separators=(",", ":")))
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _plain(text: str) -> str:
    """Without what a terminal would obey: names and values are other people's."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)
