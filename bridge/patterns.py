"""The patterns of `source.tables`: which tables are streamed at all. Pure.

``schema.table``, ``schema.*``, ``*.table`` or ``*.*``; names as in the catalog, a backslash before a dot, a star or a
backslash that belongs to a name.
"""

import re
from collections.abc import Callable, Sequence

import msgspec

_PART = r"(\*|(?:[^\\.*]|\\.)+)"
_PATTERN = re.compile(_PART + r"\." + _PART, re.DOTALL)


class Pattern(msgspec.Struct, frozen=True):
    """A part that is None matches every name."""

    schema: str | None
    table: str | None

    @property
    def matches_all(self) -> bool:
        return self.schema is None and self.table is None

    @property
    def exact(self) -> tuple[str, str]:
        return self.schema or "", self.table or ""

    def matches(self, schema: str, table: str) -> bool:
        return self.schema in {None, schema} and self.table in {None, table}


SUBSCRIPTION_TABLE = Pattern("realtime", "subscription")


def parse_pattern(text: str) -> Pattern:
    """Raises ValueError for what is no pattern."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no pattern: write schema.table, schema.*, *.table or *.*")
    schema, table = (None if part == "*" else re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in match.groups())
    return Pattern(schema, table)


def streams(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str, str], bool]:
    """Whether a table (schema, name) is streamed; an exclusion wins. realtime.subscription always is."""
    included, excluded = ([parse_pattern(text) for text in patterns] for patterns in (include, exclude))
    known: dict[tuple[str, str], bool] = {SUBSCRIPTION_TABLE.exact: True}

    def decide(schema: str, table: str) -> bool:
        name = (schema, table)
        if name not in known:
            known[name] = any(each.matches(*name) for each in included) and not any(
                each.matches(*name) for each in excluded
            )
        return known[name]

    return decide
