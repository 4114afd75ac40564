"""What the functions, operators and types in a policy can see. Pure; policy_facts.py reads the facts.

Policies and their functions are judged by what is proven of them, not by their labels: a function that is labelled
IMMUTABLE may read the claims all the same (and then it cannot be joined). Names are looked up without asking which of several functions is meant: what is
said holds for each that could be, in whatever schema, so no search_path and no conversion of arguments matters.
"""

import re
from collections.abc import Iterable
from typing import TypeVar

from postgast import pg_query_pb2 as pb

from bridge.expressions import (
    Name,
    Node,
    NotUnderstood,
    check_kinds,
    inner,
    kind,
    name_of,
    only_target,
    operators_of,
    parse_select,
    type_of,
)
from bridge.facts import FIRST_USER_OID, Facts, Function, Operator, Type

_T = TypeVar("_T", Function, Operator, Type)

KEY_TYPES = {
    "bool": "boolean", "int2": "smallint", "int4": "integer", "int8": "bigint", "float4": "real",
    "float8": "double precision", "numeric": "numeric", "text": "text", "varchar": "character varying", "uuid": "uuid",
    "json": "json", "jsonb": "jsonb", "bytea": "bytea", "inet": "inet", "cidr": "cidr",
}  # fmt: skip
"""The types that a key, and what it is made of, may have, and arrays of them; as pg_type and as pg_typeof name them. Their
text says all of a value, their names say all of the type (`character` as a column's would be one character long), their
collation is the default one, and reading a text as one of them asks for nothing but the text (a date's would: 'today')."""

KEY_TYPE_NAMES = frozenset(name + array for name in KEY_TYPES.values() for array in ("", "[]"))
"""pg_typeof(key)::text of a key that may be used; one of another type is no key, so nothing is joined."""

_POLYMORPHIC = {"anyelement", "anyarray", "anynonarray", "anycompatible", "anycompatiblearray", "anycompatiblenonarray"}
_RESULTS = set(KEY_TYPES) | {f"_{name}" for name in KEY_TYPES} | _POLYMORPHIC

_STABLE_BUT_PURE = {
    "array_to_json", "array_to_string", "concat", "concat_ws", "format", "json_build_array", "json_build_object",
    "jsonb_build_array", "jsonb_build_object", "quote_literal", "quote_nullable", "row_to_json", "to_json", "to_jsonb",
}  # fmt: skip
"""STABLE for what the types of their arguments may do, and a key has none that does."""

_BLIND_PG = {"pg_has_role", "pg_typeof"}
_SEEING = re.compile(
    r"^(current_setting|set_config|query_.*|ts_stat|ts_rewrite|pg_.*|.*_to_xml.*|.*_(in|recv)|jsonb?_(populate|to)_record.*)$"
)
"""Built-in functions that may see the claims, whatever their label: settings, query texts, what runs a domain's checks."""


def is_blind(name: str) -> bool:
    return name in _BLIND_PG or not _SEEING.match(name)


class Purity:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._proven: dict[int, bool] = {}
        """By the function's OID; False as long as it is being asked, so that recursion proves nothing."""

    def functions(self, call: Node) -> list[Function]:
        """All that a call may mean. Raises NotUnderstood where there is none."""
        name = name_of(call.funcname)
        found = _named(self.facts.functions.get(name[-1], ()), name)
        fitting = [each for each in found if each.fits(len(call.args))]
        if not fitting:
            raise NotUnderstood(f"no function {'.'.join(name)} is known")
        return fitting

    def check_call(self, call: Node) -> bool:
        """Raises NotUnderstood where a call, with whatever arguments, may see claims. Gives whether it is an aggregate."""
        found = self.functions(call)
        for each in found:
            if each.built_in:
                if each.kind not in {"f", "a"} or each.volatility == "v" or not is_blind(each.name):
                    raise NotUnderstood(f"it calls {each.name}(), which may see more than its arguments")
            elif not each.fixed or (each.defaults and len(call.args) < each.arguments):
                called = f"{each.schema}.{each.name}()"
                if len(call.funcname) == 1:
                    raise NotUnderstood(f"{called} has the name of a function that it calls")
                raise NotUnderstood(f"it calls {called}, which may see more than its arguments")
        return any(each.kind == "a" for each in found)

    def check_operators(self, names: Iterable[Name]) -> None:
        """Raises NotUnderstood."""
        for name in names:
            found = _named(self.facts.operators.get(name[-1], ()), name)
            if not found:
                raise NotUnderstood(f"no operator {'.'.join(name)} is known")
            for each in found:
                if not each.safe:
                    raise NotUnderstood(
                        f"the function of operator {each.schema}.{each.name} may see more than its arguments"
                    )

    def check_type(self, name: Name) -> None:
        """Raises NotUnderstood where a cast to the type may run a user's code, as a domain's checks are."""
        found = _named(self.facts.types.get(name[-1], ()), name)
        qualified = len(name) > 1
        if not found:
            raise NotUnderstood(f"no type {'.'.join(name)} is known")
        for each in found:
            user = each.oid >= FIRST_USER_OID
            if each.kind not in ({"b", "e"} if user else {"b", "r", "m"}):
                raise NotUnderstood(f"it casts to {each.schema}.{name[-1]}, a type that has others, or checks, in it")
            if user and not qualified:
                raise NotUnderstood(f"{each.schema}.{name[-1]} has the name of a type that it uses")

    def key(self, node: Node, parameters: frozenset[str] | None = None) -> bool | None:
        """Whether the expression is one that depends on the claims alone: None where it is not, False where it is but
        does not read them. With `parameters`, as a function's body, in which they are constants."""
        try:
            return self._key(inner(node), parameters)
        except NotUnderstood:
            return None

    def _key(self, node: Node, parameters: frozenset[str] | None) -> bool | None:
        parts: list[Node]
        match type(node).__name__:
            case "A_Const":
                return False
            case "ParamRef":
                return None if parameters is None else False
            case "ColumnRef":
                name = name_of(node.fields) if all(kind(field) == "String" for field in node.fields) else ()
                return False if parameters and len(name) == 1 and name[0] in parameters else None
            case "TypeCast":
                if not self._is_key_type(node.type_name):
                    return None
                parts = [node.arg]
            case "FuncCall":
                return self._call(node, parameters)
            case "A_Expr":
                self.check_operators(operators_of(node))
                parts = [getattr(node, side) for side in ("lexpr", "rexpr") if node.HasField(side)]
            case "BoolExpr" | "CoalesceExpr" | "MinMaxExpr":
                parts = list(node.args)
            case "NullTest" | "BooleanTest":
                parts = [node.arg]
            case "CaseExpr":
                parts = [getattr(node, field) for field in ("arg", "defresult") if node.HasField(field)]
                parts += [getattr(inner(when), field) for when in node.args for field in ("expr", "result")]
            case "A_ArrayExpr":
                parts = list(node.elements)
            case "List":
                parts = list(node.items)
            case "SubLink":
                target = scalar(node)
                if target is None:
                    return None
                parts = [target]
            case _:
                return None
        return self._all(parts, parameters)

    def _all(self, parts: Iterable[Node], parameters: frozenset[str] | None) -> bool | None:
        found = [self._key(inner(part), parameters) for part in parts]
        return None if None in found else True in found

    def _call(self, call: Node, parameters: frozenset[str] | None) -> bool | None:
        if call.agg_star or call.agg_distinct or call.agg_order or call.func_variadic or call.HasField("agg_filter"):
            return None
        of_arguments = self._all(call.args, parameters)
        if of_arguments is None:
            return None
        found = self.functions(call)
        if any(each.name == "current_setting" for each in found):
            constant = all(each.built_in for each in found) and _is_constant(call.args[0])
            return True if constant else None
        if all(each.built_in for each in found):
            return of_arguments if all(map(_is_pure_built_in, found)) else None
        if any(each.built_in for each in found):
            # One of a user's has the name of a built-in one, and the search_path says which it is.
            pure = all(_is_pure_built_in(each) if each.built_in else each.fixed for each in found)
            return of_arguments if pure else None
        if len(call.funcname) == 1 or not all(map(self.is_pure, found)):
            return None
        return True

    def is_pure(self, function: Function) -> bool:
        """Whether the value of a function of a user's depends on its arguments and the claims alone: proven by its body."""
        if function.oid not in self._proven:
            self._proven[function.oid] = False
            self._proven[function.oid] = self._prove(function)
        return self._proven[function.oid]

    def _prove(self, function: Function) -> bool:
        types = {function.result, *function.parameters}
        if (
            function.kind != "f"
            or function.language != "sql"
            or function.returns_set
            or function.defaults
            or function.variadic
            or not types <= _RESULTS - _POLYMORPHIC
            or any(not setting.startswith("search_path=") for setting in function.config)
        ):
            return False
        try:
            reads = self.key(body_of(function), frozenset(function.parameter_names))
        except NotUnderstood:
            return False
        # What is labelled IMMUTABLE may be evaluated once for all claims, when the statement is planned.
        return reads is not None and not (reads and function.volatility == "i")

    def _is_key_type(self, type_name: Node) -> bool:
        name = type_of(type_name)
        if type_name.setof or type_name.pct_type or type_name.typmods or name[:-1] not in {(), ("pg_catalog",)}:
            return False
        self.check_type(name)
        return name[-1] in KEY_TYPES


def _named(found: Iterable[_T], name: Name) -> list[_T]:
    """Those of a name: in its schema, or in any where it has none."""
    return [each for each in found if len(name) == 1 or name[:-1] == (each.schema,)]


def _is_pure_built_in(function: Function) -> bool:
    pure = function.volatility == "i" or function.name in _STABLE_BUT_PURE
    known = function.kind == "f" and not function.returns_set and function.result in _RESULTS
    return pure and known and is_blind(function.name)


def _is_constant(node: Node) -> bool:
    found = inner(node)
    return type(found).__name__ == "A_Const" or (
        type(found).__name__ == "TypeCast" and kind(found.arg) == "A_Const" and type_of(found.type_name)[-1] == "text"
    )


def scalar(link: Node) -> Node | None:
    """The expression of a sub-select that is nothing but that: ``(SELECT auth.uid() AS uid)``."""
    if link.sub_link_type != pb.EXPR_SUBLINK or kind(link.subselect) != "SelectStmt":
        return None
    target = only_target(inner(link.subselect))
    return target.val if target is not None else None


def body_of(function: Function) -> Node:
    """The one expression that is the body of a function in SQL. Raises NotUnderstood where it is more.

    Where strings end depends on a setting once there is a backslash.
    """
    text = function.body.strip()
    if "\\" in text:
        raise NotUnderstood("it has a backslash")
    if returned := re.match(r"RETURN\s", text):
        text = f"SELECT {text[returned.end() :]}"
    elif block := re.fullmatch(r"BEGIN ATOMIC\s+(.*)\bEND", text, re.DOTALL):
        text = block[1]
    target = only_target(parse_select(text))
    if target is None:
        raise NotUnderstood("it is more than one expression")
    check_kinds(target.val)
    return target.val
