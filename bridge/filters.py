"""A subscription's filters: which comparisons Python may decide, and the query for all others.

Both sides are cast to the column's type and compared by that type's default operator class and the column's
collation (SEMANTICS, section 4); a comparison that yields NULL does not pass. Python decides only where it gives the
same answer as PostgreSQL for every value of the type; everything else goes to PostgreSQL, all pairs of a batch in one
query for each column and operator.
"""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from bridge.sql import Connection, is_transient
from bridge.table import Column

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
_STRATEGIES = {"lt": 1, "lte": 2, "eq": 3, "gte": 4, "gt": 5}
_PATTERNS = {"like": "~~", "ilike": "~~*", "match": "~", "imatch": "~*"}

_INTEGERS = {21, 23, 20}
_TEXTS = {25, 1043}
_UUID = 2950
_BOOL = 16
_CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_INTEGER_LIST = re.compile(r"\{(0|-?[1-9][0-9]{0,18})(,(0|-?[1-9][0-9]{0,18}))*\}", re.ASCII)


Test = Callable[[str | None], bool | None]
"""A value's text (None: NULL) → passes; None: NULL, which never passes, turned round or not."""


def python_test(column: Column, op: str, value: str | None) -> Test | None:
    """The comparison as Python may decide it, or None: ask PostgreSQL. `op` is without ``not_``. Pure."""
    if op == "is":
        return _is_test(value)
    if value is None:
        return None
    base = column.base_oid
    if base in _INTEGERS and op in _COMPARISONS and _CANONICAL_INTEGER.fullmatch(value):
        compare, number = _COMPARISONS[op], int(value)
        return lambda text: None if text is None else compare(int(text), number)
    if base in _INTEGERS and op == "in" and _INTEGER_LIST.fullmatch(value):
        numbers = {int(item) for item in value[1:-1].split(",")}
        return lambda text: None if text is None else int(text) in numbers
    if op not in {"eq", "neq"}:
        return None
    wanted = equal_text(column, value)
    if wanted is None:
        return None
    same = op == "eq"
    return lambda text: None if text is None else (text == wanted) is same


def equal_text(column: Column, value: str | None) -> str | None:
    """The text that a value of the column has exactly when it equals `value`; None: only PostgreSQL can tell. Pure."""
    base = column.base_oid
    if value is None:
        return None
    if (
        (base in _INTEGERS and _CANONICAL_INTEGER.fullmatch(value))
        or (base in _TEXTS and column.deterministic)
        or (base == _UUID and _CANONICAL_UUID.fullmatch(value))
    ):
        return value
    return value[0] if base == _BOOL and value in {"t", "f", "true", "false"} else None


def _is_test(value: str | None) -> Test | None:
    """`is`: null, true, false or unknown, in any case; an absent value means null."""
    word = "null" if value is None else value.strip().lower()
    if word in {"null", "unknown"}:
        return lambda text: text is None
    if word in {"not null", "not_null"}:
        return lambda text: text is not None
    if word in {"true", "false"}:
        return lambda text: text == word[0]
    return None


# The operator's name, and the type that both sides are cast to, by the base type of the column. A type without an
# operator class of its own uses that of the type it is binary-coercible to (varchar: text), or of its kind.
_OPERATOR = """
with wanted as (
  select t.oid, t.typtype, t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc as is_array
  from pg_type t where t.oid = %(type)s),
candidates (oid, preference) as (
    select oid, 1 from wanted
  union all
    select k.casttarget, 2 from wanted join pg_cast k on k.castsource = wanted.oid and k.castmethod = 'b'
      and k.castcontext = 'i'
  union all
    select case when is_array then 'anyarray'::regtype when typtype = 'e' then 'anyenum'::regtype
                when typtype = 'r' then 'anyrange'::regtype when typtype = 'm' then 'anymultirange'::regtype
                when typtype = 'c' then 'record'::regtype end, 3 from wanted)
select format('OPERATOR(%%I.%%s)', s.nspname, o.oprname),
  case when c.preference = 2 then (select format('%%I.%%I', ts.nspname, t.typname)
    from pg_type t join pg_namespace ts on ts.oid = t.typnamespace where t.oid = c.oid) end
from candidates c
join pg_opclass oc on oc.opcintype = c.oid and oc.opcdefault
join pg_am m on m.oid = oc.opcmethod
join pg_amop a on a.amopfamily = oc.opcfamily and a.amoplefttype = oc.opcintype and a.amoprighttype = oc.opcintype
  and ((m.amname = 'btree' and a.amopstrategy = %(strategy)s)
    or (m.amname = 'hash' and a.amopstrategy = 1 and %(strategy)s = 3))
join pg_operator o on o.oid = a.amopopr
join pg_namespace s on s.oid = o.oprnamespace
join pg_type ct on ct.oid = c.oid
-- varchar passes for text and for bpchar: the preferred one of its kind is meant.
order by c.preference, ct.typispreferred desc, m.amname limit 1
"""

# like, ilike, match and imatch: the type's own operator (citext has one), else that of the type that it passes for.
_PATTERN_OPERATOR = """
select format('OPERATOR(%%I.%%s)', s.nspname, o.oprname),
  case when o.oprleft <> t.oid then format('%%I.%%I', ls.nspname, l.typname) end,
  format('%%I.%%I', rs.nspname, r.typname)
from pg_type t
join pg_operator o on o.oprname = %(name)s and o.oprresult = 'bool'::regtype
  and (o.oprleft = t.oid or exists (select from pg_cast k where k.castsource = t.oid and k.casttarget = o.oprleft
       and k.castmethod = 'b' and k.castcontext = 'i'))
  and (o.oprright = o.oprleft or o.oprright = 'text'::regtype)
join pg_namespace s on s.oid = o.oprnamespace
join pg_type l on l.oid = o.oprleft join pg_namespace ls on ls.oid = l.typnamespace
join pg_type r on r.oid = o.oprright join pg_namespace rs on rs.oid = r.typnamespace
where t.oid = %(type)s
order by o.oprleft = t.oid desc, l.typispreferred desc, o.oprright = t.oid desc limit 1
"""


class Uncomparable(Exception):
    """PostgreSQL cannot compare: a value that the type refuses, or no such operator. Holds its reason."""


class Comparer:
    """Asks PostgreSQL for what Python may not decide. Used inside the catalog's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def compare(
        self, column: Column, op: str, pairs: Sequence[tuple[str, str | None]]
    ) -> list[bool | None | Uncomparable]:
        """For each (value of the column, filter's value), neither side NULL: passes, NULL, or why it cannot be
        told. `op` is without ``not_`` and not ``is``."""
        try:
            return self._ask(self._query(column, op), pairs)
        except Uncomparable as error:
            return [error] * len(pairs)

    def _ask(self, query: str, pairs: Sequence[tuple[str, str | None]]) -> list[bool | None | Uncomparable]:
        """All at once; where PostgreSQL raises, by halves, so that one bad value spoils no other."""
        values = [pair[0] for pair in pairs]
        wanted = [pair[1] for pair in pairs]
        self._connection.execute("savepoint comparing")
        try:
            rows = self._connection.execute(query, {"values": values, "wanted": wanted}).fetchall()
        except psycopg.Error as error:
            if is_transient(error):
                raise
            self._connection.execute("rollback to savepoint comparing; release savepoint comparing")
            if len(pairs) == 1:
                return [Uncomparable(f"{error.sqlstate}: {error}")]
            half = len(pairs) // 2
            return self._ask(query, pairs[:half]) + self._ask(query, pairs[half:])
        self._connection.execute("release savepoint comparing")
        return [row[0] for row in rows]

    def _query(self, column: Column, op: str) -> str:
        collate = f" collate {column.collation_sql}" if column.collation_sql else ""
        if op in _PATTERNS:
            name, cast, right = self._pattern_operator(column, _PATTERNS[op])
            left = f"(w.v)::{column.base_sql}" + (f"::{cast}" if cast else "")
            return _pairs(f"({left}{collate}) {name} (w.f)::{right}")
        name, cast = self._operator(column, _STRATEGIES.get(op, 3))
        further = f"::{cast}" if cast else ""
        left = f"((w.v)::{column.base_sql}{further}{collate})"
        if op == "in":
            array = f"(w.f)::{column.base_sql}[]" + (f"{further}[]" if cast else "")
            return _pairs(f"{left} {name} any ({array})")
        right = f"(w.f)::{column.base_sql}{further}"
        if op == "neq":
            return _pairs(f"not ({left} {name} {right})")
        if op == "isdistinct":
            return _pairs(f"({left} {name} {right}) is not true")
        if op in _STRATEGIES:
            return _pairs(f"{left} {name} {right}")
        raise Uncomparable(f"unknown operator {op}")

    def _operator(self, column: Column, strategy: int) -> tuple[str, str | None]:
        row = self._connection.execute(_OPERATOR, {"type": column.base_oid, "strategy": strategy}).fetchone()
        if row is None:
            raise Uncomparable(f"type {column.type_name} has no such comparison")
        return row[0], row[1]

    def _pattern_operator(self, column: Column, name: str) -> tuple[str, str | None, str]:
        row = self._connection.execute(_PATTERN_OPERATOR, {"type": column.base_oid, "name": name}).fetchone()
        if row is None:
            raise Uncomparable(f"type {column.type_name} has no operator {name}")
        return row[0], row[1], row[2]


def _pairs(comparison: str) -> str:
    """The query; in the comparison percent signs are as they are, in the names of types and collations."""
    return _PAIRS.format(comparison.replace("%", "%%"))


_PAIRS = "select {} from unnest(%(values)b::text[], %(wanted)b::text[]) with ordinality as w (v, f, n) order by w.n"
