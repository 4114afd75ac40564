"""The values that travel from the subscriptions on: who wants a change, and who may have it. Pure."""

from collections.abc import Iterable
from typing import Final

import msgspec

from bridge.change import UPDATE, Change, Row
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


NEVER: Final = 1 << 62


class Subscription(msgspec.Struct, eq=False):
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
    since: int = 0
    """The version of the subscriptions from which on it counts."""
    until: int = NEVER
    """And the one from which on it does not any more."""
    former_id: int | None = None
    """The id that the change took from it, if it did."""


class Members:
    """The subscriptions that get an event. Made once for all events of one audience: see `Bucket.everyone`."""

    __slots__ = ("_ids", "_json", "subscriptions")

    def __init__(self, subscriptions: Iterable[Subscription]) -> None:
        self.subscriptions = tuple(subscriptions)
        self._ids: tuple[str, ...] | None = None
        self._json: bytes | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The distinct subscription ids in a stable order."""
        if self._ids is None:
            self._ids = tuple(sorted({each.subscription_id for each in self.subscriptions}))
        return self._ids

    @property
    def json(self) -> bytes:
        """The same as a JSON array."""
        if self._json is None:
            self._json = b'["%s"]' % '","'.join(self.ids).encode()
        return self._json


Cells = dict[str, tuple[bytes | None, int]]
"""By column: the raw value and its type's OID when the row was written."""


class Undecided(msgspec.Struct, frozen=True):
    subscription: Subscription
    reason: str


class Audience(msgspec.Struct, frozen=True, eq=False):
    """One event: who gets it, and how much they may see."""

    rights: Rights
    selected: tuple[str, ...] | None
    members: Members
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
    audiences: list[Audience] = []
    undecided: list[Undecided] = []
    _new: Cells | None = None
    _old: Cells | None = None

    @property
    def new(self) -> Cells:
        """The new row by column; empty for a DELETE."""
        if self._new is None:
            self._new = {} if self.change.new is None else cells(self.change.new)
            if self.is_completed:
                self._new = {**self.old, **self._new}
        return self._new

    @property
    def old(self) -> Cells:
        """The identity columns before the change."""
        if self._old is None:
            self._old = {} if self.change.old is None else cells(self.change.old)
        return self._old

    @property
    def is_completed(self) -> bool:
        """What the stream left out of the new row comes from the old one, which is known as a whole."""
        change = self.change
        return (
            change.kind == UPDATE
            and change.new is not None
            and len(change.new.values) < len(self.table.columns)
            and is_full(change, self.table)
        )


def cells(row: Row) -> Cells:
    return dict(zip(row.shape.names, zip(row.values, row.shape.types, strict=True), strict=True))


def line_of(table: Table, row: Cells, codec: Codec, columns: frozenset[str] | None = None) -> str:
    """The row as the text of a composite value of the table's type, NULL where a column is not carried, or not one of
    `columns`: what nobody reads need not be sent, and rows that differ in it alone are one."""
    texts = []
    for column in table.columns:
        # A domain may refuse NULL.
        if columns is None or column.name in columns or column.type_oid != column.base_oid:
            raw, type_oid = row.get(column.name, (None, 0))
            texts.append(None if raw is None else codec.text(raw, type_oid))
        else:
            texts.append(None)
    return record_literal(texts)


def missing_key(change: Change, table: Table) -> str | None:
    """A key column that an INSERT or UPDATE does not carry: then the change is not this table's. None: it fits."""
    if change.new is None:
        return None
    names = change.new.shape.names
    for name in table.key:
        if name not in names and (change.old is None or name not in change.old.shape.names):
            return name
    return None


def is_full(change: Change, table: Table) -> bool:
    """Whether the old row is the whole row. wal2json does not tell, but its columns and the table's replica identity do."""
    if change.old is None:
        return False
    if change.old_is_full is not None:
        return change.old_is_full
    # Written before the identity was FULL: it is the key that was logged.
    only_key = len(table.columns) > len(table.key) and set(change.old.shape.names) <= set(table.key)
    return table.identity == "f" and not only_key
