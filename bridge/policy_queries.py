"""The queries of policy_facts.py."""

from bridge.facts import FIRST_USER_OID

# What is in C in PostgreSQL itself has its label there, whatever a user's function that stands for it says.
_VOLATILITY = f"""greatest(p.provolatile::text collate "C", case when p.oid < {FIRST_USER_OID} or p.prolang <> 12 then 'i'
  else coalesce((select max(b.provolatile::text collate "C") from pg_proc b
                 where b.oid < {FIRST_USER_OID} and b.prolang = 12 and b.prosrc = p.prosrc), 'v') end)"""

FUNCTIONS = f"""
select p.oid, s.nspname, p.proname, p.prokind::text, {_VOLATILITY}, l.lanname, p.pronargs, p.pronargdefaults,
  p.provariadic <> 0, p.proretset,
  (select case when t.typnamespace = 'pg_catalog'::regnamespace then t.typname::text else t.oid::text end
     from pg_type t where t.oid = p.prorettype),
  array(select case when t.typnamespace = 'pg_catalog'::regnamespace then t.typname::text else t.oid::text end
     from unnest(p.proargtypes::oid[]) as a (oid) join pg_type t on t.oid = a.oid),
  coalesce(p.proargnames, '{{}}'), coalesce(p.proconfig, '{{}}'),
  case when l.lanname = 'sql' and p.oid >= %(first)s then coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) else '' end
from pg_proc p join pg_namespace s on s.oid = p.pronamespace join pg_language l on l.oid = p.prolang
where p.proname = any (%(names)s::text[])
"""

OPERATORS = f"""
select o.oid, s.nspname, o.oprname, {_VOLATILITY}, l.lanname
from pg_operator o join pg_namespace s on s.oid = o.oprnamespace
join pg_proc p on p.oid = o.oprcode join pg_language l on l.oid = p.prolang
where o.oprname = any (%(names)s::text[])
"""

TYPES = """
select t.oid, s.nspname, t.typname, t.typtype::text
from pg_type t join pg_namespace s on s.oid = t.typnamespace where t.typname = any (%(names)s::text[])
"""

# With the partitions and children, which are read through the table.
RELATIONS = """
select w.schema, w.name, c.relkind::text, c.relrowsecurity, tree.oids,
  exists (select from pg_class x where x.oid = any (tree.oids) and x.relkind = 'f')
from unnest(%(schemas)s::text[], %(names)s::text[]) as w (schema, name)
join pg_namespace s on s.nspname = w.schema
join pg_class c on c.relnamespace = s.oid and c.relname = w.name
cross join lateral (
  with recursive below (oid) as (
    select c.oid union select i.inhrelid from below join pg_inherits i on i.inhparent = below.oid)
  select array_agg(oid) as oids from below) as tree
"""

_FIXED = f"(p.prokind = 'f' and {_VOLATILITY} = 'i' and p.prolang in (12, 13))"
"""As facts.Function.fixed. 12 and 13 are the languages internal and c, whose OIDs PostgreSQL's own catalog data gives."""


# What a user made that a policy depends on; `doubt` says what is wrong with it. A function may run without the policy's text
# showing it, where it is a conversion's, an operator's or an operator class's.
USED = f"""
select y.polrelid, y.polname, d.refclassid::regclass::text, s.nspname, p.proname,
  case when not {_FIXED} and (exists (select from pg_cast k where k.castfunc = p.oid)
      or exists (select from pg_operator o where o.oprcode = p.oid) or exists (select from pg_amproc a where a.amproc = p.oid))
    then format('function %%s.%%s is a conversion''s or an operator''s and may see more than its arguments', s.nspname, p.proname)
  end as doubt, {_FIXED} as fixed
from pg_policy y
join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = y.oid and d.refclassid = 'pg_proc'::regclass
join pg_proc p on p.oid = d.refobjid join pg_namespace s on s.oid = p.pronamespace
where y.polrelid = any (%(tables)s::oid[])
union all
select y.polrelid, y.polname, d.refclassid::regclass::text, s.nspname, o.oprname,
  case when not {_FIXED} then format('the function of operator %%s.%%s may see more than its arguments', s.nspname, o.oprname) end,
  true
from pg_policy y
join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = y.oid and d.refclassid = 'pg_operator'::regclass
join pg_operator o on o.oid = d.refobjid join pg_namespace s on s.oid = o.oprnamespace join pg_proc p on p.oid = o.oprcode
where y.polrelid = any (%(tables)s::oid[])
union all
select y.polrelid, y.polname, d.refclassid::regclass::text, s.nspname, t.typname,
  case when t.typtype not in ('b', 'e') or e.typtype not in ('b', 'e')
    then format('type %%s has others, or checks, in it', format_type(t.oid, null)) end,
  true
from pg_policy y
join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = y.oid and d.refclassid = 'pg_type'::regclass
join pg_type t on t.oid = d.refobjid join pg_namespace s on s.oid = t.typnamespace
left join pg_type e on e.oid = t.typelem
where y.polrelid = any (%(tables)s::oid[])
"""

# Users' functions that PostgreSQL runs on its own account, for no policy names them or depends on them: implicit conversions
# from a built-in type, conversions to json (to_jsonb looks for them), comparisons of a type's own (arrays, GREATEST), ranges.
DOUBTS = f"""
select format('the conversion from %%s to %%s calls a function that may see more than its arguments',
  k.castsource::regtype, k.casttarget::regtype)
from pg_cast k join pg_proc p on p.oid = k.castfunc
where k.oid >= %(first)s and not {_FIXED}
  and (k.casttarget = 'json'::regtype or k.castsource < %(first)s and (k.casttarget < %(first)s or k.castcontext = 'i'))
union all
select format('operator family %%s compares by a function that is not in C', f.opfname)
from pg_amproc a join pg_proc p on p.oid = a.amproc
join pg_opfamily f on f.oid = a.amprocfamily join pg_am m on m.oid = f.opfmethod
where a.oid >= %(first)s and p.prolang not in (12, 13) and m.amname in ('btree', 'hash')
union all
select format('operator family %%s has an operator that is not in C', f.opfname)
from pg_amop a join pg_operator o on o.oid = a.amopopr join pg_proc p on p.oid = o.oprcode
join pg_opfamily f on f.oid = a.amopfamily join pg_am m on m.oid = a.amopmethod
where a.oid >= %(first)s and p.prolang not in (12, 13) and m.amname in ('btree', 'hash')
union all
select format('range type %%s has a canonical function that is not in C', r.rngtypid::regtype)
from pg_range r join pg_proc p on p.oid = r.rngcanonical
where r.rngtypid >= %(first)s and p.prolang not in (12, 13)
"""

# Of all that was looked up by its name, for all tables.
SHARED_VERSION = """
select md5(row(
  (select string_agg(concat_ws(' ', p.oid, p.xmin, p.ctid, s.nspname), ',' order by p.oid)
     from pg_proc p join pg_namespace s on s.oid = p.pronamespace where p.proname = any (%(functions)s::text[])),
  (select string_agg(concat_ws(' ', o.oid, o.xmin, o.ctid, s.nspname, p.xmin, p.ctid), ',' order by o.oid)
     from pg_operator o join pg_namespace s on s.oid = o.oprnamespace join pg_proc p on p.oid = o.oprcode
     where o.oid >= %(first)s and o.oprname = any (%(operators)s::text[])),
  (select string_agg(concat_ws(' ', t.oid, t.xmin, t.ctid, t.typnamespace), ',' order by t.oid)
     from pg_type t where t.typname = any (%(types)s::text[])),
  (select string_agg(concat_ws(' ', k.oid, k.xmin, k.ctid, p.xmin, p.ctid), ',' order by k.oid)
     from pg_cast k left join pg_proc p on p.oid = k.castfunc where k.oid >= %(first)s),
  (select max(oid) from pg_amproc), (select max(oid) from pg_amop), (select max(rngtypid) from pg_range))::text)
"""

VERSIONS = """
select md5(row(
  (select string_agg(concat_ws(' ', y.oid, y.xmin, y.ctid), ',' order by y.oid) from pg_policy y where y.polrelid = w.oid),
  (select string_agg(concat_ws(' ', c.oid, c.xmin, c.ctid), ',' order by c.oid)
     from pg_class c where c.oid = any (w.relations::oid[])),
  (select string_agg(concat_ws(' ', i.inhrelid, i.xmin), ',' order by i.inhrelid)
     from pg_inherits i where i.inhparent = any (w.relations::oid[])))::text)
from unnest(%(tables)s::oid[], %(relations)s::text[]) with ordinality as w (oid, relations, n)
order by w.n
"""
