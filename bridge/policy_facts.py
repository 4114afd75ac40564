"""Reads what the catalog says of the functions, operators, types and tables that policies name, and keeps what follows.

What a policy, and the body of a function, names is known only by reading it, so names are looked up until there are no new
ones. That happens when a table's policies are first seen, and again when anything that was looked at has changed; otherwise a
batch asks for nothing but versions, as in catalog.py. It runs in the catalog's transaction, under an empty search_path.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from bridge.catalog_transaction import CatalogTransaction
from bridge.expressions import IMPLIED_OPERATORS, Names, NotUnderstood, names_of, parse_expression
from bridge.facts import FIRST_USER_OID, Facts, Function, Operator, Relation, Type
from bridge.joining import Joinable, NotJoinable, joinable
from bridge.policy_queries import DOUBTS, FUNCTIONS, OPERATORS, RELATIONS, SHARED_VERSION, TYPES, USED, VERSIONS
from bridge.purity import body_of
from bridge.table import Policy, Rights, Table

Wanted = Sequence[tuple[Table, Rights]]
_Key = tuple[int, str, str, tuple[str, ...], tuple[Policy, ...]]
_MOST = 10_000


class _Known(msgspec.Struct, frozen=True):
    version: str
    relations: str
    """OIDs of the tables that the policies read, and of those below them, as an array's text."""
    answer: Joinable | NotJoinable


class PolicyFacts:
    """How each table's policies are joined, as the catalog stands in the current transaction."""

    def __init__(self, catalog: CatalogTransaction) -> None:
        self._catalog = catalog
        self._known: dict[_Key, _Known] = {}
        self.generation = 0
        """Grows whenever what is known of functions, operators and types may have changed."""
        self._forget("")

    def _forget(self, version: str) -> None:
        self.generation += 1
        self._version = version
        self._known.clear()
        self._functions: dict[str, tuple[Function, ...]] = {}
        self._operators: dict[str, tuple[Operator, ...]] = {}
        self._types: dict[str, tuple[Type, ...]] = {}
        self._doubts: tuple[str, ...] | None = None

    def joinables(self, wanted: Wanted) -> list[Joinable | NotJoinable]:
        """One for each. Asks for the versions of what is known, and reads what is not."""
        keys = [_key(table, rights.policies) for table, rights in wanted]
        known = {key: self._known[key] for key in dict.fromkeys(keys) if key in self._known}
        shared, versions = self._versions([(key[0], each.relations) for key, each in known.items()])
        if shared != self._version or len(self._known) > _MOST:
            self._forget(shared)
            known = {}
        for (key, each), version in zip(known.items(), versions, strict=False):
            if each.version != version:
                del self._known[key]
        new = {key: table for key, (table, _) in zip(keys, wanted, strict=True) if key not in self._known}
        if new:
            self._read(new)
        return [self._known[key].answer for key in keys]

    def _versions(self, tables: Sequence[tuple[int, str]]) -> tuple[str, list[str]]:
        names = {
            "first": FIRST_USER_OID,
            "functions": list(self._functions),
            "operators": list(self._operators),
            "types": list(self._types),
        }
        listed = {"tables": [oid for oid, _ in tables], "relations": [each for _, each in tables]}
        ((version,),), single = self._catalog.ask_all([(SHARED_VERSION, names), (VERSIONS, listed)])
        return version, [each for (each,) in single]

    def _read(self, new: dict[_Key, Table]) -> None:
        """What is not known yet, all of it at once."""
        named = {policy: _names(policy.expression) for key in new for policy in key[-1]}
        used = self._used({key[0] for key in new})
        self._look_up([*named.values(), *(each.names() for each in used.values())])
        relations = self._relations({each for names in named.values() for each in names.relations})
        if self._doubts is None:
            self._doubts = tuple(doubt for (doubt,) in self._catalog.fetch(DOUBTS, first=FIRST_USER_OID))
        found: dict[_Key, tuple[str, Joinable | NotJoinable]] = {}
        for key, table in new.items():
            policies = key[-1]
            doubts = [
                doubt
                for policy in policies
                if (table.oid, policy.name) in used
                and (doubt := used[table.oid, policy.name].doubt(policy, named[policy]))
            ]
            facts = Facts(
                self._functions,
                self._operators,
                self._types,
                {name: relation for name, (relation, _) in relations.items()},
                (*doubts, *self._doubts),
            )
            below = [relations[name][1] for policy in policies for name in named[policy].relations if name in relations]
            read = sorted({oid for each in below for oid in each})
            found[key] = (f"{{{','.join(map(str, read))}}}", joinable(policies, table, facts))
        self._version, versions = self._versions([(key[0], oids) for key, (oids, _) in found.items()])
        for (key, (oids, answer)), version in zip(found.items(), versions, strict=True):
            self._known[key] = _Known(version, oids, answer)

    def _look_up(self, first: Iterable[Names]) -> None:
        """All functions, operators and types of these names, and of those in the bodies of functions among them."""
        pending = list(first)
        while pending:
            functions = {name[-1] for names in pending for name in names.functions} - self._functions.keys()
            operators = {name[-1] for names in pending for name in names.operators} - self._operators.keys()
            types = {name[-1] for names in pending for name in names.types} - self._types.keys()
            pending = []
            if functions:
                self._functions.update(dict.fromkeys(functions, ()))
                for row in self._catalog.fetch(FUNCTIONS, names=list(functions), first=FIRST_USER_OID):
                    values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in row]
                    function = Function(*values)
                    self._functions[function.name] += (function,)
                    if function.body:
                        pending.append(_names_of_body(function))
            if operators:
                self._operators.update(dict.fromkeys(operators, ()))
                for row in self._catalog.fetch(OPERATORS, names=list(operators)):
                    operator = Operator(*row)
                    self._operators[operator.name] += (operator,)
            if types:
                self._types.update(dict.fromkeys(types, ()))
                for oid, schema, name, kind in self._catalog.fetch(TYPES, names=list(types)):
                    self._types[name] += (Type(oid, schema, kind),)

    def _relations(self, names: Iterable[tuple[str, ...]]) -> dict[tuple[str, str], tuple[Relation, list[int]]]:
        """With the OIDs of each and of what is below it."""
        wanted = list(names)
        if not wanted:
            return {}
        rows = self._catalog.fetch(RELATIONS, schemas=[name[0] for name in wanted], names=[name[1] for name in wanted])
        return {
            (schema, name): (Relation(kind, row_security, foreign), oids)
            for schema, name, kind, row_security, oids, foreign in rows
        }

    def _used(self, tables: Iterable[int]) -> dict[tuple[int, str], "_Used"]:
        """What of users' making each policy depends on, by table and policy."""
        found: dict[tuple[int, str], _Used] = {}
        for table, policy, catalog, schema, name, doubt, fixed in self._catalog.fetch(
            USED, tables=list(tables), first=FIRST_USER_OID
        ):
            used = found.setdefault((table, policy), _Used())
            getattr(used, catalog).add((schema, name))
            if not fixed:
                used.unproven.add((schema, name))
            if doubt:
                used.doubts.append(doubt)
        return found


class _Used(msgspec.Struct):
    pg_proc: set[tuple[str, ...]] = msgspec.field(default_factory=set)
    pg_operator: set[tuple[str, ...]] = msgspec.field(default_factory=set)
    pg_type: set[tuple[str, ...]] = msgspec.field(default_factory=set)
    unproven: set[tuple[str, ...]] = msgspec.field(default_factory=set)
    """Functions that may see more than their arguments."""
    doubts: list[str] = msgspec.field(default_factory=list)

    def names(self) -> Names:
        return Names(frozenset(self.pg_proc), frozenset(self.pg_operator), frozenset(self.pg_type), frozenset())

    def doubt(self, policy: Policy, names: Names) -> str | None:
        """Why the policy cannot be joined, if the catalog knows more against it than its text shows."""
        hidden = self.unproven - names.functions
        doubts = self.doubts + [
            f"it calls {'.'.join(name)}() where its text does not show it" for name in sorted(hidden)
        ]
        return f'policy "{policy.name}" cannot be joined: {doubts[0]}' if doubts else None


_NO_NAMES = Names(frozenset(), frozenset((name,) for name in IMPLIED_OPERATORS), frozenset(), frozenset())


def _key(table: Table, policies: tuple[Policy, ...]) -> _Key:
    return (table.oid, table.schema, table.name, table.names, policies)


def _names(expression: str) -> Names:
    """What it names; nothing where it is not understood, which joinable() will say."""
    try:
        return names_of(parse_expression(expression))
    except (NotUnderstood, RecursionError):
        return _NO_NAMES


def _names_of_body(function: Function) -> Names:
    try:
        return names_of(body_of(function))
    except (NotUnderstood, RecursionError):
        return _NO_NAMES
