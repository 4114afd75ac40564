"""A table as the live catalog describes it now. Plain values; catalog.py reads them."""

from enum import Enum

import msgspec


class JsonKind(Enum):
    """How ``to_jsonb`` writes a type's values (PostgreSQL's json_categorize_type, seen through domains)."""

    NUMBER = "number"
    """int2, int4, int8, float4, float8, numeric."""
    BOOL = "bool"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    JSONB = "jsonb"
    STRING = "string"
    """Everything whose JSON is a string of the type's text output: text, uuid, enums, ranges, inet, bytea, …"""
    ASK = "ask"
    """json, arrays, composites and types with a cast to json: PostgreSQL itself makes the JSON."""


class Column(msgspec.Struct, frozen=True):
    name: str
    number: int
    """pg_attribute.attnum, from 1."""
    type_oid: int
    type_name: str
    """pg_type.typname: int4, _int4, bpchar."""
    base_oid: int
    """The type under domains; type_oid where there is none."""
    json_kind: JsonKind
    toastable: bool
    """Whether an UPDATE may leave the value out of the stream (attlen -1)."""
    generated: bool = False


class Table(msgspec.Struct, frozen=True, eq=False):
    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    """Live columns in attnum order."""
    key: tuple[str, ...]
    """Primary key columns in key order; empty where there is none, or only a deferrable one."""
    identity: str
    """pg_class.relreplident: d, n, f or i."""
    identity_columns: tuple[str, ...]
    """The columns of the replica identity: the key's, all, or the chosen index's."""
    ancestors: tuple[int, ...]
    """OIDs of the partitioned tables above, nearest first."""
