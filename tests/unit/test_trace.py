"""What `walrus-bridge trace` is asked, and how it answers; no server."""

import msgspec
import pytest

from bridge.event import short_hash
from bridge.naming import escape
from bridge.patterns import parse_pattern
from bridge.trace_facts import OUTCOMES, ChangeFacts, Detail, FilterAnswer, PolicyAnswer, Reason, Trace
from bridge.trace_row import _pattern
from bridge.trace_target import BadTarget, parse_event_id, parse_key
from bridge.trace_text import text

HEAD = "7409000000000000001-2/00000000015E4E50/00000000015E4DD0/0000000A"


@pytest.mark.parametrize(
    ("rest", "role"),
    [
        ("/authenticated", "authenticated"),
        ("", None),
        (f"/{escape('odd role-1')}+{short_hash(['a', 'b'])}", "odd role-1"),
        (f"/authenticated/part-{short_hash(['x'])}", "authenticated"),
        (f"/authenticated+0a1b2c3d/retry-{short_hash(['x'])}", "authenticated"),
        ("/authenticated/leave", "authenticated"),
        (f"/retry-{short_hash(['x'])}", None),
    ],
)
def test_an_events_id(rest: str, role: str | None) -> None:
    found = parse_event_id(f"{HEAD}/{escape('my.app')}.{escape('bücher')}{rest}")

    assert found is not None
    assert (found.system_identifier, found.timeline) == ("7409000000000000001", 2)
    assert (found.commit_lsn, found.lsn, found.seq) == (0x15E4E50, 0x15E4DD0, 10)
    assert (found.schema, found.table, found.role) == ("my.app", "bücher", role)


@pytest.mark.parametrize(
    "other", ["public.book", "", f"{HEAD}/book", HEAD, f"{HEAD.lower()}/public.book", "7409-1/0/0/0/a.b"]
)
def test_what_is_none(other: str) -> None:
    assert parse_event_id(other) is None


@pytest.mark.parametrize(
    ("arguments", "columns", "key"),
    [
        (["7"], ["id"], {"id": "7"}),
        (["id=7"], ["id"], {"id": "7"}),
        (['{"id": 7}'], ["id"], {"id": "7"}),
        (['{"id": "7"}'], ["id"], {"id": "7"}),
        (['{"id": 12345678901234567890.10}'], ["id"], {"id": "12345678901234567890.10"}),
        (["a=b"], ["id"], {"id": "a=b"}),
        (["lang=de", "id=7"], ["id", "lang"], {"id": "7", "lang": "de"}),
        (["id="], ["id"], {"id": ""}),
        (["x=y=z", "x=1"], ["x=y", "x"], {"x=y": "z", "x": "1"}),
        (['{"lang": "\\u00fc", "id": true}'], ["id", "lang"], {"id": "true", "lang": "ü"}),
    ],
)
def test_a_key(arguments: list[str], columns: list[str], key: dict[str, str]) -> None:
    assert parse_key(arguments, columns, "public.book") == key


@pytest.mark.parametrize(
    ("arguments", "columns", "words"),
    [
        ([], ["id"], "'id' is missing in the key"),
        (["7"], ["id", "lang"], "'7' is no value of the key"),
        (["id=7"], ["id", "lang"], "'lang' is missing in the key"),
        (['{"id": null}'], ["id"], "'id' is null"),
        (['{"id": 7, "title": "x"}'], ["id"], "'title' is not in the key"),
        (['{"id": 7'], ["id"], "no JSON object"),
        (["7"], [], "has no primary key"),
    ],
)
def test_a_key_that_is_none(arguments: list[str], columns: list[str], words: str) -> None:
    with pytest.raises(BadTarget, match=words) as raised:
        parse_key(arguments, columns, "public.book")
    assert "What to do" in str(raised.value)


@pytest.mark.parametrize("name", [("public", "book"), ("a.b", "c*d"), ("\\", "x y,z\"'")])
def test_a_pattern_for_one_table(name: tuple[str, str]) -> None:
    assert parse_pattern(_pattern(*name)).exact == name


CHANGE = ChangeFacts(
    "7409-1/…/public.book",
    "UPDATE",
    "public",
    "book",
    {"id": "1"},
    "0/15E4DD0",
    "0/15E4E50",
    "2026-11-25T12:00:00.000000Z",
    812,
)
DETAIL = Detail(
    id=7, subscription_id="2f6ab6a0-26f5-4d39-8a5a-2f9bb4b63a8c", role="authenticated", subject="alice", action="*",
    created_at="2026-11-25T13:00:00", made_after=True, outcome="policy", why="no permissive policy passes",
    filters=[FilterAnswer("room eq 3", "3", True, None), FilterAnswer("body is null", None, None, "a reason")],
    row_security="applies to authenticated: the recorded row is judged",
    policies=[PolicyAnswer("own", True, "(owner = auth.uid())", "error", "22P02: it raised")],
)  # fmt: skip


def test_an_answer_for_people() -> None:
    reasons = [Reason("policy", "authenticated", 1200, 3, [7, 8, 9]), Reason("gets", "anon", 1, 0, [4])]
    lines = text(Trace(CHANGE, True, [CHANGE], reasons, [DETAIL], ["a note"])).splitlines()

    assert lines[0] == 'UPDATE of public.book {"id": "1"}'
    assert "  change  7409-1/…/public.book" in lines
    assert "  note    a note" in lines
    assert "  2026-11-25T12:00:00.000000Z  UPDATE  0/15E4DD0  7409-1/…/public.book" in lines
    assert (
        "1,200 subscriptions of authenticated: does not get it: row level security does not show the row"
        " (id 7, 8, 9, …; 3 of them younger than the change)"
    ) in lines
    assert "1 subscription of anon: gets it (id 4)" in lines
    at = lines.index(
        "subscription 7 (2f6ab6a0-26f5-4d39-8a5a-2f9bb4b63a8c), authenticated, sub alice, action *, made 2026-11-25T13:00:00Z"
    )
    assert lines[at + 1] == f"  {OUTCOMES['policy']}: no permissive policy passes"
    assert lines[at + 2].startswith("  it is younger than the change")
    assert lines[at + 3 :] == [
        "  filter  room eq 3: passes, the change has 3",
        "  filter  body is null: cannot be told, a reason",
        "  row level security applies to authenticated: the recorded row is judged",
        "  policy  own (permissive): error (22P02: it raised)",
        "            (owner = auth.uid())",
    ]


def test_what_others_wrote_does_not_move_the_terminal() -> None:
    filters = [FilterAnswer("body eq a\x1b[2J\nb", "ü\x9b", False, None)]
    shown = text(Trace(CHANGE, True, [], [], [msgspec.structs.replace(DETAIL, filters=filters)], []))

    assert r"  filter  body eq a\x1b[2J\nb: does not pass, the change has ü\x9b" in shown.splitlines()


def test_nobody_subscribes() -> None:
    assert "nobody subscribes to that table" in text(Trace(CHANGE, True, [], [], [], []))
