"""What would make a table's row security faster, from what its policies name. Pure; hint_facts.py reads the facts."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec
from postgast import pg_query_pb2 as pb
from psycopg import sql

from bridge.expressions import Name, Node, NotUnderstood, children, inner, kind, name_of, parse_expression, walk
from bridge.purity import scalar
from bridge.table import Policy, Rights


class UserFunction(msgspec.Struct, frozen=True):
    """A function of a user's that a policy depends on."""

    schema: str
    name: str
    signature: str
    """As ALTER FUNCTION takes it."""
    volatility: str
    language: str
    arguments: int


class Read(msgspec.Struct, frozen=True):
    """A table that a policy's sub-selects read."""

    kind: str
    """pg_class.relkind"""
    row_security: bool
    leading: frozenset[str]
    """The first columns of its indexes."""


class HintFacts(msgspec.Struct, frozen=True):
    functions: tuple[UserFunction, ...]
    tables: Mapping[Name, Read]
    closed: tuple[str, ...] = ()
    """Schemas of what the policies name, which the role may not use."""
    grant_temporary: str | None = None
    """The statement that the judging login lacks; None: it may make temporary tables."""


class Seen(msgspec.Struct):
    """What the policies' texts show."""

    bare: dict[str, set[str]] = {}
    """By policy: calls of the claims alone that are made for each row."""
    of_row: set[Name] = msgspec.field(default_factory=set)
    """Functions that get columns."""
    compared: dict[Name, list[str]] = {}
    """By table of a sub-select: its columns that are compared for equality."""
    relations: set[Name] = msgspec.field(default_factory=set)


_EQUALS: Final = {pb.AEXPR_OP, pb.AEXPR_OP_ANY, pb.AEXPR_IN}


def hints(rights: Rights, reason: str | None, facts: HintFacts) -> list[str]:
    """What to do about policies that are asked for each claims value by itself, for this reason; None: they are joined, and
    what is left makes the join itself faster."""
    seen = seen_in(rights.policies)
    said: list[str] = []
    if reason is not None:
        if facts.grant_temporary is not None:
            said.append(f"the judging login may make no temporary tables: {facts.grant_temporary}")
        said += _of_schemas(rights, facts)
        said += _of_tables(seen, facts)
        said += _of_functions(reason, seen, facts)
        for policy, calls in seen.bare.items():
            said += [
                f'policy "{policy}" may call {call} once for each row: write (select {call})' for call in sorted(calls)
            ]
    said += _of_indexes(seen, facts)
    return said


def _of_schemas(rights: Rights, facts: HintFacts) -> Iterator[str]:
    role = quoted(rights.role)
    for schema in facts.closed:
        yield (
            f"the policies name what is in the schema {schema}, which the role may not use, so only PostgreSQL itself can"
            f" judge, and only the current row: grant usage on schema {quoted(schema)} to {role}"
        )
    if columns := sorted({name for policy in rights.policies for name in policy.system_columns}):
        yield f"the policies read {', '.join(columns)}, which only the current row has: compare a column in its place"


def _of_tables(seen: Seen, facts: HintFacts) -> Iterator[str]:
    for name in sorted(seen.relations & facts.tables.keys()):
        table, called = facts.tables[name], ".".join(name)
        if table.kind in {"v", "m", "f"}:
            word = {"v": "view", "m": "materialized view", "f": "foreign table"}[table.kind]
            yield f"{called} is a {word}, which is not joined: name the tables behind it in the policy"
        elif table.row_security:
            yield (
                f"{called} has row level security of its own, so what it shows depends on who asks. A SECURITY DEFINER"
                f" function around it does not help, for it is called for each row and each claims value. What does: a"
                f" table without row security that the role may SELECT (its columns granted one by one, or a copy of the"
                f" two that are compared, kept by a trigger), or the memberships in the claims themselves:"
                f" room = any (array(select jsonb_array_elements_text(auth.jwt() -> 'rooms')))"
            )


def _of_functions(reason: str, seen: Seen, facts: HintFacts) -> Iterator[str]:
    for each in facts.functions:
        name = (each.schema, each.name)
        own_code = each.language not in {"c", "internal"}
        if each.volatility == "v":
            yield (
                f"{each.signature} is VOLATILE, so it is called for every row and never joined; if it only reads:"
                f" alter function {each.signature} stable"
            )
        if not own_code:
            continue
        if name in seen.of_row:
            yield (
                f"{each.signature} gets the row's columns, so it is called for each row and each claims value: write its"
                f" condition in the policy itself, as in exists (select from … where … = auth.uid())"
            )
        elif each.volatility == "i":
            yield (
                f"{each.signature} is labelled IMMUTABLE; if it reads the claims it is not, and is not joined:"
                f" alter function {each.signature} stable"
            )
        elif each.language != "sql" or f"{each.schema}.{each.name}()" in reason:
            yield (
                f"{each.signature} is joined once it is in SQL, STABLE, and one expression of the claims, such as"
                f" current_setting('request.jwt.claims', true)::jsonb ->> 'sub'; tables belong in the policy itself"
            )


def _of_indexes(seen: Seen, facts: HintFacts) -> Iterator[str]:
    for name, columns in sorted(seen.compared.items()):
        table = facts.tables.get(name)
        if table is not None and table.kind in {"r", "p"} and not table.leading & set(columns):
            listed = ", ".join(map(quoted, columns))
            yield (
                f"{'.'.join(name)} has no index that begins with a column that the policies compare; unless it is small:"
                f" create index on {'.'.join(map(quoted, name))} ({listed})"
            )


def quoted(name: str) -> str:
    """As SQL has it, with quotes only where they are needed."""
    try:
        if re.fullmatch("[a-z_][a-z0-9_]*", name) and kind(parse_expression(name)) == "ColumnRef":
            return name
    except NotUnderstood:  # a word of SQL's own
        pass
    return sql.Identifier(name).as_string()


# -- reading the policies' texts ---------------------------------------------------------------------------------------


def seen_in(policies: Iterable[Policy]) -> Seen:
    seen = Seen()
    for policy in policies:
        try:
            tree = parse_expression(policy.expression)
        except (NotUnderstood, RecursionError):
            continue
        _see_calls(tree, policy.name, seen)
        tables = {
            each.alias.aliasname or each.relname: (each.schemaname, each.relname)
            for each in walk(tree)
            if kind(each) == "RangeVar" and not isinstance(each, pb.Node)
        }
        seen.relations.update(tables.values())
        for each in walk(tree):
            _see_compared(each, tables, seen)
    return seen


def _see_calls(node: Node, policy: str, seen: Seen) -> None:
    found = inner(node)
    if kind(found) == "SubLink" and scalar(found) is not None:
        return
    if kind(found) == "FuncCall" and not isinstance(found, pb.Node):
        name = name_of(found.funcname)
        if any(kind(each) == "ColumnRef" for argument in found.args for each in walk(argument)):
            seen.of_row.add(name)
        elif name[-1] == "current_setting":
            seen.bare.setdefault(policy, set()).add("current_setting('request.jwt.claims', true)")
        elif not found.args and len(name) > 1 and name[0] != "pg_catalog":
            seen.bare.setdefault(policy, set()).add(f"{'.'.join(name)}()")
    for child in children(found):
        _see_calls(child, policy, seen)


def _see_compared(node: Node, tables: Mapping[str, Name], seen: Seen) -> None:
    if isinstance(node, pb.Node):
        return
    sides: list[Node] = []
    if kind(node) == "A_Expr" and node.kind in _EQUALS and name_of(node.name)[-1] == "=":
        sides = [node.lexpr, node.rexpr]
    elif kind(node) == "SubLink" and node.sub_link_type == pb.ANY_SUBLINK and kind(node.subselect) == "SelectStmt":
        sides = [inner(each).val for each in inner(node.subselect).target_list]
    for side in sides:
        column = inner(side)
        if kind(column) != "ColumnRef" or len(column.fields) != 2 or kind(column.fields[1]) != "String":
            continue
        table, name = name_of(column.fields)
        if table in tables:
            columns = seen.compared.setdefault(tables[table], [])
            if name not in columns:
                columns.append(name)
