"""What would make a table's policies cheaper to ask. Pure, but for `missing_indexes`."""

import re
from collections.abc import Iterator, Sequence

from bridge.expressions import Node, NotUnderstood, inner, kind, name_of, parse_expression, walk
from bridge.sql import Connection
from bridge.table import Policy

Column = tuple[str, str, str]
"""Schema, table, column."""

_PER_ROW = re.compile(r"(?<!SELECT )\b(auth\.(?:uid|jwt|role|email)\(\))")

# By a part of the reason why policies are not joined.
_REMEDIES = (
    (
        "row level security of its own",
        (
            "let policies look things up in a table without row level security, which the roles may select from and which holds"
            " no more than that takes; a function that reads the other one cannot be joined either"
        ),
    ),
    ("a view", "let the policy read the tables behind the view"),
    ("temporary tables", "grant temporary on database … to the judging login (deploy/roles.sql does)"),
    (
        "which may see more than its arguments",
        "write the function's condition into the policy; a function of the claims alone must be in SQL, one expression",
    ),
    ("system columns", "let the policy do without ctid, xmin and the like"),
    ("in a schema that the role may not use", "grant usage on the schema to the role, or move what the policy names"),
)


def hints(policies: Sequence[Policy], reason: str | None) -> list[str]:
    """For policies that are asked for each claims value by itself, for this reason; None: they are joined."""
    if reason is None:
        return []
    found = [remedy for sign, remedy in _REMEDIES if sign in reason]
    calls = {policy.name: call[1] for policy in policies if (call := _PER_ROW.search(policy.expression))}
    return found + [
        f'policy "{name}" may call {call} once for each row: write (select {call})' for name, call in calls.items()
    ]


def missing_indexes(connection: Connection, policies: Sequence[Policy]) -> list[str]:
    """The indexes that sub-selects of the policies could use, and that are not there."""
    by_table: dict[tuple[str, str], set[str]] = {}
    for policy in policies:
        for schema, table, column in compared(policy.expression):
            by_table.setdefault((schema, table), set()).add(column)
    found = []
    for (schema, table), columns in sorted(by_table.items()):
        row = connection.execute(_INDEXED, {"schema": schema, "table": table, "columns": sorted(columns)}).fetchone()
        if row is not None and not row[0]:
            found.append(f"create index on {schema}.{table} ({', '.join(sorted(columns))})")
    return found


# Whether an index of the table begins with one of these columns; no row where there is no such table.
_INDEXED = """
select exists (select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
               where i.indrelid = c.oid and i.indisvalid and a.attname = any (%(columns)s))
from pg_class c join pg_namespace s on s.oid = c.relnamespace
where s.nspname = %(schema)s and c.relname = %(table)s and c.relkind in ('r', 'p')
"""


def compared(expression: str) -> set[Column]:
    """The columns of other tables that the expression's sub-selects test for equality."""
    try:
        tree = parse_expression(expression)
    except NotUnderstood:
        return set()
    return {
        column for node in walk(tree) if kind(node) == "SubLink" for column in _compared(inner(inner(node).subselect))
    }


def _compared(select: Node) -> Iterator[Column]:
    tables = {
        (item.alias.aliasname or item.relname): (item.schemaname, item.relname)
        for item in map(inner, walk(select))
        if kind(item) == "RangeVar"
    }
    for node in walk(select):
        if type(node).__name__ == "A_Expr" and name_of(node.name)[-1:] == ("=",):
            for side in (node.lexpr, node.rexpr):
                found = inner(side)
                if kind(found) == "ColumnRef" and all(kind(field) == "String" for field in found.fields):
                    name = name_of(found.fields)
                    if len(name) == 2 and name[0] in tables:
                        yield (*tables[name[0]], name[1])
