"""SQL expressions as PostgreSQL's own parser has them: parsed, walked, printed back. Pure.

A tree is made of protobuf messages; a `Node` is a wrapper whose only field is the message that stands there, so
replacing a sub-expression is setting the wrapper's field. Only the kinds of nodes, and of their fields, in `_FIELDS` are
understood; whatever else an expression has, it is not rewritten.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import postgast
from postgast import pg_query_pb2 as pb

Node = Any
"""A protobuf message: postgast's stubs tell their types, but a walk meets them all."""


class NotUnderstood(Exception):
    """The expression has something that is not known to be safe. The message is for operators."""


_PLACES = {"location", "list_start", "list_end", "rexpr_list_start", "rexpr_list_end", "stmt_location", "stmt_len"}

_FIELDS: dict[str, set[str]] = {
    "A_ArrayExpr": {"elements"},
    # No bsval: a bit string's type says its length, which a column's does not.
    "A_Const": {"ival", "fval", "boolval", "sval", "isnull"},
    "A_Expr": {"kind", "name", "lexpr", "rexpr"},
    "A_Indices": {"is_slice", "lidx", "uidx"},
    "A_Indirection": {"arg", "indirection"},
    "A_Star": set(),
    "Alias": {"aliasname", "colnames"},
    "BoolExpr": {"boolop", "args"},
    "Boolean": {"boolval"},
    "BooleanTest": {"arg", "booltesttype"},
    "CaseExpr": {"arg", "args", "defresult"},
    "CaseWhen": {"expr", "result"},
    "CoalesceExpr": {"args"},
    "CollateClause": {"arg", "collname"},
    "ColumnRef": {"fields"},
    "Float": {"fval"},
    "FuncCall": {
        "funcname", "args", "agg_order", "agg_filter", "agg_star", "agg_distinct", "func_variadic", "funcformat",
    },
    "Integer": {"ival"},
    "JoinExpr": {"jointype", "larg", "rarg", "using_clause", "quals", "alias"},
    "List": {"items"},
    "MinMaxExpr": {"op", "args"},
    "Node": set(),
    "NullTest": {"arg", "nulltesttype"},
    "ParamRef": {"number"},
    "RangeFunction": {"lateral", "ordinality", "functions", "alias"},
    "RangeSubselect": {"lateral", "subquery", "alias"},
    "RangeVar": {"schemaname", "relname", "inh", "relpersistence", "alias"},
    "ResTarget": {"name", "val"},
    "RowExpr": {"args", "row_format"},
    "SQLValueFunction": {"op", "typmod"},
    "SelectStmt": {
        "distinct_clause", "target_list", "from_clause", "where_clause", "group_clause", "having_clause", "sort_clause",
        "limit_offset", "limit_count", "limit_option", "op", "all", "larg", "rarg",
    },
    "SortBy": {"node", "sortby_dir", "sortby_nulls", "use_op"},
    "String": {"sval"},
    "SubLink": {"sub_link_type", "testexpr", "oper_name", "subselect"},
    "TypeCast": {"arg", "type_name"},
    "TypeName": {"names", "typmods", "typemod", "array_bounds"},
}  # fmt: skip
"""What is understood: the kinds of nodes, and the fields that may be set in each."""

Name = tuple[str, ...]
"""As it is written: unqualified, or with its schema."""


class Names(msgspec.Struct, frozen=True):
    """What an expression names, of which the catalog knows more."""

    functions: frozenset[Name]
    operators: frozenset[Name]
    types: frozenset[Name]
    relations: frozenset[Name]


IMPLIED_OPERATORS = frozenset({"=", "<>", "<", "<=", ">", ">="})
"""Those that IN, BETWEEN, CASE, NULLIF, IS DISTINCT FROM, USING, ORDER BY and arrays use without their being seen."""


def parse_expression(text: str) -> Node:
    """The wrapper of the expression's node. Raises NotUnderstood."""
    select = parse_select(f"SELECT {text}")
    target = only_target(select)
    if target is None or target.name:
        raise NotUnderstood("it is not one expression")
    return target.val


def only_target(select: Node) -> Node | None:
    """The one target of a SELECT that has nothing else: no FROM, no WHERE."""
    if set_fields(select) != {"target_list", "limit_option", "op"} or len(select.target_list) != 1:
        return None
    target = inner(select.target_list[0])
    return target if set_fields(target) <= {"name", "val"} else None


def parse_select(text: str) -> Node:
    """The SelectStmt of a text that is one SELECT."""
    try:
        tree = postgast.parse(text)
    except Exception as error:  # a syntax error, or deeper than protobuf goes
        raise NotUnderstood("it cannot be parsed") from error
    if len(tree.stmts) != 1 or kind(tree.stmts[0].stmt) != "SelectStmt":
        raise NotUnderstood("it is not one expression")
    return tree.stmts[0].stmt.select_stmt


def print_expression(node: Node) -> str:
    """The expression's text. Raises NotUnderstood where the text would not be read as this same tree."""
    tree = postgast.parse("SELECT NULL")
    tree.stmts[0].stmt.select_stmt.target_list[0].res_target.val.CopyFrom(node)
    text = _printed(tree)
    start = "SELECT "
    if not text.startswith(start) or not same(parse_expression(text[len(start) :]), node):
        raise NotUnderstood("it is printed as something else")
    return text[len(start) :]


def print_select(node: Node) -> str:
    """A SELECT's text. Raises NotUnderstood where it would not be read as this same tree."""
    tree = postgast.parse("SELECT NULL")
    tree.stmts[0].stmt.CopyFrom(node)
    text = _printed(tree)
    if not same(parse_select(text), inner(node)):
        raise NotUnderstood("it is printed as something else")
    return text


def _printed(tree: Node) -> str:
    try:
        return postgast.deparse(tree)
    except Exception as error:
        raise NotUnderstood("it cannot be printed") from error


def same(one: Node, other: Node) -> bool:
    """Whether two trees differ in nothing but where their nodes stand in the text."""
    return bool(_placeless(one) == _placeless(other))


def _placeless(node: Node) -> Node:
    copy = type(node)()
    copy.CopyFrom(node)
    for each in walk(copy):
        for field, _ in each.ListFields():
            if field.name in _PLACES:
                each.ClearField(field.name)
    return copy


def inner(node: Node) -> Node:
    """What stands in a wrapper."""
    return getattr(node, which) if (which := _which(node)) else node


def _which(node: Node) -> str | None:
    return node.WhichOneof("node") if isinstance(node, pb.Node) else None


def kind(node: Node) -> str:
    """The name of the node's type, seen through its wrapper."""
    return str(type(inner(node)).__name__)


def set_fields(node: Node) -> set[str]:
    return {field.name for field, _ in node.ListFields()} - _PLACES


def children(node: Node) -> Iterator[Node]:
    """The messages right below, wrappers as they are."""
    for field, value in node.ListFields():
        if field.message_type is not None:
            yield from [value] if hasattr(value, "ListFields") else value


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    for child in children(node):
        yield from walk(child)


def check_kinds(expression: Node) -> None:
    """Raises NotUnderstood where it has a kind of node, or a field in one, that is not known to be safe."""
    for node in walk(expression):
        name = type(node).__name__
        known = _FIELDS.get(name)
        if known is None:
            raise NotUnderstood(f"it has {_WORDS.get(name, name)}")
        if isinstance(node, pb.Node):
            continue
        if unknown := sorted(set_fields(node) - known):
            raise NotUnderstood(f"it has {_WORDS.get(unknown[0], f'{unknown[0]} in {name}')}")


_WORDS = {
    "GroupingFunc": "GROUPING",
    "GroupingSet": "grouping sets",
    "NamedArgExpr": "a named argument",
    "RangeTableSample": "TABLESAMPLE",
    "WithClause": "WITH",
    "agg_within_group": "an ordered-set aggregate",
    "coldeflist": "a function with a column definition list",
    "is_natural": "a natural join",
    "is_rowsfrom": "ROWS FROM",
    "locking_clause": "FOR UPDATE or FOR SHARE",
    "over": "a window function",
    "values_lists": "VALUES",
    "with_clause": "WITH",
}
"""SQL's words for what has others in the parser."""


def name_of(parts: Any) -> Name:
    """A qualified name from its parts."""
    return tuple(part.string.sval for part in parts)


def operators_of(node: Node) -> list[Name]:
    """The operators that an A_Expr, SubLink or SortBy names; words such as BETWEEN stand for the implied ones."""
    field = {"A_Expr": "name", "SubLink": "oper_name", "SortBy": "use_op"}.get(type(node).__name__)
    name = name_of(getattr(node, field)) if field else ()
    return [name] if name and not name[-1].isupper() else []


def type_of(node: Node) -> Name:
    """A TypeName's name; that of an array type's elements."""
    return name_of(node.names)


def names_of(expression: Node) -> Names:
    functions, types, relations = set(), set(), set()
    operators: set[Name] = {(name,) for name in IMPLIED_OPERATORS}
    for node in walk(expression):
        match type(node).__name__:
            case "FuncCall":
                functions.add(name_of(node.funcname))
            case "TypeName":
                types.add(type_of(node))
            case "RangeVar":
                relations.add((node.schemaname, node.relname))
            case "A_Expr" | "SubLink" | "SortBy":
                operators.update(operators_of(node))
    return Names(frozenset(functions), frozenset(operators), frozenset(types), frozenset(relations))
