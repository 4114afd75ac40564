"""What the plugins' bytes say, read a second time and on their own: strict, plain and slow, to hold the decoders against.

A message becomes a tuple: of its letter and its content. ValueError: it says nothing.
"""

import io
import json
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from bridge.change import Begin, Change, Commit, LogicalMessage, Message, Row
from bridge.errors import DecodeError
from bridge.pgoutput import PgOutputDecoder
from bridge.wal2json import Wal2JsonDecoder

Stream = list[tuple[int, bytes]]
"""(LSN of the header, message)"""
Told = list[tuple[Any, ...]]


def told(messages: list[Message]) -> Told:
    """What a decoder says, in the form of the oracles."""
    return [_told(message) for message in messages]


def _told(message: Message) -> tuple[Any, ...]:
    if isinstance(message, Begin):
        transaction = message.transaction
        return ("B", transaction.xid, transaction.commit_lsn, transaction.committed_at)
    if isinstance(message, Commit):
        return ("C", message.end_lsn)
    if isinstance(message, LogicalMessage):
        return ("M", message.prefix, message.content, message.transactional)
    assert isinstance(message, Change)
    return (message.kind[0], message.schema, message.table, _columns(message.new), _columns(message.old))


def _columns(row: Row | None) -> list[tuple[str, int, bytes | None]] | None:
    return None if row is None else list(zip(row.shape.names, row.shape.types, row.values, strict=True))


def _must(truth: object) -> None:
    if not truth:
        raise ValueError


class _Reader(io.BytesIO):
    def take(self, size: int) -> bytes:
        data = self.read(size)
        _must(len(data) == size)
        return data

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def text(self) -> str:
        data = bytearray()
        while (byte := self.take(1)) != b"\0":
            data += byte
        return data.decode()


class PgOutputOracle:
    """Protocol version 1: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html"""

    def __init__(self) -> None:
        self.relations: dict[int, tuple[str, str, list[tuple[str, int, bool]]]] = {}
        self.open: int | None = None

    def read(self, lsn: int, payload: bytes) -> Told:
        reader = _Reader(payload)
        letter = reader.take(1).decode("latin-1")
        _must(letter in "BCRIUDTMOY")
        found = getattr(self, "_" + letter)(reader, lsn)
        _must(reader.read() == b"")
        if letter == "R":
            oid, *rest = found
            self.relations[oid] = tuple(rest)
            return []
        if letter in "BC":
            self.open = found[0][2] if letter == "B" else None
        return list(found)

    def _B(self, reader: _Reader, _: int) -> Told:
        _must(self.open is None)
        commit_lsn, microseconds, xid = reader.number(8), reader.number(8, signed=True), reader.number(4)
        try:
            moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
        except OverflowError as error:
            raise ValueError from error
        return [("B", xid, commit_lsn, moment.isoformat(timespec="microseconds").replace("+00:00", "Z"))]

    def _C(self, reader: _Reader, lsn: int) -> Told:
        reader.take(1)
        _must(reader.number(8) == self.open)
        end = reader.number(8)
        reader.take(8)
        _must(end == lsn)
        return [("C", end)]

    def _R(self, reader: _Reader, _: int) -> Any:
        oid, schema, table, _identity = reader.number(4), reader.text(), reader.text(), reader.take(1)
        columns = []
        for _each in range(reader.number(2)):
            key = bool(reader.number(1) & 1)
            columns.append((reader.text(), reader.number(4), key))
            reader.take(4)
        _must(len({name for name, _, _ in columns}) == len(columns))
        return oid, schema or "pg_catalog", table, columns

    def _row(self, reader: _Reader, columns: list[tuple[str, int, bool]]) -> list[tuple[str, int, bytes | None, bool]]:
        _must(reader.number(2) == len(columns))
        found: list[tuple[str, int, bytes | None, bool]] = []
        for name, oid, key in columns:
            form = reader.take(1)
            _must(form in {b"n", b"u", b"t"})
            if form == b"t":
                value = reader.take(reader.number(4))
                value.decode()
                found.append((name, oid, value, key))
            elif form == b"n":
                found.append((name, oid, None, key))
        return found

    def _change(self, letter: str, reader: _Reader) -> Told:
        relation = self.relations.get(reader.number(4))
        _must(relation is not None and self.open is not None)
        assert relation is not None
        schema, table, columns = relation
        new = old = None
        mark = reader.take(1)
        if letter != "I" and mark in {b"K", b"O"}:
            row = self._row(reader, columns)
            old = [(name, oid, value) for name, oid, value, key in row if key or mark == b"O"]
            mark = reader.take(1) if letter == "U" else b""
        if letter == "D":
            _must(old is not None)
        else:
            _must(mark == b"N")
            row = self._row(reader, columns)
            new = [(name, oid, value) for name, oid, value, _ in row]
            if letter == "U" and old is None:
                old = [(name, oid, value) for name, oid, value, key in row if key]
        return [(letter, schema, table, new, old)]

    def _I(self, reader: _Reader, _: int) -> Told:
        return self._change("I", reader)

    def _U(self, reader: _Reader, _: int) -> Told:
        return self._change("U", reader)

    def _D(self, reader: _Reader, _: int) -> Told:
        return self._change("D", reader)

    def _T(self, reader: _Reader, _: int) -> Told:
        count = reader.number(4)
        reader.take(1)
        found: Told = []
        for _each in range(count):
            oid = reader.number(4)
            _must(oid in self.relations and self.open is not None)
            found.append(("T", *self.relations[oid][:2], None, None))
        return found

    def _M(self, reader: _Reader, _: int) -> Told:
        flags = reader.number(1)
        reader.take(8)
        prefix = reader.text()
        return [("M", prefix, reader.take(reader.number(4)), bool(flags & 1))]

    def _O(self, reader: _Reader, _: int) -> Told:
        reader.take(8)
        reader.text()
        return []

    def _Y(self, reader: _Reader, _: int) -> Told:
        reader.take(4)
        reader.text(), reader.text()
        return []


class Wal2JsonOracle:
    """Format version 2, by Python's own JSON parser. Numbers keep their digits, text its meaning."""

    def read(self, lsn: int, payload: bytes) -> Told:
        def refuse(name: str) -> None:
            raise ValueError(name)

        found = json.loads(payload.decode(), parse_float=_Digits, parse_int=_Digits, parse_constant=refuse)
        _must(isinstance(found, dict))
        letter = found["action"]
        if letter == "B":
            day, time, fraction = re.fullmatch(
                r"(\d{4,}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d+))?\+00", found["timestamp"], re.ASCII
            ).groups("")  # type: ignore[union-attr]
            return [("B", int(found["xid"]), _lsn(found["lsn"]), f"{day}T{time}.{fraction:0<6}Z")]
        if letter == "C":
            _must(_lsn(found["nextlsn"]) == lsn)
            return [("C", lsn)]
        if letter == "M":
            return [("M", found["prefix"], found["content"].encode(), found["transactional"])]
        _must(letter in "IUDT")
        rows = [
            None
            if found.get(name) is None
            else [(each["name"], int(each["typeoid"]), each["value"]) for each in found[name]]
            for name in ("columns", "identity")
        ]
        return [(letter, found["schema"], found["table"], *rows)]


class _Digits(str):
    """A number as it was written."""

    __slots__ = ()


def _lsn(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def meant(message: Told) -> Told:
    """wal2json's raw values as the oracle has them."""

    def row(columns: list[tuple[str, int, bytes | None]] | None) -> Any:
        if columns is None:
            return None
        return [
            (name, oid, None if raw is None else json.loads(raw, parse_float=_Digits, parse_int=_Digits))
            for name, oid, raw in columns
        ]

    return [each if each[0] in "BCM" else (*each[:3], row(each[3]), row(each[4])) for each in message]


def mutations(payload: bytes, others: list[bytes], random: random.Random, count: int) -> Iterator[bytes]:
    """Bits and bytes changed, pieces cut out, doubled, moved or of another message, lengths made huge."""
    for _ in range(count):
        data = bytearray(payload)
        for _each in range(random.choice((1, 1, 1, 2, 3))):
            start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
            end = min(end, start + random.choice((1, 4, 4, 40)))
            other = random.choice(others)
            piece = random.randrange(len(other))
            at = random.randrange(max(1, len(data)))
            match random.randrange(7):
                case 0 if data:
                    data[at] ^= 1 << random.randrange(8)
                case 1 if data:
                    data[at] = random.randrange(256)
                case 2:
                    del data[start:end]
                case 3:
                    data[start:start] = data[start:end]
                case 4:
                    data[start:end] = other[piece : piece + end - start]
                case 5:
                    data[start:end] = random.choice(
                        (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff")
                    )
                case 6:
                    data[start:] = other[piece:]
        yield bytes(data)


def check_mutations(
    kind: type[Wal2JsonDecoder | PgOutputDecoder], stream: Stream, seed: int, count: int
) -> tuple[int, int]:
    """Mutate each message of a stream `count` times, and read on. How many were refused, how many said something."""
    chance = random.Random(seed)
    others = [payload for _, payload in stream]
    valid = 0
    for number, (lsn, payload) in enumerate(stream):
        for mutated in mutations(payload, others, chance, count):
            decoder, oracle = kind(), PgOutputOracle() if kind is PgOutputDecoder else Wal2JsonOracle()
            for before in stream[:number]:
                decoder.decode(*before)
                oracle.read(*before)
            context = f"seed {seed}: {mutated!r} instead of {payload!r}"
            valid += _agree(decoder, oracle, lsn, mutated, context) and all(
                # What a mutated relation or Begin has left behind shows in what follows.
                _agree(decoder, oracle, *after, context)
                for after in stream[number + 1 : number + 4]
            )
    return count * len(stream) - valid, valid


def _agree(
    decoder: Wal2JsonDecoder | PgOutputDecoder,
    oracle: Wal2JsonOracle | PgOutputOracle,
    lsn: int,
    payload: bytes,
    context: str,
) -> bool:
    """Whether the decoder takes the message. AssertionError: it does not say what the oracle says."""
    try:
        expected: Told | None = oracle.read(lsn, payload)
    except (ValueError, KeyError, TypeError, AttributeError):
        expected = None
    try:
        found = told(list(decoder.decode(lsn, payload)))
    except DecodeError:
        # wal2json's decoder asks for more than JSON does: for one, the types of all fields.
        assert expected is None or isinstance(oracle, Wal2JsonOracle), context
        return False
    except Exception as error:
        raise AssertionError(context) from error
    assert (meant(found) if isinstance(oracle, Wal2JsonOracle) else found) == expected, context
    return True
