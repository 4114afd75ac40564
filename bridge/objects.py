"""Rows as JSON objects of the columns that are wanted. Pure.

A row's values are JSON already; what stands between them is made once for all rows that carry the same columns.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from bridge.event import SMALL_VALUE_BYTES, Json, json_text
from bridge.table import Table

_CACHED = 10_000

Members = tuple[tuple[str, bytes], ...]
"""Column names, each with its JSON text and a colon."""


class Form(msgspec.Struct, frozen=True, gc=False):
    """How the JSON of a row's values becomes one JSON object."""

    template: bytes
    """With %s for each of what `pick` takes from the values."""
    pick: Callable[[Sequence[bytes]], Any]
    complete: bool
    """All that it is to have is there."""

    def fill(self, row: Json) -> bytes:
        filled: bytes = self.template % self.pick(row.values)
        return filled


class Columns:
    """Columns of a table, and how rows become objects of them."""

    __slots__ = ("_form", "_forms", "_names", "members")

    def __init__(self, members: Members) -> None:
        self.members = members
        self._forms: dict[tuple[str, ...], Form] = {}
        self._names: tuple[str, ...] = ()
        self._form = self._forms[()] = form_of(members, ())
        """The last one that was asked for: mostly the next one too."""

    def form(self, names: tuple[str, ...]) -> Form:
        """For rows that carry the columns `names`."""
        if names is not self._names:
            found = self._forms.get(names)
            if found is None:
                found = self._forms[names] = form_of(self.members, names)
            self._names, self._form = names, found
        return self._form


def json_object(table: Table, columns: Columns, row: Json, *, large: bool) -> bytes:
    """The row's visible columns as a JSON object; of a large change the key's and the small ones only."""
    if not large:
        return columns.form(row.names).fill(row)
    small = tuple(
        (name, label)
        for name, label in columns.members
        if name in row.names and (name in table.key or len(row[name]) <= SMALL_VALUE_BYTES)
    )
    return form_of(small, row.names).fill(row)


def form_of(members: Members, names: tuple[str, ...]) -> Form:
    """For rows with the columns `names`; of `members` those that are there."""
    found = [(names.index(name), label) for name, label in members if name in names]
    positions = [at for at, _ in found]
    template = b"{%s}" % b",".join(label.replace(b"%", b"%%") + b"%s" for _, label in found)
    pick: Callable[[Sequence[bytes]], Any] = itemgetter(*positions) if positions else lambda _: ()
    whole = positions == list(range(len(names)))
    return Form(template, tuple if whole else pick, len(found) == len(members))


_names: dict[str, bytes] = {}


def json_name(value: str) -> bytes:
    """A name's JSON text."""
    made = _names.get(value)
    if made is None:
        if len(_names) >= _CACHED:
            _names.clear()
        made = _names[value] = json_text(value)
    return made
