"""Who is subscribed, arranged so that a change costs what its matches cost. Pure.

A `Bucket` holds the subscriptions of one table, role, selection, action and list of filters, by their claims; a
`Pool` the buckets of one table, role, selection and action, with an index over equality filters. While a batch is
decided nothing is taken out: each subscription knows the versions between which it counts, so that a change is decided
by those who were subscribed at its place in the stream.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from bridge.change import Change, Kind
from bridge.filters import equal_text
from bridge.judged import Cells, Filter, Members, Subscription
from bridge.table import Column, Table
from bridge.values import Codec

_COMPACT_FROM: Final = 1000


class Claims(msgspec.Struct, eq=False):
    """One claims value of a role, however many subscriptions share it."""

    text: str
    """Canonical jsonb text; what policies find in request.jwt.claims."""
    number: int
    """Its place in the roster."""
    uses: int = 0


class Roster:
    """The distinct claims of one role, numbered. Numbers only grow until the roster is compacted, so that whoever keeps
    something by number needs to look at the new ones only."""

    def __init__(self, role: int) -> None:
        self.role = role
        """OID; 0: a role that does not exist."""
        self.generation = 0
        """Numbers of another generation mean nothing."""
        self.listed: list[Claims] = []
        self._by_text: dict[str, Claims] = {}
        self._used = 0

    def enter(self, text: str) -> Claims:
        claims = self._by_text.get(text)
        if claims is None:
            claims = self._by_text[text] = Claims(text, len(self.listed))
            self.listed.append(claims)
        self._used += not claims.uses
        claims.uses += 1
        return claims

    def claims_of(self, subscription: Subscription) -> Claims:
        return self._by_text[subscription.claims]

    def leave(self, claims: Claims) -> None:
        claims.uses -= 1
        self._used -= not claims.uses

    def compact(self) -> None:
        """Forget claims that nobody uses any more, once they are the most."""
        if len(self.listed) > 2 * self._used + _COMPACT_FROM:
            self.listed = [claims for claims in self.listed if claims.uses]
            self._by_text = {claims.text: claims for claims in self.listed}
            for number, claims in enumerate(self.listed):
                claims.number = number
            self.generation += 1


class Bucket:
    """Subscriptions that differ in their claims only (and in their ids)."""

    __slots__ = ("_everyone", "_everyone_at", "_touched", "by_claims", "filters")

    def __init__(self, filters: tuple[Filter, ...]) -> None:
        self.filters = filters
        self.by_claims: dict[Claims, list[Subscription]] = {}
        self._touched = 0
        """The version of the last change."""
        self._everyone: Members | None = None
        self._everyone_at = 0

    def add(self, claims: Claims, subscription: Subscription) -> None:
        self.by_claims.setdefault(claims, []).append(subscription)
        self._touched = subscription.since

    def touch(self, version: int) -> None:
        """One of its subscriptions ends at this version."""
        self._touched = version

    def remove(self, claims: Claims, subscription: Subscription) -> None:
        """Take out one that ended before this batch."""
        left = self.by_claims[claims]
        left.remove(subscription)
        if not left:
            del self.by_claims[claims]

    def of(self, claims: Claims, version: int) -> list[Subscription]:
        return [each for each in self.by_claims.get(claims, ()) if each.since <= version < each.until]

    def everyone(self, version: int) -> Members:
        """Those who are in it at this version; the same object as long as they are the same."""
        known = self._everyone
        if known is None or (version != self._everyone_at and min(version, self._everyone_at) < self._touched):
            known = self._everyone = Members(
                each
                for subscriptions in self.by_claims.values()
                for each in subscriptions
                if each.since <= version < each.until
            )
        self._everyone_at = version
        return known


class _Index:
    """One pool's filtered buckets by what an equality filter demands, for one description of the table."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._columns = {column.name: column for column in table.columns}
        self.equal: dict[str, tuple[Column, dict[str, dict[tuple[Filter, ...], Bucket]]]] = {}
        """By column and text: buckets that pass only rows which have that value there."""
        self.others: dict[tuple[Filter, ...], Bucket] = {}

    def add(self, bucket: Bucket) -> None:
        self._place(bucket)[bucket.filters] = bucket

    def remove(self, bucket: Bucket) -> None:
        place = self._place(bucket)
        place.pop(bucket.filters, None)
        if not place and place is not self.others:
            column, text = self._demand(bucket.filters) or ("", "")
            del self.equal[column][1][text]

    def _place(self, bucket: Bucket) -> dict[tuple[Filter, ...], Bucket]:
        demand = self._demand(bucket.filters)
        if demand is None:
            return self.others
        name, text = demand
        return self.equal.setdefault(name, (self._columns[name], {}))[1].setdefault(text, {})

    def _demand(self, filters: Iterable[Filter]) -> tuple[str, str] | None:
        """The first filter that is an equality which Python may decide: its column and text."""
        for each in filters:
            column = self._columns.get(each.column)
            if column is not None and each.plain == ("eq", False):
                text = equal_text(column, each.value)
                if text is not None:
                    return each.column, text
        return None


class Pool:
    """The subscriptions of one table, role, selection and action."""

    def __init__(self) -> None:
        self.plain = Bucket(())
        """Those without filters."""
        self.filtered: dict[tuple[Filter, ...], Bucket] = {}
        self._index: _Index | None = None

    def __bool__(self) -> bool:
        return bool(self.plain.by_claims or self.filtered)

    def buckets(self) -> Iterator[Bucket]:
        if self.plain.by_claims:
            yield self.plain
        yield from self.filtered.values()

    def add(self, claims: Claims, subscription: Subscription) -> Bucket:
        bucket = self.plain if not subscription.filters else self.filtered.get(subscription.filters)
        if bucket is None:
            bucket = self.filtered[subscription.filters] = Bucket(subscription.filters)
            if self._index is not None:
                self._index.add(bucket)
        bucket.add(claims, subscription)
        return bucket

    def remove(self, bucket: Bucket, claims: Claims, subscription: Subscription) -> None:
        bucket.remove(claims, subscription)
        if not bucket.by_claims and bucket is not self.plain:
            del self.filtered[bucket.filters]
            if self._index is not None:
                self._index.remove(bucket)

    def may_pass(self, table: Table, row: Cells, visible: frozenset[str], codec: Codec) -> Iterator[Bucket]:
        """The filtered buckets less those that an equality filter rules out: all their filters are still to be
        tested. What the row does not carry, or the role may not SELECT, passes no filter."""
        index = self._index
        if index is None or index.table is not table:
            index = self._index = _Index(table)
            for bucket in self.filtered.values():
                index.add(bucket)
        for name, (column, by_text) in index.equal.items():
            raw, type_oid = row.get(name, (None, 0))
            if raw is None or name not in visible:
                continue
            if type_oid == column.type_oid:
                yield from by_text.get(codec.text(raw, type_oid), {}).values()
            else:  # the column's type has changed since
                for found in by_text.values():
                    yield from found.values()
        yield from index.others.values()


class Group(msgspec.Struct, frozen=True, eq=False):
    """The subscriptions of one table, action and role, by their selected columns (all columns first)."""

    roster: Roster
    selections: tuple[tuple[tuple[str, ...] | None, tuple[Pool, ...]], ...]


class Route(msgspec.Struct, frozen=True, eq=False):
    """Who may want the changes of one kind to a table: one for all such changes with the same subscribers."""

    oid: int
    """Of the table itself, or of a partitioned table above it."""
    kind: Kind
    groups: tuple[Group, ...]
    version: int
    """Of the subscriptions, at the changes' place in the stream."""
    leaving: tuple[Group, ...] = ()
    """For an UPDATE, with `events: {leave: true}`: those who would hear of a DELETE."""


class Candidate(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A change as a change of one table that has subscribers."""

    change: Change
    route: Route
