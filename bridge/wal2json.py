"""wal2json, format version 2: one JSON object for each Begin, change and Commit. Pure.

The values stay as they are (`msgspec.Raw`), so that no digit is lost and nothing is decoded that nobody wants.
"""

import re
from collections.abc import Sequence
from operator import attrgetter
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
from bridge.errors import BridgeError, DecodeError, SourceRefused
from bridge.lsn import format_lsn, parse_lsn
from bridge.patterns import SUBSCRIPTION_TABLE, Pattern, parse_pattern

_KINDS: Final[dict[str, Kind]] = {"I": INSERT, "U": UPDATE, "D": DELETE, "T": TRUNCATE}
_NULL = b"null"
_TIMESTAMP = re.compile(r"([0-9]{4,}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,6}))?\+00")


class _Column(msgspec.Struct, gc=False):
    name: str
    typeoid: int
    value: msgspec.Raw


_name_of, _type_of, _value_of = attrgetter("name"), attrgetter("typeoid"), attrgetter("value")


class _Message(msgspec.Struct, gc=False):
    action: str
    xid: int | None = None
    timestamp: str | None = None
    lsn: str | None = None
    nextlsn: str | None = None
    schema: str | None = None
    table: str | None = None
    columns: list[_Column] | None = None
    identity: list[_Column] | None = None
    transactional: bool | None = None
    prefix: str | None = None
    content: str | None = None


_decode = msgspec.json.Decoder(_Message).decode


def start_options(include: Sequence[str], exclude: Sequence[str]) -> dict[str, str]:
    """START_REPLICATION's options. `include` and `exclude` are patterns as in `source.tables`.

    realtime.subscription always comes: it is how the bridge hears of subscriptions.
    """
    options = {
        "format-version": "2",
        "include-transaction": "true",
        "include-timestamp": "true",
        "include-lsn": "true",
        "include-xids": "true",
        "include-types": "false",
        "include-type-oids": "true",
    }
    included = [parse_pattern(text) for text in include]
    if not any(pattern.matches_all for pattern in included):
        options["add-tables"] = _listed([*included, SUBSCRIPTION_TABLE])
    # An exclusion that would take realtime.subscription too is left to the bridge itself.
    excluded = [each for text in exclude if not (each := parse_pattern(text)).matches(*SUBSCRIPTION_TABLE.exact)]
    if excluded:
        options["filter-tables"] = _listed(excluded)
    return options


def encoding_problem(encoding: str) -> BridgeError | None:
    """wal2json writes in the database's own encoding, which the server does not convert for a plugin's messages."""
    if encoding in {"UTF8", "SQL_ASCII"}:  # SQL_ASCII: most hold UTF-8 or plain ASCII; the decoder looks
        return None
    return SourceRefused(
        f"the database's encoding is {encoding}, and wal2json does not write UTF-8 there. What to do: use"
        f" source.plugin: pgoutput, whose text the server converts, and a slot of its own for it"
    )


def _listed(patterns: Sequence[Pattern]) -> str:
    """wal2json's list: a backslash before what would end or split a name."""

    def escaped(name: str | None) -> str:
        if name is None:
            return "*"
        return "".join("\\" + each if each in " ,.\\*" or each in "'\"" else each for each in name)

    return ",".join(f"{escaped(pattern.schema)}.{escaped(pattern.table)}" for pattern in patterns)


class Wal2JsonDecoder:
    """Keeps the open transaction, and the shapes it has seen."""

    def __init__(self) -> None:
        self._transaction: Transaction | None = None
        self._commit_text = ""
        """Its commit LSN as it came."""
        self._last_lsn = -1
        self._seq = 0
        self._shapes: dict[tuple[tuple[str, ...], tuple[int, ...]], Shape] = {}

    @property
    def in_transaction(self) -> bool:
        """A Begin has been decoded, and its Commit not yet."""
        return self._transaction is not None

    def decode(self, lsn: int, payload: bytes) -> Sequence[Message]:
        """The message at `lsn` (the XLogData header's). Raises DecodeError for what is not understood."""
        try:
            message = _decode(payload)
            if not payload.isascii():
                payload.decode()  # msgspec does not look into what it leaves raw
            kind = _KINDS.get(message.action)
            if kind is not None:
                return (self._change(kind, lsn, message, len(payload)),)
            return self._other(lsn, message)
        except UnicodeDecodeError as error:
            raise DecodeError(
                f"wal2json's message at {format_lsn(lsn)} is not UTF-8 ({error}), as a database with the encoding"
                f" SQL_ASCII may hold. The position is unmoved. What to do: leave the table out (source.tables.exclude)"
            ) from error
        except (msgspec.MsgspecError, ValueError, RecursionError, _Wrong) as error:
            raise DecodeError(
                f"wal2json's message at {format_lsn(lsn)} cannot be understood: {error}. What to do: check that the"
                f" slot's plugin is wal2json 2.5 or later; the position is unmoved"
            ) from error

    def _change(self, kind: Kind, lsn: int, message: _Message, size: int) -> Change:
        transaction = self._transaction
        if transaction is None:
            raise _Wrong("a change outside of a transaction")
        if message.schema is None or message.table is None:
            raise _Wrong("a change without a table")
        if lsn == self._last_lsn:
            self._seq += 1
        else:
            self._last_lsn, self._seq = lsn, 0
        columns, identity = message.columns, message.identity
        if (columns is None) is (kind in {INSERT, UPDATE}) or (identity is None) is (kind in {UPDATE, DELETE}):
            raise _Wrong(f"{kind} with the wrong columns")
        return Change(
            kind,
            message.schema,
            message.table,
            None,
            lsn,
            self._seq,
            transaction,
            None if columns is None else self._row(columns),
            None if identity is None else self._row(identity),
            None,
            size,
        )

    def _row(self, columns: list[_Column]) -> Row:
        names, types = tuple(map(_name_of, columns)), tuple(map(_type_of, columns))
        shape = self._shapes.get((names, types))
        if shape is None:
            if len(set(names)) != len(names):
                raise _Wrong("a column that comes twice")
            shape = self._shapes[names, types] = Shape(names, types)
        values: tuple[bytes | None, ...] = tuple(map(bytes, map(_value_of, columns)))
        if _NULL in values:
            values = tuple([None if raw == _NULL else raw for raw in values])
        return Row(shape, values)

    def _other(self, lsn: int, message: _Message) -> Sequence[Message]:
        if message.action == "B":
            if self._transaction is not None:
                raise _Wrong("a Begin inside a transaction")
            if message.xid is None or message.timestamp is None or message.lsn is None:
                raise _Wrong("a Begin without xid, timestamp or lsn")
            transaction = Transaction(message.xid, parse_lsn(message.lsn), iso_timestamp(message.timestamp))
            self._transaction, self._commit_text, self._last_lsn = transaction, message.lsn, -1
            return (Begin(transaction),)
        if message.action == "C":
            if self._transaction is None or message.lsn is None or message.nextlsn is None:
                raise _Wrong("a Commit outside of a transaction, or without lsn or nextlsn")
            # What is confirmed comes from here: it must be what the header says, too.
            if (message.lsn, message.nextlsn) != (self._commit_text, format_lsn(lsn)) and (
                parse_lsn(message.lsn) != self._transaction.commit_lsn or parse_lsn(message.nextlsn) != lsn
            ):
                raise _Wrong("a Commit that is not the open transaction's")
            self._transaction = None
            return (Commit(lsn),)
        if message.action == "M":
            if message.prefix is None or message.content is None or message.transactional is None:
                raise _Wrong("a message without prefix, content or transactional")
            return (LogicalMessage(message.prefix, message.content.encode(), message.transactional),)
        raise _Wrong(f"unknown action {message.action!r}")


def iso_timestamp(text: str) -> str:
    """``2026-11-24 12:12:56.0902+00`` → ``2026-11-24T12:12:56.090200Z``."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError(f"a timestamp that is not in UTC: {text}")
    day, clock, fraction = match.groups("")
    return f"{day}T{clock}.{fraction:0<6}Z"


class _Wrong(Exception):
    """A message that cannot be."""
