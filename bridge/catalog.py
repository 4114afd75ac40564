"""What the catalog says now of the tables in a batch: names, columns, keys, rights, policies.

Nothing here is trusted from an earlier batch but a table's description, and that only as long as the catalog rows it
was made from are the same versions (`version` below). Rights and policies are read anew for each batch: a revoked
right must not leak one event more (SEMANTICS, section 5).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bridge.catalog_transaction import CatalogTransaction, Parameters
from bridge.snapshot import Snapshot
from bridge.sql import Connection
from bridge.table import Column, JsonKind, Policy, Rights, Table

Name = tuple[str, str, int | None]
"""(schema, table, OID where the plugin tells it)"""

_VERSION = """
  md5(concat_ws(' ', c.xmin, c.ctid, s.xmin, s.ctid,
    (select string_agg(concat_ws(' ', a.xmin, a.ctid, t.xmin, t.ctid), ',' order by a.attnum)
       from pg_attribute a join pg_type t on t.oid = a.atttypid where a.attrelid = c.oid and a.attnum > 0),
    (select string_agg(concat_ws(' ', i.xmin, i.ctid), ',' order by i.indexrelid) from pg_index i where i.indrelid = c.oid),
    (select concat_ws(' ', h.xmin, h.ctid) from pg_inherits h where h.inhrelid = c.oid limit 1)))
"""

# One row per name asked for; oid is null where no such table is there.
_LOOK_UP = f"""
select w.n, c.oid, c.version, c.ancestors
from unnest(%(schemas)s::text[], %(tables)s::text[], %(oids)s::oid[]) with ordinality as w (schema, name, oid, n)
left join lateral (
  select c.oid, {_VERSION} as version,
    array(select p.relid::oid from pg_partition_ancestors(c.oid) with ordinality as p (relid, n)
          where p.relid <> c.oid order by p.n) as ancestors
  from pg_class c join pg_namespace s on s.oid = c.relnamespace
  where s.nspname = w.schema and c.relname = w.name and c.relkind in ('r', 'p') and c.oid = coalesce(w.oid, c.oid)
) as c on true
order by w.n
"""

_VERSIONS = f"""
select c.oid, {_VERSION}
from pg_class c join pg_namespace s on s.oid = c.relnamespace
where c.oid = any (%(oids)s::oid[])
"""

# A new name or schema is its row type's as well, in the same transaction; so is a new owner, which cannot be told apart.
_NAMED = """
select c.oid, t.xmin::text::bigint from pg_class c join pg_type t on t.oid = c.reltype where c.oid = any (%(oids)s::oid[])
"""

# The type under domains, and PostgreSQL's json_categorize_type of it.
_COLUMNS = """
with recursive base (attnum, oid) as (
    select a.attnum, a.atttypid from pg_attribute a where a.attrelid = %(oid)s and a.attnum > 0 and not a.attisdropped
  union all
    select b.attnum, t.typbasetype from base b join pg_type t on t.oid = b.oid where t.typtype = 'd')
select a.attname, a.attnum, a.atttypid, own.typname, t.oid,
  case
    when t.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'float4'::regtype, 'float8'::regtype,
                   'numeric'::regtype) then 'number'
    when t.oid = 'bool'::regtype then 'bool'
    when t.oid = 'date'::regtype then 'date'
    when t.oid = 'timestamp'::regtype then 'timestamp'
    when t.oid = 'timestamptz'::regtype then 'timestamptz'
    when t.oid = 'jsonb'::regtype then 'jsonb'
    when t.oid = 'json'::regtype or t.typtype = 'c' then 'ask'
    when t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc then 'ask'
    when exists (select from pg_cast k where k.castsource = t.oid and k.casttarget = 'json'::regtype
                 and k.castmethod = 'f') then 'ask'
    else 'string'
  end,
  a.attlen = -1, a.attgenerated <> '',
  format('%%I.%%I', ts.nspname, t.typname),
  case when a.attcollation <> 0 then format('%%I.%%I', ls.nspname, l.collname) end,
  coalesce(l.collisdeterministic, true)
from base b
join pg_type t on t.oid = b.oid and t.typtype <> 'd'
join pg_namespace ts on ts.oid = t.typnamespace
join pg_attribute a on a.attrelid = %(oid)s and a.attnum = b.attnum
join pg_type own on own.oid = a.atttypid
left join pg_collation l on l.oid = a.attcollation
left join pg_namespace ls on ls.oid = l.collnamespace
order by a.attnum
"""

_TABLE = """
select s.nspname, c.relname, c.relreplident, c.relkind = 'p',
  array(select p.relid::oid from pg_partition_ancestors(c.oid) with ordinality as p (relid, n)
        where p.relid <> c.oid order by p.n),
  (select array_agg(a.attname::text order by k.n)
     from unnest(i.indkey::int2[]) with ordinality as k (attnum, n)
     join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum where k.n <= i.indnkeyatts),
  (select array_agg(format('OPERATOR(%%I.%%s)', os.nspname, o.oprname) order by k.n)
     from unnest(i.indclass::oid[]) with ordinality as k (opclass, n)
     join pg_opclass oc on oc.oid = k.opclass
     join pg_amop am on am.amopfamily = oc.opcfamily and am.amoplefttype = oc.opcintype
       and am.amoprighttype = oc.opcintype and am.amopstrategy = 3
     join pg_operator o on o.oid = am.amopopr join pg_namespace os on os.oid = o.oprnamespace),
  (select array_agg(a.attname::text order by k.n)
     from pg_index r cross join unnest(r.indkey::int2[]) with ordinality as k (attnum, n)
     join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
     where r.indrelid = c.oid and r.indisreplident and k.n <= r.indnkeyatts)
from pg_class c
join pg_namespace s on s.oid = c.relnamespace
left join pg_index i on i.indrelid = c.oid and i.indisprimary and i.indimmediate
where c.oid = %(oid)s
"""

# A role is subject to row security as check_enable_rls() has it; a policy applies to it as check_role_for_policy().
_RIGHTS = """
select w.n, r.rolname, c.relrowsecurity, f.subject, has_schema_privilege(r.oid, c.relnamespace, 'USAGE'),
  array(select a.attname::text from pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          and has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT')),
  has_table_privilege(r.oid, c.oid, 'SELECT'),
  case when f.subject then
    (select json_agg(json_build_array(p.polname, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
        array(select a.attname from pg_depend d join pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid
              where d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_class'::regclass
                and d.refobjid = c.oid and d.refobjsubid > 0),
        p.polqual::text ~ ':varattno 0 ',
        array(select a.attname from pg_depend d join pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid
              where d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_class'::regclass
                and d.refobjid = c.oid and d.refobjsubid < 0),
        not exists (select from pg_depend d
                    left join pg_proc o1 on d.refclassid = 'pg_proc'::regclass and o1.oid = d.refobjid
                    left join pg_class o2 on d.refclassid = 'pg_class'::regclass and o2.oid = d.refobjid
                    left join pg_type o3 on d.refclassid = 'pg_type'::regclass and o3.oid = d.refobjid
                    left join pg_operator o4 on d.refclassid = 'pg_operator'::regclass and o4.oid = d.refobjid
                    left join pg_collation o5 on d.refclassid = 'pg_collation'::regclass and o5.oid = d.refobjid
                    where d.classid = 'pg_policy'::regclass and d.objid = p.oid
                      and not has_schema_privilege(r.oid, coalesce(o1.pronamespace, o2.relnamespace, o3.typnamespace,
                                                                   o4.oprnamespace, o5.collnamespace), 'USAGE')))
        order by p.polname)
     from pg_policy p
     where p.polrelid = c.oid and p.polcmd in ('*', 'r') and p.polqual is not null
       and exists (select from unnest(p.polroles) as x (role)
                   where x.role = 0 or pg_has_role(r.oid, x.role, 'USAGE')))
  end
from unnest(%(tables)s::oid[], %(roles)s::oid[]) with ordinality as w (oid, role, n)
join pg_class c on c.oid = w.oid
join pg_roles r on r.oid = w.role
cross join lateral (select c.relrowsecurity and not (r.rolsuper or r.rolbypassrls)
  and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'USAGE')) as subject) as f
"""


class Lookup(msgspec.Struct, frozen=True):
    """What a name in the stream stands for now."""

    oid: int
    ancestors: tuple[int, ...]


SETTINGS = {"search_path": "", "plan_cache_mode": "force_generic_plan", "jit": "off"}
"""What the catalog's session needs besides FIXED_SETTINGS: qualified names in what PostgreSQL prints, and plans made
once, for planning costs more than these queries take."""


class Catalog(CatalogTransaction):
    """Reads the catalog; see CatalogTransaction for when."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._tables: dict[int, tuple[str, Table]] = {}
        self._versions: dict[int, str] = {}
        """Of the tables looked up in this transaction."""

    def begin(self, certain: Mapping[str, Parameters] | None = None) -> Snapshot:
        self._versions.clear()
        return super().begin(certain)

    def open(self, names: Sequence[Name]) -> Snapshot:
        """Begin; `names` will be looked up."""
        return self.begin({_LOOK_UP: _named(names)})

    def look_up(self, names: Sequence[Name]) -> list[Lookup | None]:
        """What each name stands for now; None where no such table is there (renamed, dropped, replaced)."""
        rows = self.ask(_LOOK_UP, **_named(names))
        self._versions.update((oid, version) for _, oid, version, _ in rows if oid)
        return [Lookup(oid, tuple(ancestors)) if oid else None for _, oid, _, ancestors in rows]

    def named(self, oids: Iterable[int]) -> dict[int, int]:
        """The transaction, in 32 bits, by which each table got the name that it has; or the owner, if that was later."""
        return dict(self.ask(_NAMED, oids=sorted(oids)))

    def tables(self, oids: Iterable[int]) -> dict[int, Table]:
        """The tables' descriptions as they stand; what is gone is left out."""
        found: dict[int, Table] = {}
        wanted = set(oids)
        unknown = [oid for oid in wanted if oid not in self._versions]
        if unknown:
            self._versions.update(self.fetch(_VERSIONS, oids=unknown))
        for oid in wanted & self._versions.keys():
            version = self._versions[oid]
            known = self._tables.get(oid)
            if known is None or known[0] != version:
                known = self._tables[oid] = (version, self._describe(oid))
            found[oid] = known[1]
        return found

    def rights(self, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Rights]:
        """What each role may see of each table, by (table OID, role OID); a role that is gone is left out."""
        rows = self.ask(_RIGHTS, tables=[pair[0] for pair in pairs], roles=[pair[1] for pair in pairs])
        return {
            pairs[n - 1]: Rights(
                role,
                enabled,
                subject,
                usage,
                frozenset(columns if usage else ()),
                usage and whole_table,
                tuple(
                    Policy(name, permissive, expression, frozenset(used), whole, frozenset(system), sayable)
                    for name, permissive, expression, used, whole, system, sayable in policies or ()
                ),
            )
            for n, role, enabled, subject, usage, columns, whole_table, policies in rows
        }

    def _describe(self, oid: int) -> Table:
        schema, name, identity, partitioned, ancestors, key, equals, chosen = self.fetch(_TABLE, oid=oid)[0]
        columns = tuple(
            Column(
                name=column,
                number=number,
                type_oid=type_oid,
                type_name=type_name,
                base_oid=base_oid,
                json_kind=JsonKind(kind),
                toastable=toastable,
                generated=generated,
                base_sql=base_sql,
                collation_sql=collation,
                deterministic=deterministic,
            )
            for column, number, type_oid, type_name, base_oid, kind, toastable, generated, base_sql, collation, deterministic in self.fetch(
                _COLUMNS, oid=oid
            )
        )
        whole = tuple(column.name for column in columns)
        by_identity = {"d": tuple(key or ()), "f": whole, "i": tuple(chosen or ()), "n": ()}
        return Table(
            oid,
            schema,
            name,
            columns,
            tuple(key or ()),
            identity,
            by_identity[identity],
            tuple(ancestors),
            partitioned,
            tuple(equals or ()),
        )


def _named(names: Sequence[Name]) -> dict[str, Any]:
    return {
        "schemas": [name[0] for name in names],
        "tables": [name[1] for name in names],
        "oids": [name[2] for name in names],
    }
