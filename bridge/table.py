"""A table as the live catalog describes it now, and what a role may see of it. Plain values; catalog.py reads them."""

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
    base_sql: str = "text"
    """The base type's qualified name without a modifier, ready for a cast: ``pg_catalog.bpchar``."""
    collation_sql: str | None = None
    """The column's collation, quoted and qualified; None where the type has none."""
    deterministic: bool = True
    """Whether equal under the collation means equal bytes."""


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
    partitioned: bool = False
    """Its rows are those of its partitions."""
    key_equals: tuple[str, ...] = ()
    """The equality operator of each key column's index, as ``OPERATOR(schema.=)``."""
    names: tuple[str, ...] = ()
    """Of the columns."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "names", tuple(column.name for column in self.columns))


class Policy(msgspec.Struct, frozen=True):
    """A policy for SELECT that applies to a role."""

    name: str
    permissive: bool
    expression: str
    """pg_get_expr of its USING under an empty search_path."""
    columns: frozenset[str]
    """The table's columns that it reads."""
    whole_row: bool
    """It reads the row as a whole, so every column."""
    system_columns: frozenset[str] = frozenset()
    """Those that it reads: ctid, tableoid, xmin, …, which no change carries."""
    sayable: bool = True
    """The role may use the schema of everything that it names. PostgreSQL runs a stored policy without asking that, but
    nobody may write a query with such names."""


class Rights(msgspec.Struct, frozen=True):
    """What one role may see of one table, as it stands when the change is judged."""

    role: str
    rls_enabled: bool
    """The table's row security flag."""
    subject: bool
    """The flag is set and the role is neither exempt (superuser, BYPASSRLS) nor the owner of an unforced table."""
    usage: bool
    """May use the schema."""
    columns: frozenset[str]
    """May SELECT; empty without usage of the schema."""
    whole_table: bool
    """May SELECT the table as a whole, its system columns with it, not single columns only."""
    policies: tuple[Policy, ...]
    """Those that apply, where the role is subject to row security."""
