"""pgoutput, PostgreSQL's own output plugin: its binary messages. Pure.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html

The values are those of wal2json for the same changes: what an UPDATE's identity columns were is taken from the new
row where the old one is not sent, because then they have not changed.
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from bridge.change import (
    DELETE,
    INSERT,
    TRUNCATE,
    UPDATE,
    Begin,
    Change,
    Commit,
    Kind,
    LogicalMessage,
    Message,
    Row,
    Shape,
    Transaction,
)
from bridge.errors import DecodeError
from bridge.lsn import format_lsn

_BEGIN = struct.Struct("!QqI")  # the commit record's LSN, commit time, xid
_COMMIT = struct.Struct("!BQQq")  # flags, the commit record's LSN, the transaction's end LSN, commit time
_RELATION_TAIL = struct.Struct("!BH")  # replica identity, number of columns
_COLUMN_TAIL = struct.Struct("!Ii")  # type OID, type modifier
_TRUNCATE = struct.Struct("!IB")  # number of relations, options
_MESSAGE = struct.Struct("!BQ")  # flags, LSN
_U16, _U32, _U64 = struct.Struct("!H"), struct.Struct("!I"), struct.Struct("!Q")

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_TUPLES_OF: Final = {"K": False, "O": True}


def start_options(publication: str, server_version: int) -> dict[str, str]:
    """START_REPLICATION's options. `server_version` as libpq gives it: 150020."""
    quoted = '"' + publication.replace('"', '""') + '"'
    options = {"proto_version": "1", "publication_names": quoted}
    if server_version >= 140000:
        options["messages"] = "true"
    return options


class _Relation(msgspec.Struct, frozen=True, eq=False):
    oid: int
    schema: str
    name: str
    shape: Shape
    identity: tuple[int, ...]
    """Positions of the columns of the replica identity."""
    shapes: dict[tuple[int, ...], Shape]
    """Rows that carry some of the columns only, by their positions."""

    def part(self, positions: tuple[int, ...]) -> Shape:
        shape = self.shapes.get(positions)
        if shape is None:
            names, types = self.shape.names, self.shape.types
            shape = self.shapes[positions] = Shape(
                tuple(names[at] for at in positions), tuple(types[at] for at in positions)
            )
        return shape


class PgOutputDecoder:
    """Keeps the open transaction, and the relations as the stream has described them."""

    def __init__(self) -> None:
        self._transaction: Transaction | None = None
        self._relations: dict[int, _Relation] = {}
        self._last_lsn = -1
        self._seq = 0

    @property
    def in_transaction(self) -> bool:
        """A Begin has been decoded, and its Commit not yet."""
        return self._transaction is not None

    def decode(self, lsn: int, payload: bytes) -> Sequence[Message]:
        """The messages at `lsn` (the XLogData header's). Raises DecodeError for what is not understood."""
        try:
            return self._decode(lsn, payload)
        except (struct.error, IndexError, ValueError, OverflowError, _Wrong) as error:
            raise DecodeError(
                f"pgoutput's message at {format_lsn(lsn)} cannot be understood: {error}. What to do:"
                f" report it with the PostgreSQL version; the position is unmoved"
            ) from error

    def _decode(self, lsn: int, payload: bytes) -> Sequence[Message]:
        kind = payload[:1]
        if kind == b"I":
            return (self._insert(lsn, payload),)
        if kind == b"U":
            return (self._update(lsn, payload),)
        if kind == b"D":
            return (self._delete(lsn, payload),)
        if kind == b"B":
            return (self._begin(payload),)
        if kind == b"C":
            return (self._commit(lsn, payload),)
        if kind == b"R":
            self._relation(payload)
            return ()
        if kind == b"T":
            return self._truncate(lsn, payload)
        if kind == b"M":
            return (_logical_message(payload),)
        if kind == b"Y":
            _type(payload)
            return ()
        if kind == b"O":
            _origin(payload)
            return ()
        raise _Wrong(f"unknown message {kind!r}")

    def _begin(self, payload: bytes) -> Begin:
        if self._transaction is not None:
            raise _Wrong("a Begin inside a transaction")
        commit_lsn, microseconds, xid = _whole(_BEGIN, payload)
        self._transaction = Transaction(xid, commit_lsn, iso_timestamp(microseconds))
        self._last_lsn = -1
        return Begin(self._transaction)

    def _commit(self, lsn: int, payload: bytes) -> Commit:
        transaction = self._transaction
        _, commit_lsn, end_lsn, _ = _whole(_COMMIT, payload)
        # What is confirmed comes from here: it must be what the header says, too.
        if transaction is None or transaction.commit_lsn != commit_lsn or end_lsn != lsn:
            raise _Wrong("a Commit that is not the open transaction's")
        self._transaction = None
        return Commit(end_lsn)

    def _relation(self, payload: bytes) -> None:
        (oid,) = _U32.unpack_from(payload, 1)
        schema, at = _text(payload, 5)
        name, at = _text(payload, at)
        _, count = _RELATION_TAIL.unpack_from(payload, at)
        at += _RELATION_TAIL.size
        names, types, identity = [], [], []
        for position in range(count):
            flags = payload[at]
            column, at = _text(payload, at + 1)
            type_oid, _ = _COLUMN_TAIL.unpack_from(payload, at)
            at += _COLUMN_TAIL.size
            names.append(column)
            types.append(type_oid)
            if flags & 1:
                identity.append(position)
        _finished(payload, at)
        if len(set(names)) != count:
            raise _Wrong("a column that comes twice")
        # An empty schema stands for pg_catalog.
        shape = Shape(tuple(names), tuple(types))
        self._relations[oid] = _Relation(oid, schema or "pg_catalog", name, shape, tuple(identity), {})

    def _insert(self, lsn: int, payload: bytes) -> Change:
        relation = self._relation_of(payload)
        if payload[5:6] != b"N":
            raise _Wrong("an Insert without a new row")
        new, at = _tuple(relation, payload, 6)
        _finished(payload, at)
        return self._change(INSERT, relation, lsn, new, None, None, len(payload))

    def _update(self, lsn: int, payload: bytes) -> Change:
        relation, at = self._relation_of(payload), 5
        old, whole = None, False
        mark = payload[at : at + 1].decode("latin-1")
        if mark in _TUPLES_OF:
            whole = _TUPLES_OF[mark]
            old, at = _tuple(relation, payload, at + 1)
            old = old if whole else _identity_of(relation, old)
        if payload[at : at + 1] != b"N":
            raise _Wrong("an Update without a new row")
        new, at = _tuple(relation, payload, at + 1)
        _finished(payload, at)
        if old is None:
            old = _identity_of(relation, new)
        return self._change(UPDATE, relation, lsn, new, old, whole, len(payload))

    def _delete(self, lsn: int, payload: bytes) -> Change:
        relation = self._relation_of(payload)
        mark = payload[5:6].decode("latin-1")
        if mark not in _TUPLES_OF:
            raise _Wrong("a Delete without an old row")
        old, at = _tuple(relation, payload, 6)
        _finished(payload, at)
        whole = _TUPLES_OF[mark]
        return self._change(
            DELETE, relation, lsn, None, old if whole else _identity_of(relation, old), whole, len(payload)
        )

    def _truncate(self, lsn: int, payload: bytes) -> Sequence[Message]:
        count, _ = _TRUNCATE.unpack_from(payload, 1)
        at = 1 + _TRUNCATE.size
        oids = [_U32.unpack_from(payload, at + 4 * number)[0] for number in range(count)]
        _finished(payload, at + 4 * count)
        return [self._change(TRUNCATE, self._known(oid), lsn, None, None, None, len(payload)) for oid in oids]

    def _relation_of(self, payload: bytes) -> _Relation:
        return self._known(_U32.unpack_from(payload, 1)[0])

    def _known(self, oid: int) -> _Relation:
        relation = self._relations.get(oid)
        if relation is None:
            raise _Wrong(f"a change of relation {oid}, which the stream has not described")
        return relation

    def _change(
        self,
        kind: Kind,
        relation: _Relation,
        lsn: int,
        new: Row | None,
        old: Row | None,
        whole: bool | None,
        size: int,
    ) -> Change:
        transaction = self._transaction
        if transaction is None:
            raise _Wrong("a change outside of a transaction")
        if lsn == self._last_lsn:
            self._seq += 1
        else:
            self._last_lsn, self._seq = lsn, 0
        return Change(
            kind, relation.schema, relation.name, relation.oid, lsn, self._seq, transaction, new, old, whole, size
        )


def _tuple(relation: _Relation, payload: bytes, at: int) -> tuple[Row, int]:
    """TupleData: for each column n (NULL), u (unchanged TOAST: left out of the row) or t and its text."""
    (count,) = _U16.unpack_from(payload, at)
    at += 2
    if count != len(relation.shape.names):
        raise _Wrong(f"a row of {count} columns for a relation of {len(relation.shape.names)}")
    values: list[bytes | None] = []
    left_out: list[int] = []
    size, is_ascii, unpack = len(payload), payload.isascii(), _U32.unpack_from
    for position in range(count):
        mark = payload[at]
        at += 1
        if mark == 0x74:  # t
            at += 4
            end = at + unpack(payload, at - 4)[0]
            if end > size:
                raise _Wrong("a value longer than its message")
            value = payload[at:end]
            if not (is_ascii or value.isascii()):
                value.decode()  # the stream's client_encoding is UTF8
            values.append(value)
            at = end
        elif mark == 0x6E:  # n
            values.append(None)
        elif mark == 0x75:  # u
            left_out.append(position)
        else:
            raise _Wrong(f"a value of unknown form {mark:#x}")
    if not left_out:
        return Row(relation.shape, tuple(values)), at
    kept = tuple(position for position in range(count) if position not in left_out)
    return Row(relation.part(kept), tuple(values)), at


def _identity_of(relation: _Relation, row: Row) -> Row:
    """The row's columns of the replica identity."""
    wanted = {relation.shape.names[at] for at in relation.identity}
    carried = [
        (relation.shape.names.index(name), value)
        for name, value in zip(row.shape.names, row.values, strict=True)
        if name in wanted
    ]
    return Row(relation.part(tuple(at for at, _ in carried)), tuple(value for _, value in carried))


def _logical_message(payload: bytes) -> LogicalMessage:
    flags, _ = _MESSAGE.unpack_from(payload, 1)
    prefix, at = _text(payload, 1 + _MESSAGE.size)
    (length,) = _U32.unpack_from(payload, at)
    at += 4
    _finished(payload, at + length)
    return LogicalMessage(prefix, payload[at:], bool(flags & 1))


def _type(payload: bytes) -> None:
    """A Type message: OID, schema, name. Nothing here needs them."""
    _, at = _text(payload, 1 + _U32.size)
    _, at = _text(payload, at)
    _finished(payload, at)


def _origin(payload: bytes) -> None:
    """An Origin message: LSN, name. Nothing here needs them."""
    _, at = _text(payload, 1 + _U64.size)
    _finished(payload, at)


def _text(payload: bytes, at: int) -> tuple[str, int]:
    """A string that ends with a zero byte, and where the next field begins."""
    end = payload.index(b"\0", at)
    return payload[at:end].decode(), end + 1


def _whole(form: struct.Struct, payload: bytes) -> tuple[int, ...]:
    _finished(payload, 1 + form.size)
    return form.unpack_from(payload, 1)


def _finished(payload: bytes, at: int) -> None:
    if at != len(payload):
        raise _Wrong(f"a message of {len(payload)} bytes where {at} were expected")


def iso_timestamp(microseconds: int) -> str:
    """Microseconds since 2000-01-01 UTC → ``2026-11-24T12:12:56.090200Z``."""
    moment = _EPOCH + timedelta(microseconds=microseconds)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class _Wrong(Exception):
    """A message that cannot be."""
