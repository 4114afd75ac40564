"""Row level security as a join: a table's policies as conditions between its rows and a table of claims. Pure.

One query then decides a batch's rows for all claims at once. Every sub-expression that depends on the claims alone becomes a
column of the claims' table, its *key*, which is evaluated once for each claims; what is left must see nothing but the row, the
database and its arguments, for it runs with nobody's claims. Where that is not proven, the table is not joinable, and the
simple way (rls.py) is right: a row shown to someone who may not see it would be the worst that we can do, a slow answer is not.

Permissive policies, and the sides of their ORs, are branches, each a join of its own: PostgreSQL joins by an equality, but not
by one of two. Errors need no thought here: a query that raises is asked again the simple way.
"""

from collections.abc import Sequence

import msgspec
from postgast import pg_query_pb2 as pb

from bridge.expressions import (
    Names,
    Node,
    NotUnderstood,
    check_kinds,
    children,
    inner,
    kind,
    names_of,
    parse_expression,
    print_expression,
    print_select,
    walk,
)
from bridge.facts import Facts
from bridge.purity import Purity, scalar
from bridge.table import Policy, Table
from bridge.unnesting import aliases, pull_up, unnest

Scopes = tuple[frozenset[str], ...]
"""The names of the FROM items of the sub-selects around an expression, the innermost last."""

CLAIMS = "_walrus_claims"
"""The name of the claims' table in the query."""

OURS = "_walrus_"
"""What the names of ours in the query begin with, and no other name may."""


def key_column(number: int) -> str:
    """The name of the claims' column for a key, counted from 0."""
    return f"_walrus_key_{number}"


class Branch(msgspec.Struct, frozen=True):
    condition: str
    """SQL, its percent signs as they are. The row is the FROM item that carries the table's name; key number i is
    ``_walrus_claims._walrus_key_<i>``."""
    by_row: bool
    """It reads the row."""
    by_claims: bool
    """It reads a key."""
    joins: tuple[str, ...] = ()
    """Sub-selects with which the row and the claims are to be joined as well: an EXISTS of each belongs to the condition.
    They may read both."""

    @property
    def lateral(self) -> str:
        """What follows the row and the claims in FROM."""
        return "".join(f" CROSS JOIN LATERAL ({each}) AS _walrus_join_{n}" for n, each in enumerate(self.joins))


class Joinable(msgspec.Struct, frozen=True):
    keys: tuple[str, ...]
    """SQL expressions that depend on the claims alone; evaluated once for each claims, as the role, with
    request.jwt.claims set. What one gives holds for as long as the policies do."""
    branches: tuple[Branch, ...]
    """A row is shown to claims where any branch's condition is true."""


class NotJoinable(msgspec.Struct, frozen=True):
    reason: str
    """For operators."""


def joinable(policies: Sequence[Policy], table: Table, facts: Facts) -> Joinable | NotJoinable:
    """The policies, all that apply to a role, as a join."""
    if any(OURS in name.lower() for name in (table.schema, table.name, *table.names)):
        return NotJoinable(f"a name of the table has {OURS} in it")
    if facts.doubts:
        return NotJoinable(facts.doubts[0])
    keys, purity = _Keys(), Purity(facts)
    permissive: list[list[Branch]] = []
    restrictive: list[Branch] = []
    for policy in policies:
        try:
            branches = _Rewriter(policy, table, purity, keys).branches()
        except (NotUnderstood, RecursionError) as error:
            reason = str(error) if isinstance(error, NotUnderstood) else "it is too deep"
            return NotJoinable(f'policy "{policy.name}" cannot be joined: {reason}')
        if policy.permissive:
            permissive.append(branches)
        else:
            restrictive += branches
    return Joinable(
        tuple(keys.texts), tuple(_both([branch, *restrictive]) for branches in permissive for branch in branches)
    )


def _both(branches: Sequence[Branch]) -> Branch:
    return Branch(
        " AND ".join(f"({branch.condition})" for branch in branches),
        any(branch.by_row for branch in branches),
        any(branch.by_claims for branch in branches),
        tuple(each for branch in branches for each in branch.joins),
    )


class _Keys:
    """The keys of a table's policies: the same text is the same key."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def column(self, expression: Node) -> Node:
        """The key's column, in place of the expression. ``(SELECT auth.uid())`` is the key ``auth.uid()``."""
        while kind(expression) == "SubLink" and (target := scalar(inner(expression))) is not None:
            expression = target
        text = print_expression(expression)
        if text not in self.texts:
            self.texts.append(text)
        return parse_expression(f"{CLAIMS}.{key_column(self.texts.index(text))}")


class _Rewriter:
    """One policy."""

    def __init__(self, policy: Policy, table: Table, purity: Purity, keys: _Keys) -> None:
        self._policy = policy
        self._table = table
        self._purity = purity
        self._keys = keys
        self._by_row = self._by_claims = False
        """Of the side that is being rewritten."""

    def branches(self) -> list[Branch]:
        """One for each side of an OR in a permissive policy; of a restrictive one, one."""
        if self._policy.system_columns:
            raise NotUnderstood("it reads system columns, which only the current row has")
        if not self._policy.sayable:
            raise NotUnderstood("it names what is in a schema that the role may not use")
        if OURS in self._policy.expression.lower():
            raise NotUnderstood(f"it has {OURS} in it")
        expression = parse_expression(self._policy.expression)
        check_kinds(expression)
        self._check_names(names_of(expression))
        sides = self._sides(expression) if self._policy.permissive else [expression]
        return [self._branch(side) for side in sides]

    def _check_names(self, names: Names) -> None:
        self._purity.check_operators(names.operators)
        for name in names.types:
            self._purity.check_type(name)
        for schema, relation in names.relations:
            found = self._purity.facts.relations.get((schema, relation))
            called = f"{schema}.{relation}" if schema else relation
            if found is None or not schema:
                raise NotUnderstood(f"it reads {called}, which is not a table of a user's")
            if found.kind not in {"r", "p"} or found.foreign:
                raise NotUnderstood(
                    f"it reads {called}, which is {_KINDS.get(found.kind, 'not only a table of its own')}"
                )
            if found.row_security:
                raise NotUnderstood(f"it reads {called}, which has row level security of its own")

    def _sides(self, expression: Node) -> list[Node]:
        found = inner(expression)
        if kind(found) != "BoolExpr" or found.boolop != pb.OR_EXPR or self._purity.key(expression):
            return [expression]
        return [side for each in found.args for side in self._sides(each)]

    def _branch(self, side: Node) -> Branch:
        self._by_row = self._by_claims = False
        unnest(side, self._table, self._has_key)
        self._rewrite(side, ())
        if not (self._by_row and self._by_claims):
            return Branch(print_expression(side), self._by_row, self._by_claims)
        left, selects = pull_up(side, lambda node: any(_is_key(each) for each in walk(node)))
        condition = "true" if left is None else print_expression(left)
        return Branch(condition, True, True, tuple(map(print_select, selects)))

    def _has_key(self, node: Node) -> bool:
        return any(isinstance(each, pb.Node) and self._purity.key(each) for each in walk(node))

    def _rewrite(self, node: Node, scopes: Scopes) -> None:
        """Put keys in their places, in the node and below. Raises NotUnderstood where what is left may see claims."""
        if isinstance(node, pb.Node) and kind(node) != "List" and self._purity.key(node):
            node.CopyFrom(self._keys.column(node))
            self._by_claims = True
            return
        found = inner(node)
        match kind(found):
            case "FuncCall":
                self._rewrite_call(found, scopes)
            case "ParamRef":
                raise NotUnderstood("it has a parameter")
            case "ColumnRef":
                self._by_row = self._by_row or not _is_of(found, scopes)
            case "SelectStmt":
                self._rewrite_below(found, (*scopes, frozenset(aliases(found.from_clause))))
            case "RangeFunction":
                for function in found.functions:
                    call, *_ = inner(function).items
                    if kind(call) != "FuncCall":
                        raise NotUnderstood("it has something else than a function call in FROM")
                    self._rewrite_call(inner(call), scopes)
            case "ResTarget":
                self._rewrite_below(found, scopes)
                # A target without a name is called after its expression.
                if scopes and not found.name and _is_key(found.val):
                    raise NotUnderstood("it has a sub-select with a column that has no name")
            case _:
                self._rewrite_below(found, scopes)

    def _rewrite_below(self, node: Node, scopes: Scopes) -> None:
        for child in children(node):
            self._rewrite(child, scopes)

    def _rewrite_call(self, call: Node, scopes: Scopes) -> None:
        aggregate = self._purity.check_call(call)
        self._rewrite_below(call, scopes)
        if aggregate:
            _check_level(call, scopes)


def _check_level(aggregate: Node, scopes: Scopes) -> None:
    """An aggregate whose arguments name columns of outer queries only is one of those queries, and a key is such a column."""
    below = [each for argument in aggregate.args for each in walk(argument)]
    columns = [each for each in below if kind(each) == "ColumnRef" and not isinstance(each, pb.Node)]
    if any(kind(each) == "SubLink" for each in below) or (
        columns and not any(_is_of(each, scopes[-1:]) for each in columns)
    ):
        raise NotUnderstood("it has an aggregate over no column of its own sub-select")


def _is_of(column: Node, scopes: Scopes) -> bool:
    """Whether a column is surely one of a FROM item in these scopes."""
    first = inner(column.fields[0])
    return len(column.fields) > 1 and kind(first) == "String" and any(first.sval in scope for scope in scopes)


def _is_key(node: Node) -> bool:
    found = inner(node)
    return kind(found) == "ColumnRef" and inner(found.fields[0]) == pb.String(sval=CLAIMS)


_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
