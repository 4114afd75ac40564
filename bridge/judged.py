"""The values that travel from the subscriptions on: who wants a change, and who may have it. Pure."""

import msgspec

from bridge.change import INSERT, UPDATE, Change
from bridge.table import Rights, Table
from bridge.values import Codec, record_literal

BAD_REQUEST = "Error 400: Bad Request, no primary key"
UNAUTHORIZED = "Error 401: Unauthorized"


class Filter(msgspec.Struct, frozen=True):
    """One realtime.user_defined_filter."""

    column: str
    op: str
    value: str | None
    negate: bool = False

    @property
    def plain(self) -> tuple[str, bool]:
        """The operator without its ``not_``, and whether the answer is to be turned round."""
        if self.op.startswith("not_"):
            return self.op[4:], not self.negate
        return self.op, self.negate


class Subscription(msgspec.Struct, frozen=True, eq=False):
    """One row. ``role`` is the OID of the claims' role: 0 where there is none."""

    id: int
    subscription_id: str
    entity: int
    role: int
    claims: str
    """Canonical jsonb text; what policies find in request.jwt.claims."""
    filters: tuple[Filter, ...]
    action: str
    selected: tuple[str, ...] | None


class Group(msgspec.Struct, frozen=True, eq=False):
    """The subscriptions of one table, action and role, by their selected columns (all columns first)."""

    role: int
    selections: tuple[tuple[tuple[str, ...] | None, tuple[Subscription, ...]], ...]


Cells = dict[str, tuple[bytes | None, int]]
"""By column: the raw value and its type's OID when the row was written."""


class Candidate(msgspec.Struct, frozen=True, eq=False):
    """A change as a change of one table that has subscribers: its own, or a partitioned table above it."""

    change: Change
    oid: int
    groups: tuple[Group, ...]
    leaving: tuple[Group, ...] = ()
    """For an UPDATE, with `events: {leave: true}`: those who would hear of a DELETE."""


class Undecided(msgspec.Struct, frozen=True):
    subscription: Subscription
    reason: str


class Audience(msgspec.Struct, frozen=True, eq=False):
    """One event: who gets it, and how much they may see."""

    rights: Rights
    selected: tuple[str, ...] | None
    subscriptions: tuple[Subscription, ...]
    error: str | None = None
    """BAD_REQUEST or UNAUTHORIZED: the event holds no row."""
    old_whole: bool = True
    """False: of the old row the primary key only."""
    leave: bool = False
    """An UPDATE moved the row out of what they may see or filter for: they hear of it as of a DELETE."""


class Judged(msgspec.Struct, eq=False):
    """A change of one table, with its audiences in the order of their events."""

    change: Change
    table: Table
    new: Cells
    """The new row, completed from a full old row where the stream left values out; empty for a DELETE."""
    old: Cells
    audiences: list[Audience]
    undecided: list[Undecided]


def cells(change: Change, table: Table) -> tuple[Cells, Cells]:
    """The new and the old row by column; what the stream left out of the new one comes from a full old one."""
    old: Cells = {}
    new: Cells = {}
    if change.old is not None:
        old = dict(
            zip(change.old.shape.names, zip(change.old.values, change.old.shape.types, strict=True), strict=True)
        )
    if change.new is not None:
        new = dict(
            zip(change.new.shape.names, zip(change.new.values, change.new.shape.types, strict=True), strict=True)
        )
        if change.kind == UPDATE and len(new) < len(table.columns) and is_full(change, table):
            new = {**old, **new}
    return new, old


def line_of(table: Table, row: Cells, codec: Codec) -> str:
    """The row as the text of a composite value of the table's type, NULL where a column is not carried."""
    return record_literal(
        [
            None if (cell := row.get(name)) is None or cell[0] is None else codec.text(cell[0], cell[1])
            for name in table.names
        ]
    )


def missing_key(change: Change, table: Table) -> str | None:
    """A key column that an INSERT or UPDATE does not carry: then the change is not this table's. None: it fits."""
    if change.kind not in {INSERT, UPDATE}:
        return None
    new, old = cells(change, table)
    return next((name for name in table.key if name not in new and name not in old), None)


def is_full(change: Change, table: Table) -> bool:
    """Whether the old row is the whole row. wal2json does not tell, but its columns and the table's replica identity do."""
    if change.old is None:
        return False
    if change.old_is_full is not None:
        return change.old_is_full
    # Written before the identity was FULL: it is the key that was logged.
    only_key = len(table.columns) > len(table.key) and set(change.old.shape.names) <= set(table.key)
    return table.identity == "f" and not only_key
