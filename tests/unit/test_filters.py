"""Comparisons that Python may decide, and those it must leave to PostgreSQL."""

import pytest

from bridge.filters import python_test
from bridge.judged import Filter
from bridge.table import Column, JsonKind

OIDS = {"int4": 23, "int8": 20, "text": 25, "varchar": 1043, "uuid": 2950, "bool": 16, "numeric": 1700, "bpchar": 1042}


def column(type_name: str, *, deterministic: bool = True) -> Column:
    oid = OIDS[type_name]
    return Column("c", 1, oid, type_name, oid, JsonKind.STRING, toastable=False, deterministic=deterministic)


@pytest.mark.parametrize(
    ("type_name", "op", "value", "text", "passes"),
    [
        ("int4", "eq", "2", "2", True),
        ("int4", "eq", "2", "3", False),
        ("int4", "neq", "2", "3", True),
        ("int8", "lt", "10", "9", True),
        ("int8", "lt", "-10", "-9", False),
        ("int8", "gte", "9223372036854775807", "9223372036854775807", True),
        ("int4", "in", "{1,2,3}", "2", True),
        ("int4", "in", "{1,2,3}", "4", False),
        ("int4", "eq", "2", None, None),
        ("int4", "neq", "2", None, None),
        ("text", "eq", "a", "a", True),
        ("text", "eq", "a", "A", False),
        ("varchar", "neq", "a", "b", True),
        ("bool", "eq", "true", "t", True),
        ("bool", "eq", "f", "t", False),
        ("uuid", "eq", "50000000-0000-4000-8000-00000000000a", "50000000-0000-4000-8000-00000000000a", True),
        ("numeric", "is", "null", None, True),
        ("numeric", "is", "NULL", "1", False),
        ("bool", "is", "true", "t", True),
        ("bool", "is", "true", None, False),
    ],
)
def test_python_answers_as_postgresql_would(
    type_name: str, op: str, value: str, text: str | None, passes: bool | None
) -> None:
    test = python_test(column(type_name), op, value)
    assert test is not None
    assert test(text) is passes


@pytest.mark.parametrize(
    ("type_name", "op", "value"),
    [
        ("int4", "eq", " 2"),
        ("int4", "eq", "+2"),
        ("int4", "eq", "002"),
        ("int4", "eq", "0x2"),
        ("int4", "eq", "\N{ARABIC-INDIC DIGIT TWO}"),
        ("int4", "in", "{1,NULL}"),
        ("int4", "in", "{}"),
        ("numeric", "eq", "1.0"),
        ("bpchar", "eq", "a"),
        ("text", "lt", "a"),
        ("text", "like", "a%"),
        ("text", "isdistinct", "a"),
        ("uuid", "eq", "50000000-0000-4000-8000-00000000000A"),
        ("bool", "eq", "yes"),
        ("text", "eq", None),
    ],
)
def test_everything_else_is_left_to_postgresql(type_name: str, op: str, value: str | None) -> None:
    assert python_test(column(type_name), op, value) is None


def test_text_under_a_nondeterministic_collation_is_left_to_postgresql() -> None:
    assert python_test(column("text", deterministic=False), "eq", "a") is None


@pytest.mark.parametrize(
    ("op", "negate", "plain"),
    [
        ("eq", False, ("eq", False)),
        ("not_in", False, ("in", True)),
        ("in", True, ("in", True)),
        ("not_in", True, ("in", False)),
    ],
)
def test_negation_is_told_from_the_operator(op: str, negate: bool, plain: tuple[str, bool]) -> None:
    assert Filter("c", op, "{1}", negate).plain == plain
