"""What a dead letter says, and the change that is made of it again."""

import json
from typing import Any

import msgspec
import pytest

from bridge.change import DELETE, UPDATE, Change, Row, Shape, Transaction
from bridge.dead_letters import DeadLetter, change_of, left_for, parse, retried, ways_on
from bridge.event import Event, rejected_letter, short_hash
from bridge.judged import Subscription, Undecided
from bridge.lsn import Identity
from bridge.printable import printable
from bridge.values import PGOUTPUT_CODEC, WAL2JSON_CODEC
from bridge.writer import EventWriter

SHAPE = Shape(("id", "raw", "flag", "none"), (23, 17, 16, 25))
CHANGE = Change(
    UPDATE,
    "public",
    "book_low",
    4711,
    0x15E4DD0,
    3,
    Transaction(742, 0x15E4E50, "2022-04-29T19:04:23.123456Z"),
    Row(SHAPE, (b"1", b"\\x00ff", b"t", None)),
    Row(Shape(("id",), (23,)), (b"1",)),
    False,
    100,
)
UNDECIDED = [
    Undecided(Subscription(number, f"uuid-{number}", 1, 10, "{}", (), "*", None), "policy: 22P02: bad")
    for number in (7, 8)
]


def letter_of(of: Change = CHANGE, codec: Any = PGOUTPUT_CODEC, *, of_table: str = "book", **body: Any) -> DeadLetter:
    event = EventWriter(Identity("7409", 2), "shop").dead_letter(
        of, codec, "why", schema="public", table=of_table, undecided=UNDECIDED
    )
    written = json.loads(event.value)["dead_letter"] | body
    found = parse(json.dumps({"dead_letter": written}).encode())
    assert found is not None
    return found


def test_the_change_is_made_whole_again() -> None:
    letter = letter_of()
    assert letter.recorded is not None
    again = change_of(letter, letter.recorded)
    assert again.new is not None
    assert (again.new.shape.names, again.new.shape.types) == (SHAPE.names, SHAPE.types)
    for name in ("kind", "schema", "table", "oid", "lsn", "seq", "transaction", "old_is_full"):
        assert getattr(again, name) == getattr(CHANGE, name), name
    assert again.new.values == (b"1", b"\\x00ff", b"t", None)
    assert again.old is not None
    assert again.old.values == (b"1",)
    assert letter.identity == Identity("7409", 2)
    assert letter.wanted == {7: "uuid-7", 8: "uuid-8"}
    assert letter.name == ("public", "book", None)  # the table above the partition
    assert letter_of(of_table="book_low").name == ("public", "book_low", 4711)


def test_wal2json_s_values_become_the_same_text() -> None:
    raw = Row(SHAPE, (b"1", b'"00ff"', b"true", None))
    change = msgspec.structs.replace(CHANGE, kind=DELETE, oid=None, new=None, old=raw, old_is_full=None)
    letter = letter_of(change, WAL2JSON_CODEC)
    assert letter.recorded is not None
    again = change_of(letter, letter.recorded)
    assert (again.kind, again.new, again.oid, again.old_is_full) == (DELETE, None, None, None)
    assert again.old is not None
    assert again.old.values == (b"1", b"\\x00ff", b"t", None)
    assert letter.recorded.plugin == "wal2json"


@pytest.mark.parametrize(
    "body",
    [
        {"truncated": True},
        {"undecided": []},  # and nothing that says for whom it is
        {"change": {"type": "INSERT", "commit_timestamp": "…", "record": {"id": "1"}}},
        {"change": {"type": "INSERT"}},
    ],
)
def test_a_letter_without_all_of_its_change_says_replay(body: dict[str, Any]) -> None:
    letter = letter_of(**body)
    assert letter.recorded is None
    commands = [each for _, each in ways_on(letter)]
    assert commands[0] == "walrus-bridge replay --from-lsn 0/15E4E50 --to-lsn 0/15E4E50 --table public.book"
    assert commands[1] == f"walrus-bridge dead-letter drop {letter.id}"


def test_that_of_an_event_that_was_refused_is_none_to_retry() -> None:
    headers = [("id", "x"), ("lsn", "0/1"), ("commit_lsn", "0/1"), ("commit_timestamp", "…"), ("role", "anon")]
    value = b'{"wal":{"type":"INSERT","record":{"id":1.10}},"is_rls_enabled":true,"subscription_ids":["u"],"errors":[]}'
    event_id = "7409-1/0000000000000001/0000000000000001/00000000/public.book/anon"
    event = Event(event_id, "public", "book", "INSERT", None, value, headers, ("u",), 0)
    letter = parse(rejected_letter(event, "too large").value)
    assert letter is not None
    assert (letter.recorded, letter.wanted, letter.kind, letter.committed_at) == (None, None, "INSERT", "")


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", b"[]", b'{"dead_letter": {}}', b'{"dead_letter": 1}', None],
)
def test_what_is_no_letter_is_told(value: bytes | None) -> None:
    if value is None:
        body = letter_of().body | {"id": msgspec.Raw(b'"no/id"')}
        value = msgspec.json.encode({"dead_letter": body})
    assert parse(value) is None


def test_a_letter_stays_for_the_rest_with_all_else_that_it_says() -> None:
    letter = letter_of(more=1.10)
    both = [{"id": number, "subscription_id": f"uuid-{number}", "reason": "policy: 22P02: bad"} for number in (7, 8)]
    assert left_for(letter, both) is None
    rest = left_for(letter, [both[1] | {"reason": "another"}])
    assert rest is not None
    assert json.loads(rest)["dead_letter"] == {
        **json.loads(msgspec.json.encode(letter.body)),
        "undecided": [both[1] | {"reason": "another"}],
        "reason": "another",
    }


def test_a_retry_s_id_is_that_of_the_event_and_of_those_it_is_for() -> None:
    event = Event("a/b", "public", "book", "INSERT", None, b"{}", [("id", "a/b"), ("lsn", "0/1")], ("u", "v"), 0)
    again = retried(event)
    assert again.id == f"a/b/retry-{short_hash(['v', 'u'])}"
    assert again.headers == [("id", again.id), ("lsn", "0/1")]


def test_nothing_that_a_terminal_would_obey_is_printed() -> None:
    assert printable("a\nb\x1b[2J\x9b ä\u202e") == "a\\nb\\x1b[2J\\x9b ä\\u202e"


def test_a_command_to_copy_is_one_whatever_the_names_are() -> None:
    letter = letter_of(truncated=True, table="x; rm -rf y")
    assert ways_on(letter)[0][1].endswith("--table 'public.x; rm -rf y'")
