"""An event as a line for people."""

import json
from typing import Any

import click
import pytest

from bridge.tail import Item, Wanted, line

ALICE, BOB = "af68a1b5-fbb3-4154-84cc-a2ee1a7048f9", "b1000000-0000-4000-8000-000000000000"
HEADERS = {
    "id": "7409-1/00000000015E4E50/00000000015E4DD0/00000000/public.book/authenticated",
    "commit_lsn": "0/15E4E50",
    "commit_timestamp": "2026-03-01T10:00:00.123456Z",
    "role": "authenticated",
}


def event(*subscriptions: str, errors: tuple[str, ...] = (), **wal: Any) -> bytes:
    body = {
        "schema": "public",
        "table": "book",
        "type": "INSERT",
        "commit_timestamp": "2026-03-01T10:00:00.123Z",
        **wal,
    }
    return json.dumps(
        {"wal": body, "subscription_ids": subscriptions, "errors": errors}, ensure_ascii=False, separators=(",", ":")
    ).encode()


def letter(**more: Any) -> bytes:
    body = {
        "reason": "policy: 22P02: no uuid",
        "commit_lsn": "0/15E4E50",
        "schema": "public",
        "table": "book",
        "change": {"type": "UPDATE", "commit_timestamp": "2026-03-01T10:00:00.123456Z"},
        **more,
    }
    return json.dumps({"dead_letter": body}).encode()


def text(item: Item, wanted: Wanted | None = None) -> str | None:
    made = line(item, wanted or Wanted())
    return None if made is None else click.unstyle(made.text)


def test_an_event() -> None:
    item = Item(HEADERS, event(ALICE, record={"id": 1, "title": "Foo"}), b'{"id":1}')
    assert text(item) == (
        '2026-03-01T10:00:00.123Z 0/15E4E50 INSERT public.book {"id":1} 1 subscription as authenticated'
        ' {"id":1,"title":"Foo"}'
    )


def test_a_delete_shows_the_old_row_and_two_subscriptions_are_counted() -> None:
    item = Item(HEADERS, event(ALICE, BOB, type="DELETE", old_record={"id": 1}), b'{"id":1}')
    assert text(item) == (
        '2026-03-01T10:00:00.123Z 0/15E4E50 DELETE public.book {"id":1} 2 subscriptions as authenticated {"id":1}'
    )


def test_without_headers_and_key() -> None:
    assert text(Item({}, event(ALICE, record={"id": 1}))) == (
        '2026-03-01T10:00:00.123Z - INSERT public.book - 1 subscription as - {"id":1}'
    )


def test_what_is_special_about_it() -> None:
    headers = HEADERS | {"part": "1/3", "replayed": "true", "leave": "true", "unchanged_toast": '["body"]'}
    shown = text(Item(headers, event(errors=("Error 413: Payload Too Large",), record={"id": 1})))
    assert shown is not None
    assert shown.endswith(
        '{"id":1} [replayed] [leave] [part 1/3] [unchanged_toast ["body"]] Error 413: Payload Too Large'
    )


def test_an_event_without_a_record() -> None:
    shown = text(Item(HEADERS, event(ALICE, errors=("Error 401: Unauthorized",))))
    assert shown is not None
    assert shown.endswith("as authenticated - Error 401: Unauthorized")


def test_a_dead_letter() -> None:
    expected = "2026-03-01T10:00:00.123Z 0/15E4E50 UPDATE public.book dead letter: policy: 22P02: no uuid"
    assert text(Item(HEADERS, letter())) == expected
    assert text(Item({}, letter())) == expected
    assert text(Item({}, letter(change=None))) == "- 0/15E4E50 - public.book dead letter: policy: 22P02: no uuid"


def test_numbers_keep_every_digit() -> None:
    number = "1" * 50 + ".10"
    shown = text(Item(HEADERS, event(record="N").replace(b'"N"', b'{"n":%s}' % number.encode())))
    assert shown is not None
    assert shown.endswith(f'{{"n":{number}}}')
    huge = event(record="N").replace(b'"N"', b'{"n":%s}' % (b"1" * 10_000))
    assert "INSERT public.book" in (text(Item(HEADERS, huge)) or "")


def test_a_long_record_is_cut() -> None:
    shown = text(Item(HEADERS, event(record={"id": 1, "body": "x" * 10_000})))
    assert shown is not None
    assert shown.endswith("xxx…")
    assert len(shown) < 300


def test_nothing_in_it_reaches_the_terminal_as_an_order() -> None:
    evil = "\x1b[2J\x9b2J\u202e\n"
    item = Item(
        HEADERS | {"role": evil, "part": evil}, event(record={"a": evil}, schema=evil, errors=(evil,)), evil.encode()
    )
    shown = text(item)
    assert shown is not None
    assert shown.isprintable()


@pytest.mark.parametrize(
    "value",
    [b"", b"hello", b"\xff\x00", b"[1]", b'"wal"', b"{}", b'{"wal": 1}', b'{"dead_letter": null}', b"[" * 100_000],
)
def test_what_is_no_event_is_told_so_and_is_not_what_one_asks_for(value: bytes) -> None:
    made = line(Item({}, value), Wanted())
    assert made is not None
    assert not made.is_event
    assert click.unstyle(made.text) == f"no event of a bridge, {len(value)} bytes"
    assert line(Item({}, value), Wanted(tables={("public", "book")})) is None


@pytest.mark.parametrize("value", [event(), letter()])
def test_only_the_tables_that_are_wanted(value: bytes) -> None:
    assert text(Item(HEADERS, value), Wanted(tables={("public", "book"), ("public", "note")}))
    assert text(Item(HEADERS, value), Wanted(tables={("other", "book")})) is None


@pytest.mark.parametrize(
    "value", [event(BOB, ALICE), letter(undecided=[{"subscription_id": ALICE}]), letter(undelivered=[ALICE])]
)
def test_only_what_is_for_a_subscription(value: bytes) -> None:
    assert text(Item(HEADERS, value), Wanted(subscriptions={ALICE}))
    assert text(Item(HEADERS, value), Wanted(subscriptions={"c1000000-0000-4000-8000-000000000000"})) is None
