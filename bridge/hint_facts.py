"""Reads what hints.py needs to know of the things that a table's policies name."""

from bridge.check_row_security import missing_right
from bridge.facts import FIRST_USER_OID
from bridge.hints import HintFacts, Read, UserFunction, seen_in
from bridge.row_security import RoleWay
from bridge.sql import Connection

_FUNCTIONS = """
select distinct n.nspname::text, p.proname::text, p.oid::regprocedure::text, p.provolatile::text, l.lanname::text, p.pronargs
from pg_policy y
join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = y.oid and d.refclassid = 'pg_proc'::regclass
join pg_proc p on p.oid = d.refobjid join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
where y.polrelid = %(table)s and y.polname = any (%(policies)s) and p.oid >= %(first)s
order by 1, 2
"""

_TABLES = """
select n.nspname::text, c.relname::text, c.relkind::text, c.relrowsecurity,
  array(select distinct a.attname::text from pg_index i
        join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
        where i.indrelid = c.oid and i.indisvalid and i.indpred is null)
from unnest(%(schemas)s::text[], %(names)s::text[]) as w (schema, name)
join pg_namespace n on n.nspname = w.schema join pg_class c on c.relnamespace = n.oid and c.relname = w.name
"""

_CLOSED = """
select distinct n.nspname::text
from pg_policy y
join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = y.oid
left join pg_proc o1 on d.refclassid = 'pg_proc'::regclass and o1.oid = d.refobjid
left join pg_class o2 on d.refclassid = 'pg_class'::regclass and o2.oid = d.refobjid
left join pg_type o3 on d.refclassid = 'pg_type'::regclass and o3.oid = d.refobjid
left join pg_operator o4 on d.refclassid = 'pg_operator'::regclass and o4.oid = d.refobjid
left join pg_collation o5 on d.refclassid = 'pg_collation'::regclass and o5.oid = d.refobjid
join pg_namespace n on n.oid = coalesce(o1.pronamespace, o2.relnamespace, o3.typnamespace, o4.oprnamespace, o5.collnamespace)
where y.polrelid = %(table)s and y.polname = any (%(policies)s) and not has_schema_privilege(%(role)s::oid, n.oid, 'USAGE')
order by 1
"""


def read_hint_facts(source: Connection, judging: Connection, found: RoleWay) -> HintFacts:
    """Under an empty search_path."""
    policies = [policy.name for policy in found.rights.policies]
    relations = sorted(seen_in(found.rights.policies).relations)
    parameters = {"table": found.table.oid, "policies": policies, "first": FIRST_USER_OID}
    role = found.role
    functions = source.execute(_FUNCTIONS, parameters).fetchall()
    tables = source.execute(
        _TABLES, {"schemas": [schema for schema, _ in relations], "names": [name for _, name in relations]}
    ).fetchall()
    closed = source.execute(_CLOSED, parameters | {"role": role}).fetchall()
    return HintFacts(
        tuple(UserFunction(*row) for row in functions),
        {
            (schema, name): Read(kind, row_security, frozenset(leading))
            for schema, name, kind, row_security, leading in tables
        },
        tuple(schema for (schema,) in closed),
        missing_right(judging),
    )
