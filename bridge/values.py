"""A value's JSON and its text, from the raw bytes of each plugin. Pure, and the hot path: what can be decided for a
column is decided once, in `json_converter`.

The JSON is what PostgreSQL's `to_jsonb` gives, digit by digit. Where Python cannot be sure to give the same, the
converter says None: ask PostgreSQL (valuemaker.py asks for many at once).
"""

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Protocol

import msgspec

from bridge.change import Change
from bridge.table import Column, JsonKind

Converter = Callable[[bytes], bytes | None]

_BOOL, _BYTEA, _OID, _FLOATS = 16, 17, 26, {700, 701}
_INTEGERS = {20, 21, 23}
_PLAIN = {1082, 2950}
"""date and uuid: their text needs no escapes."""
_QUOTE = 0x22
_encode = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode

# Years of four digits, no BC: the rest is left to PostgreSQL.
_TIMESTAMP = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?")
_TIMESTAMPTZ = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?\+00")
_QUOTED_TIMESTAMPTZ = re.compile(rb'"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?\+00"')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class Codec(Protocol):
    """What a plugin's raw values mean."""

    plugin: str
    """Its name."""

    def json_converter(self, column: Column, type_oid: int) -> Converter | None:
        """How raw values of a column become JSON; None: they are JSON already. The converter gives None for a value
        that PostgreSQL must be asked for: always where the row's type is not the live column's any more."""

    def text(self, raw: bytes, type_oid: int) -> str:
        """The value as PostgreSQL's output function writes it."""


def _ask(_: bytes) -> bytes | None:
    return None


def number_json(text: bytes) -> bytes | None:
    """A number's JSON: numeric's digits, a float's as numeric would print them. NaN and infinities are strings."""
    if text in {b"NaN", b"Infinity", b"-Infinity"}:
        return b'"%s"' % text
    if not _NUMBER.fullmatch(text):
        return None
    if b"e" in text or b"E" in text:
        return format(Decimal(text.decode()), "f").encode()
    if text[0] == 0x2D and not text.strip(b"-0."):  # a float's -0 is numeric's 0
        return text[1:]
    return text


def _timestamp_json(text: bytes) -> bytes | None:
    if _TIMESTAMP.fullmatch(text):
        return b'"%sT%s"' % (text[:10], text[11:])
    return b'"%s"' % text if text in {b"infinity", b"-infinity"} else None


def _timestamptz_json(text: bytes) -> bytes | None:
    if _TIMESTAMPTZ.fullmatch(text):
        return b'"%sT%s:00"' % (text[:10], text[11:])
    return b'"%s"' % text if text in {b"infinity", b"-infinity"} else None


def _quoted(text: bytes) -> bytes:
    return b'"%s"' % text


def _jsonb_json(text: bytes) -> bytes:
    return text


def _string_json(text: bytes) -> bytes:
    return _encode(text.decode())


_BY_KIND: dict[JsonKind, Converter] = {
    JsonKind.NUMBER: number_json,
    JsonKind.BOOL: lambda text: b"true" if text == b"t" else b"false",
    JsonKind.DATE: _string_json,
    JsonKind.TIMESTAMP: _timestamp_json,
    JsonKind.TIMESTAMPTZ: _timestamptz_json,
    JsonKind.JSONB: _jsonb_json,
    JsonKind.STRING: _string_json,
    JsonKind.ASK: _ask,
}


class PgOutputCodec:
    """pgoutput gives the text of each type's output function."""

    plugin = "pgoutput"

    def json_converter(self, column: Column, type_oid: int) -> Converter | None:
        if type_oid != column.type_oid:
            return _ask
        if column.base_oid in _INTEGERS:
            return None
        return _quoted if column.base_oid in _PLAIN else _BY_KIND[column.json_kind]

    def text(self, raw: bytes, type_oid: int) -> str:
        return raw.decode()


class Wal2JsonCodec:
    """wal2json gives JSON: bare numbers and booleans for the plain numeric types, oid and bool, strings of the text
    for all others; bytea as hex without its prefix; NaN and infinities as null."""

    plugin = "wal2json"

    def json_converter(self, column: Column, type_oid: int) -> Converter | None:
        if type_oid != column.type_oid:
            return _ask
        kind = column.json_kind
        domain = type_oid != column.base_oid
        if kind is JsonKind.NUMBER:
            return _float_json if column.base_oid in _FLOATS else _exact_json if domain else None
        if kind is JsonKind.BOOL:
            return _bool_json if domain else None
        if column.base_oid == _BYTEA and type_oid == _BYTEA:
            return lambda raw: b'"\\\\x' + raw[1:]
        if kind in {JsonKind.STRING, JsonKind.DATE}:
            return _quoted_json if column.base_oid == _OID else None
        if kind is JsonKind.ASK:
            return _ask
        if kind is JsonKind.TIMESTAMPTZ:
            return _timestamptz_of_json
        convert = _BY_KIND[kind]
        return lambda raw: convert(_decode_text(raw).encode())

    def text(self, raw: bytes, type_oid: int) -> str:
        if raw[0] == _QUOTE:
            text = _decode_text(raw)
            return "\\x" + text if type_oid == _BYTEA else text
        if type_oid == _BOOL:
            return "t" if raw == b"true" else "f"
        return raw.decode()


def _timestamptz_of_json(raw: bytes) -> bytes | None:
    # Almost all are of this form, which needs no decoding.
    if _QUOTED_TIMESTAMPTZ.fullmatch(raw):
        return b'%sT%s:00"' % (raw[:11], raw[12:-1])
    return _timestamptz_json(_decode_text(raw).encode())


def _exact_json(raw: bytes) -> bytes | None:
    # A domain over a number comes as a string.
    return raw if raw[0] != _QUOTE else number_json(raw[1:-1])


def _float_json(raw: bytes) -> bytes | None:
    return number_json(raw if raw[0] != _QUOTE else raw[1:-1])


def _bool_json(raw: bytes) -> bytes:
    return raw if raw[0] != _QUOTE else _BY_KIND[JsonKind.BOOL](raw[1:-1]) or b"null"


def _quoted_json(raw: bytes) -> bytes:
    # oid comes bare, but to_jsonb makes it a string.
    return raw if raw[0] == _QUOTE else b'"%s"' % raw


PGOUTPUT_CODEC: Codec = PgOutputCodec()
WAL2JSON_CODEC: Codec = Wal2JsonCodec()


def size_text(change: Change, codec: Codec) -> int:
    """The size of a change: the sum of the UTF-8 bytes of its values' text, new and old (SEMANTICS, section 3)."""
    return sum(
        len(codec.text(raw, type_oid).encode())
        for row in (change.new, change.old)
        if row is not None
        for raw, type_oid in zip(row.values, row.shape.types, strict=True)
        if raw is not None
    )


def record_literal(values: Iterable[str | None]) -> str:
    """PostgreSQL's input syntax of a composite value; None: NULL."""
    return "(" + ",".join("" if value is None else _in_quotes(value) for value in values) + ")"


def _in_quotes(value: str) -> str:
    if value.isalnum():
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
