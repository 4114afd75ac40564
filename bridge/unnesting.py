"""``x IN (SELECT y FROM …)`` as ``EXISTS (SELECT … AND x = y)``. Pure.

A sub-select with a key in it depends on the claims, and before PostgreSQL 17 no IN over such a one becomes a join: it would be
run for every row and every claims. An EXISTS does. Where the two may differ, between false and NULL, they do not matter: only
what stands under ANDs and ORs alone is changed, and a condition that is NULL shows nothing either.
"""

from collections.abc import Callable, Iterable, Iterator

from postgast import pg_query_pb2 as pb

from bridge.expressions import Node, NotUnderstood, inner, kind, name_of, set_fields, walk
from bridge.table import Table


def unnest(wrapper: Node, table: Table | None, has_key: Callable[[Node], bool]) -> None:
    """Change the expression in its place, where that is safe and of use.

    `table` at the top, where its columns may be without its name; None in a sub-select, where all have one.
    """
    found = inner(wrapper)
    if kind(found) == "BoolExpr" and found.boolop != pb.NOT_EXPR:
        for each in found.args:
            unnest(each, table, has_key)
        return
    if kind(found) != "SubLink" or kind(found.subselect) != "SelectStmt":
        return
    select = inner(found.subselect)
    if found.sub_link_type == pb.ANY_SUBLINK and has_key(found.subselect):
        equals = _equalities(found, select, table)
        if not equals:
            return
        found.CopyFrom(pb.SubLink(sub_link_type=pb.EXISTS_SUBLINK, subselect=pb.Node(select_stmt=select)))
        select = inner(found.subselect)
        where = [select.where_clause] if select.HasField("where_clause") else []
        if where and kind(where[0]) == "BoolExpr" and inner(where[0]).boolop == pb.AND_EXPR:
            where = list(inner(where[0]).args)
        parts = [*equals, *where]
        joined = parts[0] if len(parts) == 1 else pb.Node(bool_expr=pb.BoolExpr(boolop=pb.AND_EXPR, args=parts))
        select.where_clause.CopyFrom(joined)
    if found.sub_link_type == pb.EXISTS_SUBLINK and select.HasField("where_clause"):
        unnest(select.where_clause, None, has_key)


def pull_up(side: Node, is_wanted: Callable[[Node], bool]) -> tuple[Node | None, list[Node]]:
    """Take those of the expression's ANDed EXISTS out whose sub-selects are wanted: what is left of it (None: nothing), and
    the sub-selects, with which rows are to be joined instead. A pair may then come more than once, and PostgreSQL may
    start from whichever table is best: of an EXISTS over two tables it makes a join only after reading the third."""
    found = inner(side)
    parts = list(found.args) if kind(found) == "BoolExpr" and found.boolop == pb.AND_EXPR else [side]
    pulled = [each for each in parts if _is_plain_exists(each) and is_wanted(each)]
    left = [each for each in parts if not any(each is one for one in pulled)]
    selects = []
    for each in pulled:
        select = pb.Node()
        select.CopyFrom(inner(each).subselect)
        inner(select).ClearField("target_list")
        selects.append(select)
    if len(left) < 2:
        return (left[0] if left else None), selects
    return pb.Node(bool_expr=pb.BoolExpr(boolop=pb.AND_EXPR, args=left)), selects


def _is_plain_exists(node: Node) -> bool:
    found = inner(node)
    if kind(found) != "SubLink" or found.sub_link_type != pb.EXISTS_SUBLINK:
        return False
    plain = {"target_list", "from_clause", "where_clause", "limit_option", "op"}
    return (
        kind(found.subselect) == "SelectStmt"
        and {"from_clause", "where_clause"} <= set_fields(inner(found.subselect)) <= plain
    )


def _equalities(link: Node, select: Node, table: Table | None) -> list[Node]:
    """``x = y`` for each column; none where it is not known to be the same."""
    plain = {"target_list", "from_clause", "where_clause", "limit_option", "op"}
    if name_of(link.oper_name) not in {(), ("=",)} or not select.from_clause or not set_fields(select) <= plain:
        return []
    tested = list(inner(link.testexpr).args) if kind(link.testexpr) == "RowExpr" else [link.testexpr]
    targets = [inner(target).val for target in select.target_list]
    # A function there could give many rows, or be an aggregate.
    if len(tested) != len(targets) or not all(map(_is_column, targets)):
        return []
    hiding = set(aliases(select.from_clause))
    pairs = []
    for each, target in zip(tested, targets, strict=True):
        moved = _qualified(each, table, hiding)
        if moved is None:
            return []
        pairs.append(pb.Node(a_expr=pb.A_Expr(kind=pb.AEXPR_OP, name=[_string("=")], lexpr=moved, rexpr=target)))
    return pairs


def _is_column(node: Node) -> bool:
    """alias.column"""
    found = inner(node)
    return kind(found) == "ColumnRef" and [kind(field) for field in found.fields] == ["String", "String"]


def _qualified(expression: Node, table: Table | None, hiding: set[str]) -> Node | None:
    """The expression as it may stand in the sub-select; None where a name would mean something else there."""
    copy = pb.Node()
    copy.CopyFrom(expression)
    for each in walk(copy):
        match type(each).__name__:
            case "SubLink":
                return None
            case "ColumnRef":
                name = name_of(each.fields) if all(kind(field) == "String" for field in each.fields) else ()
                if len(name) == 1 and table is not None and name[0] in table.names:
                    name = (table.name, *name)
                    each.ClearField("fields")
                    each.fields.extend(_string(part) for part in name)
                if len(name) != 2 or name[0] in hiding:
                    return None
    return copy


def _string(text: str) -> Node:
    return pb.Node(string=pb.String(sval=text))


def aliases(items: Iterable[Node]) -> Iterator[str]:
    """The names of FROM items."""
    for item in items:
        found = inner(item)
        if alias := found.alias.aliasname:
            yield alias
        match kind(found):
            case "JoinExpr":
                yield from aliases([found.larg, found.rarg])
            case "RangeVar" if not alias:
                yield found.relname
            case "RangeFunction" if not alias:
                raise NotUnderstood("it has a function in FROM without a name")
