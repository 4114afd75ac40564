"""The hot path's table, and its stream: as wal2json 2.5 and pgoutput wrote it for the benchmark's table, with other numbers."""

import struct

from bridge.table import Column, JsonKind, Rights, Table

Messages = list[tuple[int, bytes]]

OID = 16384
_COLUMNS = (
    ("id", 20, "int8", JsonKind.NUMBER),
    ("account", 2950, "uuid", JsonKind.STRING),
    ("title", 25, "text", JsonKind.STRING),
    ("amount", 1700, "numeric", JsonKind.NUMBER),
    ("quantity", 23, "int4", JsonKind.NUMBER),
    ("active", 16, "bool", JsonKind.BOOL),
    ("created_at", 1184, "timestamptz", JsonKind.TIMESTAMPTZ),
    ("details", 3802, "jsonb", JsonKind.JSONB),
)
TABLE = Table(
    OID,
    "public",
    "item",
    tuple(
        Column(name, number, oid, kind, oid, how, False) for number, (name, oid, kind, how) in enumerate(_COLUMNS, 1)
    ),
    ("id",),
    "d",
    ("id",),
    (),
)
RIGHTS = Rights("postgres", False, False, True, frozenset(TABLE.names), True, ())


def stream(plugin: str, changes: int, per_transaction: int) -> Messages:
    make = {"wal2json": _wal2json, "pgoutput": _pgoutput}[plugin]
    found: Messages = []
    for first in range(0, changes, per_transaction):
        found += make(first, min(first + per_transaction, changes))
    return found


def _wal2json(first: int, last: int) -> Messages:
    commit = 0x1000_0000 + 256 * last
    frame = b'{"action":"%%s","xid":%d,"timestamp":"2026-11-25 15:48:45.366728+00","lsn":"0/%X","nextlsn":"0/%X"}' % (
        726 + first,
        commit,
        commit + 48,
    )
    rows = [
        (
            0x1000_0000 + 256 * n,
            b'{"action":"I","xid":%d,"timestamp":"2026-11-25 15:48:45.366728+00","lsn":"0/%X","schema":"public",'
            b'"table":"item","columns":[{"name":"id","typeoid":20,"value":%d},{"name":"account","typeoid":2950,"value":'
            b'"81dc9bdb-52d0-4dc2-0036-dbd8313ed055"},{"name":"title","typeoid":25,"value":"Item number %d"},'
            b'{"name":"amount","typeoid":1700,"value":1246.34},{"name":"quantity","typeoid":23,"value":34},'
            b'{"name":"active","typeoid":16,"value":true},{"name":"created_at","typeoid":1184,'
            b'"value":"2026-11-25 15:48:45.361889+00"},{"name":"details","typeoid":3802,'
            b'"value":"{\\"size\\": 34, \\"colour\\": \\"blue\\"}"}]}' % (726 + first, 0x1000_0000 + 256 * n, n, n),
        )
        for n in range(first, last)
    ]
    return [(rows[0][0], frame % b"B"), *rows, (commit + 48, frame % b"C")]


def _pgoutput(first: int, last: int) -> Messages:
    commit = 0x1000_0000 + 256 * last
    at = 848_837_576_090_000
    relation = b"R" + struct.pack("!I", OID) + b"public\0item\0d" + struct.pack("!H", len(_COLUMNS))
    for name, oid, *_ in _COLUMNS:
        relation += bytes([name == "id"]) + name.encode() + b"\0" + struct.pack("!Ii", oid, -1)
    rows = [
        (
            0x1000_0000 + 256 * n,
            b"I"
            + struct.pack("!IcH", OID, b"N", len(_COLUMNS))
            + b"".join(
                b"t" + struct.pack("!I", len(value)) + value
                for value in (
                    b"%d" % n,
                    b"81dc9bdb-52d0-4dc2-0036-dbd8313ed055",
                    b"Item number %d" % n,
                    b"1246.34",
                    b"34",
                    b"t",
                    b"2026-11-25 15:48:45.361889+00",
                    b'{"size": 34, "colour": "blue"}',
                )
            ),
        )
        for n in range(first, last)
    ]
    begin = b"B" + struct.pack("!QqI", commit, at, 726 + first)
    end = b"C" + struct.pack("!BQQq", 0, commit, commit + 48, at)
    described = [(0, relation)] if first == 0 else []
    return [(rows[0][0], begin), *described, *rows, (commit + 48, end)]
