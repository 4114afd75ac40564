"""What explain sees in policies' texts, and how a query is shown."""

import pytest

from bridge.explain import as_sent
from bridge.hints import Seen, quoted, seen_in
from bridge.table import Policy


def seen(expression: str) -> Seen:
    return seen_in([Policy("p", True, expression, frozenset(), False)])


@pytest.mark.parametrize(
    ("expression", "calls"),
    [
        ("(owner = auth.uid())", {"auth.uid()"}),
        ("(owner = ( SELECT auth.uid() AS uid))", set()),
        ("(owner = current_setting('a.b'::text, true))", {"current_setting('request.jwt.claims', true)"}),
        ("(EXISTS ( SELECT 1 FROM app.member m WHERE (m.user_id = auth.uid())))", {"auth.uid()"}),
        ("(length(body) > 3)", set()),
        ("(now() > made)", set()),
    ],
)
def test_calls_of_the_claims_that_are_made_for_each_row(expression: str, calls: set[str]) -> None:
    assert seen(expression).bare.get("p", set()) == calls


def test_functions_that_get_columns() -> None:
    assert seen("(app.may_read(room) AND app.flag('x'::text))").of_row == {("app", "may_read")}


@pytest.mark.parametrize(
    ("expression", "columns"),
    [
        (
            "(EXISTS ( SELECT 1 FROM app.member m WHERE ((m.room = note.room) AND (m.user_id = auth.uid()))))",
            ["room", "user_id"],
        ),
        ("(room IN ( SELECT m.room FROM app.member m WHERE (m.user_id = ANY (ids))))", ["room", "user_id"]),
        ("(EXISTS ( SELECT 1 FROM app.member WHERE (member.level > 3)))", None),
        ("(owner = note.owner)", None),
    ],
)
def test_columns_of_a_sub_selects_table_that_are_compared(expression: str, columns: list[str] | None) -> None:
    found = seen(expression).compared.get(("app", "member"))
    assert (sorted(found) if found else found) == columns


def test_a_policy_that_is_not_understood_gives_no_hints() -> None:
    assert seen("((") == Seen()


@pytest.mark.parametrize(
    ("name", "written"), [("member", "member"), ("Member", '"Member"'), ("a b", '"a b"'), ("select", '"select"')]
)
def test_names_are_quoted_where_they_must_be(name: str, written: str) -> None:
    assert quoted(name) == written


def test_a_query_is_shown_as_the_server_gets_it() -> None:
    text, names = as_sent("select %(lines)b::text[], %(n)b, %(lines)b where a %% 2 = 1 and b like '%%s' and %(n)s")

    assert text == "select $1::text[], $2, $1 where a % 2 = 1 and b like '%s' and $2"
    assert names == ["lines", "n"]
    assert as_sent("unnest(%b::text[])") == ("unnest($1::text[])", [""])
