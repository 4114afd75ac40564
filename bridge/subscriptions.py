"""Who wants which change: the rows of realtime.subscription, kept fresh from the stream itself.

They are read once before streaming starts; then the changes to realtime.subscription arrive in commit order and take
effect at their commit, so a subscription committed before a change sees it, and one committed after does not.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bridge.change import DELETE, TRUNCATE, Change, Kind
from bridge.judged import NEVER, Filter, Subscription
from bridge.pools import Bucket, Claims, Group, Pool, Roster
from bridge.sql import Connection
from bridge.values import Codec

SCHEMA, TABLE = "realtime", "subscription"


# A role is tried literally, then unquoted as SQL would read it (SEMANTICS, section 1).
_ROLE = """coalesce((select oid from pg_roles where rolname = {claims} ->> 'role'),
  (select oid from pg_roles where rolname = case when {claims} ->> 'role' like '"%%"'
     then replace(substr({claims} ->> 'role', 2, greatest(length({claims} ->> 'role') - 2, 0)), '""', '"')
     else lower({claims} ->> 'role' collate "C") end), 0::oid)"""

# Through the row as a whole, because Supabase's own table may lack selected_columns or action_filter.
_LOAD = f"""
select s.id, s.subscription_id::text, s.entity::oid, {_ROLE.format(claims="s.claims")}, s.claims::text,
  to_jsonb(s.filters)::text, to_jsonb(s) ->> 'action_filter', (to_jsonb(s) -> 'selected_columns')::text,
  ns.nspname, c.relname
from realtime.subscription s
left join pg_class c on c.oid = s.entity
left join pg_namespace ns on ns.oid = c.relnamespace
where (s.id = any (%(ids)s) or %(ids)s is null) and (s.entity::oid = any (%(entities)s) or %(entities)s is null)
order by s.id
"""

# What the stream tells of a row as text. The row itself, where it still is there, knows the table's OID best.
_READ = f"""
select w.id::bigint, w.subscription_id, coalesce(live.entity::oid, to_regclass(w.entity)::oid, 0::oid),
  {_ROLE.format(claims="w.claims::jsonb")}, w.claims::jsonb::text,
  to_jsonb(w.filters::realtime.user_defined_filter[])::text, w.action, to_jsonb(w.selected::text[])::text,
  ns.nspname, c.relname
from unnest(%(id)s::text[], %(subscription_id)s::text[], %(entity)s::text[], %(filters)s::text[], %(claims)s::text[],
            %(action_filter)s::text[], %(selected_columns)s::text[])
  with ordinality as w (id, subscription_id, entity, filters, claims, action, selected, n)
left join realtime.subscription live on live.id = w.id::bigint
left join pg_class c on c.oid = coalesce(live.entity::oid, to_regclass(w.entity)::oid)
left join pg_namespace ns on ns.oid = c.relnamespace
order by w.n
"""
_STREAMED = ("id", "subscription_id", "entity", "filters", "claims", "action_filter", "selected_columns")


def is_subscription_change(change: Change) -> bool:
    return change.table == TABLE and change.schema == SCHEMA


class Removal(msgspec.Struct, frozen=True):
    """A row that is gone; `id` None: all are (TRUNCATE)."""

    id: int | None


Update = Subscription | Removal
"""A row as it is after a change, or that it is gone."""

_Place = tuple[int, tuple[str, ...] | None, str]
"""Of a pool within its table: role, selected columns, action."""


class _Entry(msgspec.Struct, frozen=True, eq=False):
    """Where a subscription stands."""

    subscription: Subscription
    roster: Roster
    claims: Claims
    pool: Pool
    bucket: Bucket


class Subscriptions:
    """All subscriptions, found by table and action.

    While a batch is judged the transactions in it take effect one after the other: `version` counts them, and what
    ends keeps its place until the next batch begins (`purge`).
    """

    def __init__(self) -> None:
        self.version = 0
        self._clear()
        self._names: dict[tuple[str, str], set[int]] = {}

    def _clear(self) -> None:
        self._by_id: dict[int, _Entry] = {}
        self._pools: dict[int, dict[_Place, Pool]] = {}
        self._rosters: dict[int, Roster] = {}
        self._groups: dict[tuple[int, Kind], tuple[Group, ...]] = {}
        self._ended: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def entities(self) -> Iterable[int]:
        """OIDs of the subscribed tables."""
        return self._pools.keys()

    def tables(self) -> list[tuple[str, str]]:
        """The subscribed tables' names (schema, table), as far as they are known."""
        return sorted(name for name, entities in self._names.items() if entities & self._pools.keys())

    def load(
        self, connection: Connection, only: Mapping[int, str] | None = None, entities: Sequence[int] | None = None
    ) -> None:
        """Read them all, or `only` those rows (id to subscription id) that are still there, or those of the tables
        `entities` (OIDs). Called when no change is being judged."""
        self._clear()
        asked = {"ids": None if only is None else list(only), "entities": entities}
        for row in connection.execute(_LOAD, asked).fetchall():
            if only is None or only.get(row[0]) == row[1]:
                self._put(self._read_row(row))

    def learn_name(self, schema: str, table: str, entity: int) -> None:
        """Remember that the subscriptions of `entity` are to hear of changes to a table by this name."""
        self._names.setdefault((schema, table), set()).add(entity)

    def known_as(self, schema: str, table: str, kind: Kind) -> tuple[int, ...]:
        """The tables with subscriptions to this action that knew a table by this name, for one that is gone."""
        return tuple(sorted(each for each in self._names.get((schema, table), ()) if self.groups(each, kind)))

    def groups(self, entity: int, kind: Kind) -> tuple[Group, ...]:
        """The subscriptions for a table and an action, by role and selected columns."""
        known = self._groups.get((entity, kind))
        if known is None:
            pools = self._pools.get(entity, {})
            wanted = {place: pool for place, pool in pools.items() if place[2] in {"*", kind}}
            known = self._groups[entity, kind] = self._grouped(wanted)
        return known

    def _grouped(self, wanted: dict[_Place, Pool]) -> tuple[Group, ...]:
        by_role: dict[int, dict[tuple[str, ...] | None, list[Pool]]] = {}
        for (role, selected, _), pool in wanted.items():
            by_role.setdefault(role, {}).setdefault(selected, []).append(pool)
        return tuple(
            Group(
                self._rosters[role],
                tuple(
                    (selected, tuple(selections[selected]))
                    for selected in sorted(selections, key=lambda names: (names is not None, ",".join(names or ())))
                ),
            )
            for role, selections in by_role.items()
        )

    def read(self, connection: Connection, changes: Sequence[Change], codec: Codec) -> list[Update | None]:
        """What each change to realtime.subscription means, if anything; `apply` lets it take effect, at its commit."""
        updates = [_removal(change, codec) for change in changes]
        texts = [_texts(change, codec) for change in changes]
        whole = [each for each in texts if each is not None and each.keys() >= set(_STREAMED)]
        if whole:
            columns = {name: [each[name] for each in whole] for name in _STREAMED}
            rows = iter(connection.execute(_READ, columns).fetchall())
            updates = [
                self._read_row(next(rows)) if each is not None and each.keys() >= set(_STREAMED) else update
                for each, update in zip(texts, updates, strict=True)
            ]
        # Where the stream leaves a column out (an unchanged TOAST value, a table that lacks it), the row itself tells.
        partial = [int(each["id"] or 0) for each in texts if each is not None and each.keys() < set(_STREAMED)]
        if partial:
            found = {
                row[0]: self._read_row(row)
                for row in connection.execute(_LOAD, {"ids": partial, "entities": None}).fetchall()
            }
            updates = [
                found.get(int(each["id"] or 0)) if each is not None and each.keys() < set(_STREAMED) else update
                for each, update in zip(texts, updates, strict=True)
            ]
        for change, update in zip(changes, updates, strict=True):
            if isinstance(update, Subscription) and (former := _old_id(change, codec)) not in {None, update.id}:
                update.former_id = former
        return updates

    def _read_row(self, row: tuple[Any, ...]) -> Subscription:
        if row[8] is not None:
            self.learn_name(row[8], row[9], row[2])
        return _subscription(row)

    def apply(self, updates: Iterable[Update]) -> None:
        """Let the changes of one transaction take effect."""
        self.version += 1
        for update in updates:
            if isinstance(update, Subscription):
                self._end(update.id)
                if update.former_id is not None:
                    self._end(update.former_id)
                self._put(update)
            elif update.id is not None:
                self._end(update.id)
            else:
                for identifier in list(self._by_id):
                    self._end(identifier)

    def purge(self) -> None:
        """Forget what has ended. Called when no change of an earlier version is left to be decided."""
        for entry in self._ended:
            self._take_out(entry)
        self._ended.clear()
        for roster in self._rosters.values():
            roster.compact()

    def _put(self, subscription: Subscription) -> None:
        # One of its own: what was read once may take effect more than once.
        subscription = msgspec.structs.replace(subscription, since=self.version, until=NEVER)
        place = (subscription.role, subscription.selected, subscription.action)
        pools = self._pools.setdefault(subscription.entity, {})
        roster = self._rosters.setdefault(subscription.role, Roster(subscription.role))
        pool = pools.get(place)
        if pool is None:
            pool = pools[place] = Pool()
            self._forget_groups(subscription.entity)
        claims = roster.enter(subscription.claims)
        bucket = pool.add(claims, subscription)
        self._by_id[subscription.id] = _Entry(subscription, roster, claims, pool, bucket)

    def _end(self, identifier: int) -> None:
        entry = self._by_id.pop(identifier, None)
        if entry is not None:
            entry.subscription.until = self.version
            entry.bucket.touch(self.version)
            self._ended.append(entry)

    def _take_out(self, entry: _Entry) -> None:
        subscription = entry.subscription
        entry.pool.remove(entry.bucket, entry.claims, subscription)
        entry.roster.leave(entry.claims)
        if not entry.pool:
            pools = self._pools[subscription.entity]
            del pools[subscription.role, subscription.selected, subscription.action]
            if not pools:
                del self._pools[subscription.entity]
            self._forget_groups(subscription.entity)

    def _forget_groups(self, entity: int) -> None:
        for kind in ("INSERT", "UPDATE", "DELETE"):
            self._groups.pop((entity, kind), None)


def _texts(change: Change, codec: Codec) -> dict[str, str | None] | None:
    """The new row's columns that matter, as text; None: there is no new row."""
    if change.new is None:
        return None
    shape = change.new.shape
    return {
        name: None if raw is None else codec.text(raw, type_oid)
        for name, type_oid, raw in zip(shape.names, shape.types, change.new.values, strict=True)
        if name in _STREAMED
    }


def _removal(change: Change, codec: Codec) -> Update | None:
    if change.kind == TRUNCATE:
        return Removal(None)
    old_id = _old_id(change, codec) if change.kind == DELETE else None
    return Removal(old_id) if old_id is not None else None


def _old_id(change: Change, codec: Codec) -> int | None:
    """The id of the row before a change, where the stream tells."""
    if change.old is None or "id" not in change.old.shape.names:
        return None
    shape = change.old.shape
    at = shape.names.index("id")
    raw = change.old.values[at]
    return None if raw is None else int(codec.text(raw, shape.types[at]))


def _subscription(row: tuple[Any, ...]) -> Subscription:
    identifier, subscription_id, entity, role, claims, filters, action, selected, _, _ = row
    names = json.loads(str(selected)) if selected is not None else None
    return Subscription(
        id=int(str(identifier)),
        subscription_id=str(subscription_id),
        entity=int(str(entity)),
        role=int(str(role)),
        claims=str(claims),
        filters=tuple(
            Filter(each["column_name"], each["op"], each["value"], bool(each.get("negate")))
            for each in json.loads(str(filters)) or ()
        ),
        action=str(action) if action is not None else "*",
        selected=tuple(sorted(names)) if names else None,
    )
