"""What the catalog says of the functions, operators, types and tables that policies name. Plain values; policy_facts.py
reads them, purity.py judges them."""

from collections.abc import Mapping

import msgspec

FIRST_USER_OID = 16384
"""PostgreSQL's FirstNormalObjectId: what is below was made by initdb."""


class Function(msgspec.Struct, frozen=True):
    oid: int
    schema: str
    name: str
    kind: str
    """pg_proc.prokind: f, a, w, p."""
    volatility: str
    language: str
    arguments: int
    defaults: int
    variadic: bool
    returns_set: bool
    result: str
    """The name of a type of pg_catalog, or a qualified name."""
    parameters: tuple[str, ...]
    parameter_names: tuple[str, ...]
    config: tuple[str, ...]
    body: str
    """The body of one in SQL."""

    @property
    def built_in(self) -> bool:
        return self.oid < FIRST_USER_OID

    @property
    def fixed(self) -> bool:
        """A user's function that sees its arguments only: IMMUTABLE, and in C, as extensions have them. Aggregates have
        the language internal whatever they call."""
        return self.kind == "f" and self.volatility == "i" and self.language in {"c", "internal"}

    def fits(self, count: int) -> bool:
        """Whether a call with so many arguments may mean this one."""
        fewest = self.arguments - self.defaults - self.variadic
        return fewest <= count and (self.variadic or count <= self.arguments)


class Operator(msgspec.Struct, frozen=True):
    oid: int
    schema: str
    name: str
    volatility: str
    """Of its function, as the language."""
    language: str

    @property
    def safe(self) -> bool:
        if self.oid < FIRST_USER_OID:
            return self.volatility != "v"
        return self.volatility == "i" and self.language in {"c", "internal"}


class Relation(msgspec.Struct, frozen=True):
    kind: str
    """pg_class.relkind."""
    row_security: bool
    foreign: bool
    """A foreign table is among its partitions or children."""


class Type(msgspec.Struct, frozen=True):
    oid: int
    schema: str
    kind: str
    """pg_type.typtype."""


class Facts(msgspec.Struct, frozen=True):
    """All functions, operators and types of each name that the policies name, directly or in a function's body."""

    functions: Mapping[str, tuple[Function, ...]]
    operators: Mapping[str, tuple[Operator, ...]]
    types: Mapping[str, tuple[Type, ...]]
    relations: Mapping[tuple[str, str], Relation]
    doubts: tuple[str, ...] = ()
    """What the catalog says against these policies that their text does not show."""
