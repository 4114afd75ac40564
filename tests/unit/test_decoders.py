"""The decoders on captured bytes, and on bytes that are wrong: a clear error, never a wrong event."""

import contextlib
import struct

import pytest

from bridge.change import Begin, Change, Commit, LogicalMessage, Message, Row, Transaction
from bridge.errors import DecodeError
from bridge.pgoutput import PgOutputDecoder
from bridge.wal2json import Wal2JsonDecoder

# Captured from wal2json 2.5 on PostgreSQL 15.20.
WAL2JSON = [
    (
        0x15462E8,
        b'{"action":"B","xid":730,"timestamp":"2026-11-24 12:12:56.09+00","lsn":"0/1546560","nextlsn":"0/15465C8"}',
    ),
    (
        0x1547320,
        b'{"action":"I","xid":731,"timestamp":"2026-11-24 12:12:56.09+00","lsn":"0/1547320","schema":"public","table":"t",'
        b'"columns":[{"name":"id","typeoid":23,"value":1},{"name":"a","typeoid":1700,"value":1.50},'
        b'{"name":"t","typeoid":25,"value":"a\\"b\\u0001"},{"name":"n","typeoid":23,"value":null}]}',
    ),
    (
        0x1547538,
        b'{"action":"U","xid":732,"timestamp":"2026-11-24 12:12:56.09+00","lsn":"0/1547538","schema":"public","table":"t",'
        b'"columns":[{"name":"id","typeoid":23,"value":2},{"name":"a","typeoid":1700,"value":null}],'
        b'"identity":[{"name":"id","typeoid":23,"value":1}]}',
    ),
    (
        0x1547538,
        b'{"action":"D","xid":734,"timestamp":"2026-11-24 12:12:56.09+00","lsn":"0/1547850","schema":"public","table":"t",'
        b'"identity":[{"name":"id","typeoid":23,"value":2}]}',
    ),
    (
        0x1549208,
        b'{"action":"T","xid":738,"timestamp":"2026-11-24 12:12:56.09+00","lsn":"0/1549208","schema":"public","table":"t"}',
    ),
    (0x1549518, b'{"action":"M","lsn":"0/1549518","transactional":true,"prefix":"x","content":"hello"}'),
    (
        0x15465C8,
        b'{"action":"C","xid":730,"timestamp":"2026-11-24 12:12:56.09+00","lsn":"0/1546560","nextlsn":"0/15465C8"}',
    ),
]


def text(value: bytes) -> bytes:
    return b"t" + struct.pack("!I", len(value)) + value


OID = struct.pack("!I", 16392)
# As the protocol's page has them: Relation t (id int4 key, body text), Begin, and each kind of change.
PGOUTPUT = [
    (1, b"B" + struct.pack("!QqI", 0x1546560, 848_837_576_090_000, 730)),
    (0, b"O" + struct.pack("!Q", 5) + b"origin\0"),
    (0, b"Y" + struct.pack("!I", 16385) + b"public\0mood\0"),
    (
        0,
        b"R"
        + OID
        + b"public\0t\0d"
        + struct.pack("!H", 2)
        + b"\1id\0"
        + struct.pack("!Ii", 23, -1)
        + b"\0body\0"
        + struct.pack("!Ii", 25, -1),
    ),
    (10, b"I" + OID + b"N" + struct.pack("!H", 2) + text(b"1") + text(b"foo")),
    (20, b"U" + OID + b"N" + struct.pack("!H", 2) + text(b"1") + b"u"),
    (
        30,
        b"U" + OID + b"K" + struct.pack("!H", 2) + text(b"1") + b"n" + b"N" + struct.pack("!H", 2) + text(b"2") + b"n",
    ),
    (
        40,
        b"U"
        + OID
        + b"O"
        + struct.pack("!H", 2)
        + text(b"2")
        + text(b"old")
        + b"N"
        + struct.pack("!H", 2)
        + text(b"2")
        + text(b"new"),
    ),
    (50, b"D" + OID + b"K" + struct.pack("!H", 2) + text(b"2") + b"n"),
    (60, b"D" + OID + b"O" + struct.pack("!H", 2) + text(b"2") + text(b"new")),
    (70, b"T" + struct.pack("!IB", 1, 0) + OID),
    (80, b"M" + struct.pack("!BQ", 1, 90) + b"x\0" + struct.pack("!I", 5) + b"hello"),
    (0x15465C8, b"C" + struct.pack("!BQQq", 0, 0x1546560, 0x15465C8, 848_837_576_090_000)),
]

TRANSACTION = Transaction(730, 0x1546560, "2026-11-24T12:12:56.090000Z")


def all_of(decoder: Wal2JsonDecoder | PgOutputDecoder, stream: list[tuple[int, bytes]]) -> list[Message]:
    return [message for lsn, payload in stream for message in decoder.decode(lsn, payload)]


def values(row: Row | None) -> dict[str, bytes | None] | None:
    return None if row is None else dict(zip(row.shape.names, row.values, strict=True))


def test_wal2json_messages() -> None:
    begin, insert, update, delete, truncate, message, commit = all_of(Wal2JsonDecoder(), WAL2JSON)

    assert begin == Begin(TRANSACTION)
    assert commit == Commit(0x15465C8)
    assert message == LogicalMessage("x", b"hello", transactional=True)
    assert isinstance(insert, Change)
    assert (insert.kind, insert.schema, insert.table, insert.lsn, insert.seq) == ("INSERT", "public", "t", 0x1547320, 0)
    assert values(insert.new) == {"id": b"1", "a": b"1.50", "t": b'"a\\"b\\u0001"', "n": None}
    assert isinstance(update, Change)
    assert isinstance(delete, Change)
    assert (values(update.new), values(update.old)) == ({"id": b"2", "a": None}, {"id": b"1"})
    assert (values(delete.new), values(delete.old)) == (None, {"id": b"2"})
    # They share an LSN, as the rows of one COPY do.
    assert (update.seq, delete.seq) == (0, 1)
    assert isinstance(truncate, Change)
    assert truncate.kind == "TRUNCATE"


def test_pgoutput_messages() -> None:
    begin, *changes, message, commit = all_of(PgOutputDecoder(), PGOUTPUT)

    assert begin == Begin(TRANSACTION)
    assert commit == Commit(0x15465C8)
    assert message == LogicalMessage("x", b"hello", transactional=True)
    found = [
        (each.kind, values(each.new), values(each.old), each.old_is_full)
        for each in changes
        if isinstance(each, Change) and (each.schema, each.table, each.oid) == ("public", "t", 16392)
    ]
    assert found == [
        ("INSERT", {"id": b"1", "body": b"foo"}, None, None),
        ("UPDATE", {"id": b"1"}, {"id": b"1"}, False),
        ("UPDATE", {"id": b"2", "body": None}, {"id": b"1"}, False),
        ("UPDATE", {"id": b"2", "body": b"new"}, {"id": b"2", "body": b"old"}, True),
        ("DELETE", None, {"id": b"2"}, False),
        ("DELETE", None, {"id": b"2", "body": b"new"}, True),
        ("TRUNCATE", None, None, None),
    ]


STREAMS: list[tuple[type[Wal2JsonDecoder | PgOutputDecoder], list[tuple[int, bytes]]]] = [
    (Wal2JsonDecoder, WAL2JSON),
    (PgOutputDecoder, PGOUTPUT),
]


@pytest.mark.parametrize(("kind", "stream"), STREAMS)
def test_rows_that_are_alike_share_their_shape(kind: type, stream: list[tuple[int, bytes]]) -> None:
    decoder = kind()
    first, second = (
        [each.new.shape for each in all_of(decoder, stream) if isinstance(each, Change) and each.new] for _ in range(2)
    )
    if kind is Wal2JsonDecoder:  # pgoutput has described its relation anew
        assert all(one is other for one, other in zip(first, second, strict=True))
    assert [each.names for each in first] == [each.names for each in second]


@pytest.mark.parametrize(("kind", "stream"), STREAMS)
def test_a_change_outside_of_a_transaction_is_an_error(kind: type, stream: list[tuple[int, bytes]]) -> None:
    with pytest.raises(DecodeError, match="outside of a transaction"):
        all_of(kind(), stream[1:])


@pytest.mark.parametrize(("kind", "stream"), STREAMS)
def test_a_begin_inside_a_transaction_is_an_error(kind: type, stream: list[tuple[int, bytes]]) -> None:
    decoder = kind()
    all_of(decoder, stream[:1])
    assert decoder.in_transaction
    with pytest.raises(DecodeError, match="Begin inside"):
        all_of(decoder, stream[:1])


@pytest.mark.parametrize(("kind", "stream"), STREAMS)
def test_a_truncated_message_is_an_error(kind: type, stream: list[tuple[int, bytes]]) -> None:
    for number, (lsn, payload) in enumerate(stream):
        for length in range(len(payload)):
            decoder = kind()
            with contextlib.suppress(DecodeError):
                all_of(decoder, stream[:number])
            with pytest.raises(DecodeError):
                decoder.decode(lsn, payload[:length])


def test_a_commit_whose_position_is_not_its_header_s_is_an_error() -> None:
    for kind, stream in STREAMS:
        decoder = kind()
        all_of(decoder, stream[:-1])
        with pytest.raises(DecodeError, match="not the open transaction's"):
            decoder.decode(0x15465C9, stream[-1][1])


@pytest.mark.parametrize("letter", [b"O", b"Y"])
def test_a_change_taken_for_what_nobody_needs_is_an_error(letter: bytes) -> None:
    for number, (lsn, payload) in enumerate(PGOUTPUT):
        if payload[:1] not in {b"O", b"Y"}:
            decoder = PgOutputDecoder()
            all_of(decoder, PGOUTPUT[:number])
            with pytest.raises(DecodeError):
                decoder.decode(lsn, letter + payload[1:])


WRONG_VALUES = [b'"\xff"', b"[" * 100_000 + b"]" * 100_000, b"1.", b'"\\ud800"', b"nul"]


@pytest.mark.parametrize("value", WRONG_VALUES)
def test_a_value_that_is_no_json_is_an_error_of_wal2json(value: bytes) -> None:
    decoder = Wal2JsonDecoder()
    all_of(decoder, WAL2JSON[:1])
    lsn, payload = WAL2JSON[1]
    with pytest.raises(DecodeError):
        decoder.decode(lsn, payload.replace(b"1.50", value))


@pytest.mark.parametrize("time", ["20x6-11-24 12:12:56.09+00", "2026-11-24 12:12:56.09+01", "2026-11-24 12:12:56.+00"])
def test_a_commit_time_of_another_form_is_an_error(time: str) -> None:
    lsn, payload = WAL2JSON[0]
    with pytest.raises(DecodeError, match="timestamp"):
        Wal2JsonDecoder().decode(lsn, payload.replace(b"2026-11-24 12:12:56.09+00", time.encode()))
