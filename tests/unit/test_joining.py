"""Policies as a join: what becomes a key, what a branch, and what is refused. The facts are made by hand here; the same is
asked of real servers in tests/integration/test_joining.py."""

import pytest

from bridge.facts import Facts, Function, Operator, Relation, Type
from bridge.joining import Branch, Joinable, NotJoinable, joinable
from bridge.table import Column, JsonKind, Policy, Table

USER = 20_000


def function(name: str, **how: object) -> Function:
    """One of a user's in SQL without arguments, or what `how` says."""
    schema, _, bare = name.rpartition(".")
    values: dict[str, object] = {
        "oid": USER,
        "schema": schema or "pg_catalog",
        "name": bare,
        "kind": "f",
        "volatility": "s",
        "language": "sql",
        "arguments": 0,
        "defaults": 0,
        "variadic": False,
        "returns_set": False,
        "result": "text",
        "parameters": (),
        "parameter_names": (),
        "config": (),
        "body": "",
        **how,
    }
    return Function(**values)  # type: ignore[arg-type]


def built_in(name: str, arguments: int, volatility: str = "i", result: str = "text", **how: object) -> Function:
    return function(
        name, oid=100, arguments=arguments, volatility=volatility, result=result, language="internal", **how
    )


JWT = "return coalesce(nullif(current_setting('request.jwt.claims', true), ''), '{}')::jsonb"
FUNCTIONS = [
    built_in("current_setting", 1, "s"),
    built_in("current_setting", 2, "s"),
    built_in("lower", 1),
    built_in("lower", 1, result="anyelement"),
    built_in("length", 1, result="int4"),
    built_in("bpchar", 1, result="bpchar"),
    built_in("to_jsonb", 1, "s", "jsonb"),
    built_in("now", 0, "s", "timestamptz"),
    built_in("random", 0, "v", "float8"),
    built_in("table_to_xml", 4, "s", "xml"),
    built_in("pg_has_role", 2, "s", "bool"),
    built_in("pg_show_all_settings", 0, "s", "record", returns_set=True),
    built_in("jsonb_array_elements_text", 1, result="text", returns_set=True),
    built_in("unnest", 1, result="anyelement", returns_set=True),
    built_in("count", 1, result="int8", kind="a"),
    built_in("count", 0, result="int8", kind="a"),
    built_in("max", 1, result="anyarray", kind="a"),
    built_in("extract", 2, result="numeric"),
    function("auth.jwt", oid=USER + 1, result="jsonb", body=JWT.replace("return", "RETURN")),
    function("auth.uid", oid=USER + 2, result="uuid", body="RETURN (auth.jwt() ->> 'sub'::text)::uuid"),
    function("auth.role", oid=USER + 3, body="select auth.jwt() ->> 'role';"),
    function("auth.atomic", oid=USER + 4, body="BEGIN ATOMIC\n SELECT (auth.jwt() ->> 'role'::text) AS text;\nEND"),
    function(
        "auth.claim", oid=USER + 5, arguments=1, parameters=("text",), parameter_names=("name",), volatility="v",
        body="select auth.jwt() ->> name", config=('search_path=""',),
    ),
    function("auth.first", oid=USER + 6, arguments=1, parameters=("text",), body="select auth.jwt() ->> $1"),
    function("bad.setting", oid=USER + 7, arguments=1, parameters=("text",), body="select current_setting($1)"),
    function("bad.plpgsql", oid=USER + 8, language="plpgsql", body="begin return auth.role(); end"),
    function("bad.table", oid=USER + 9, body="select min(a) from t"),
    function("bad.two", oid=USER + 10, body="select 'a'; select auth.role()"),
    function("bad.config", oid=USER + 11, body="select auth.role()", config=("request.jwt.claims={}",)),
    function("bad.clock", oid=USER + 12, result="text", body="select now()::text"),
    function("bad.today", oid=USER + 13, result="text", body="select ('today'::date)::text"),
    function("bad.who", oid=USER + 14, body="select current_user::text"),
    function("bad.calls", oid=USER + 15, body="select bad.plpgsql()"),
    function("bad.recursive", oid=USER + 16, body="select bad.recursive()"),
    function("bad.random", oid=USER + 17, body="select random()::text"),
    function("bad.search", oid=USER + 18, body="select role()", config=("search_path=auth",)),
    function("bad.default", oid=USER + 19, arguments=1, defaults=1, parameters=("text",), body="select 'a'::text"),
    function("bad.set", oid=USER + 20, body="select auth.role()", returns_set=True),
    function("bad.domain", oid=USER + 21, body="select auth.role()", result="20500"),
    function("bad.labelled", oid=USER + 22, volatility="i", arguments=1, parameters=("text",), body="select auth.role()"),
    function("bad.backslash", oid=USER + 23, body="select auth.jwt() ->> 'a\\'"),
    function("bad.aggregate", oid=USER + 24, arguments=1, volatility="i", language="internal", kind="a"),
    function("bad.overloaded", oid=USER + 25, body="select auth.role()"),
    function("bad.overloaded", oid=USER + 26, arguments=1, variadic=True, language="plpgsql"),
    function("auth.lookup", oid=USER + 27, body="select length('x')::text"),
    function("ext.digest", oid=USER + 28, arguments=1, volatility="i", language="c", parameters=("text",)),
    function("ext.stable", oid=USER + 29, arguments=1, volatility="s", language="c", parameters=("text",)),
    function("app.shadowed", oid=USER + 30, body="select shadowed('x'::text)"),
    built_in("shadowed", 1),
    function("public.shadowed", oid=USER + 31, arguments=1, language="plpgsql"),
    built_in("covered", 1),
    function("public.covered", oid=USER + 32, arguments=1, language="c", volatility="i"),
]  # fmt: skip
OPERATORS = [
    *(
        Operator(90, "pg_catalog", name, "i", "internal")
        for name in ("=", "<>", "<", "<=", ">", ">=", "->>", "->", "?")
    ),
    *(Operator(91, "pg_catalog", name, "s", "internal") for name in ("||", "+")),
    Operator(USER, "ext", "===", "i", "c"),
    Operator(USER, "bad", "===", "i", "sql"),
]
TYPES = {
    **{
        name: (Type(25, "pg_catalog", "b"),)
        for name in ("text", "uuid", "jsonb", "json", "int4", "date", "bpchar", "name")
    },
    "varchar": (Type(26, "pg_catalog", "b"),),
    "regclass": (Type(27, "pg_catalog", "b"),),
    "mood": (Type(USER, "app", "e"),),
    "checked": (Type(USER, "app", "d"),),
    "pair": (Type(USER, "app", "c"),),
    "inet": (Type(28, "pg_catalog", "b"), Type(USER, "public", "c")),
}
RELATIONS = {
    ("app", "members"): Relation("r", row_security=False, foreign=False),
    ("app", "parts"): Relation("p", row_security=False, foreign=True),
    ("app", "secured"): Relation("r", row_security=True, foreign=False),
    ("app", "seen"): Relation("v", row_security=False, foreign=False),
    ("app", "far"): Relation("f", row_security=False, foreign=False),
}


def facts(*doubts: str) -> Facts:
    functions: dict[str, tuple[Function, ...]] = {}
    for each in FUNCTIONS:
        functions[each.name] = (*functions.get(each.name, ()), each)
    operators: dict[str, tuple[Operator, ...]] = {}
    for operator in OPERATORS:
        operators[operator.name] = (*operators.get(operator.name, ()), operator)
    return Facts(functions, operators, TYPES, RELATIONS, doubts)


def table(name: str = "docs", *more: str) -> Table:
    columns = [
        Column(each, n, 25, "text", 25, JsonKind.STRING, True)
        for n, each in enumerate(("id", "owner", "room", "body", *more), 1)
    ]
    return Table(1, "app", name, tuple(columns), ("id",), "d", ("id",), ())


def policy(expression: str, permissive: bool = True, name: str = "p", **how: object) -> Policy:
    return Policy(name, permissive, expression, frozenset(), False, **how)  # type: ignore[arg-type]


def joined(expression: str) -> Joinable | NotJoinable:
    return joinable([policy(expression)], table(), facts())


K0, K1 = "_walrus_claims._walrus_key_0", "_walrus_claims._walrus_key_1"

JOINABLE = [
    ("true", [], ["true"]),
    ("(owner = auth.uid())", ["auth.uid()"], [f"owner = {K0}"]),
    ("(owner = ( SELECT auth.uid() AS uid))", ["auth.uid()"], [f"owner = {K0}"]),
    # maximal keys
    (
        "((owner)::text = ((current_setting('request.jwt.claims'::text, true))::json ->> 'sub'::text))",
        ["current_setting('request.jwt.claims'::text, true)::pg_catalog.json ->> 'sub'::text"],
        [f"owner::text = {K0}"],
    ),
    (
        "(room = ANY (((auth.jwt() ->> 'rooms'::text))::integer[]))",
        ["(auth.jwt() ->> 'rooms'::text)::int[]"],
        [f"room = ANY({K0})"],
    ),
    ("(body = lower(auth.claim('name'::text)))", ["lower(auth.claim('name'::text))"], [f"body = {K0}"]),
    ("(body = auth.first('name'::text))", ["auth.first('name'::text)"], [f"body = {K0}"]),
    ("(body = COALESCE(auth.atomic(), 'x'::text))", ["COALESCE(auth.atomic(), 'x'::text)"], [f"body = {K0}"]),
    ("(auth.uid() IS NOT NULL)", ["auth.uid() IS NOT NULL"], [K0]),
    ("(body = auth.lookup())", ["auth.lookup()"], [f"body = {K0}"]),
    (
        "CASE WHEN (auth.role() = 'a'::text) THEN (room > 1) ELSE (owner = auth.uid()) END",
        ["auth.role() = 'a'::text", "auth.uid()"],
        [f"CASE WHEN {K0} THEN room > 1 ELSE owner = {K1} END"],
    ),
    # what a key may not be stays outside of it
    ("(body = ext.digest(auth.role()))", ["auth.role()"], [f"body = ext.digest({K0})"]),
    ("(body = covered(auth.role()))", ["covered(auth.role())"], [f"body = {K0}"]),
    ('(body = (auth.role() COLLATE "C"))', ["auth.role()"], [f'body = {K0} COLLATE "C"']),
    ("(body = (auth.role())::bpchar)", ["auth.role()"], [f"body = {K0}::bpchar"]),
    ("(body = bpchar(auth.role()))", ["auth.role()"], [f"body = bpchar({K0})"]),
    ("(body = (auth.role())::varchar(3))", ["auth.role()"], [f"body = {K0}::varchar(3)"]),
    ("(body > (auth.role())::date)", ["auth.role()"], [f"body > {K0}::date"]),
    ("((auth.role())::app.mood = body)", ["auth.role()"], [f"{K0}::app.mood = body"]),
    ("(auth.role() = CURRENT_USER)", ["auth.role()"], [f"{K0} = current_user"]),
    ("(body > now())", [], ["body > now()"]),
    ("pg_has_role('a'::name, 'usage'::text)", [], ["pg_has_role('a'::name, 'usage'::text)"]),
    ("(body OPERATOR(ext.===) auth.role())", ["auth.role()"], [f"body OPERATOR(ext.===) {K0}"]),
    ("(EXTRACT(year FROM body) > room)", [], ["extract ('year' FROM body) > room"]),
    # ORs are branches; not below a NOT, an AND or in a key
    ("((owner = auth.uid()) OR (room = 1) OR ((room = 2) OR (owner IS NULL)))", ["auth.uid()"],
     [f"owner = {K0}", "room = 1", "room = 2", "owner IS NULL"]),
    ("(NOT ((owner = auth.uid()) OR (room = 1)))", ["auth.uid()"], [f"NOT (owner = {K0} OR room = 1)"]),
    ("((room = 1) AND ((owner = auth.uid()) OR (room = 2)))", ["auth.uid()"],
     [f"room = 1 AND (owner = {K0} OR room = 2)"]),
    ("((auth.role() = 'a'::text) OR (auth.role() = 'b'::text))", ["auth.role() = 'a'::text OR auth.role() = 'b'::text"], [K0]),
    # sub-selects
    (
        "(EXISTS ( SELECT FROM app.members m WHERE ((m.room = docs.room) AND (m.member = auth.uid()))))",
        ["auth.uid()"],
        [f"SELECT FROM app.members m WHERE m.room = docs.room AND m.member = {K0}"],
    ),
    (
        "(room IN ( SELECT m.room FROM app.members m WHERE (m.member = auth.uid())))",
        ["auth.uid()"],
        [f"SELECT FROM app.members m WHERE docs.room = m.room AND m.member = {K0}"],
    ),
    (
        "((owner, room) IN ( SELECT m.member, m.room FROM app.members m WHERE (m.role = auth.role())))",
        ["auth.role()"],
        [f"SELECT FROM app.members m WHERE docs.owner = m.member AND docs.room = m.room AND m.role = {K0}"],
    ),
    # IN stays where an EXISTS may differ, or where it is a join as it is
    ("(room IN ( SELECT m.room FROM app.members m))", [], ["room IN (SELECT m.room FROM app.members m)"]),
    (
        "(NOT (room IN ( SELECT m.room FROM app.members m WHERE (m.member = auth.uid()))))",
        ["auth.uid()"],
        [f"NOT room IN (SELECT m.room FROM app.members m WHERE m.member = {K0})"],
    ),
    (
        "(room IN ( SELECT m.room FROM app.members m WHERE (m.member = auth.uid()) LIMIT 1))",
        ["auth.uid()"],
        [f"room IN (SELECT m.room FROM app.members m WHERE m.member = {K0} LIMIT 1)"],
    ),
    (
        "(room IN ( SELECT max(m.room) AS max FROM app.members m WHERE (m.member = auth.uid())))",
        ["auth.uid()"],
        [f"room IN (SELECT max(m.room) AS max FROM app.members m WHERE m.member = {K0})"],
    ),
    (
        "(room IN ( SELECT docs.room FROM app.members docs WHERE (docs.member = auth.uid())))",
        ["auth.uid()"],
        [f"room IN (SELECT docs.room FROM app.members docs WHERE docs.member = {K0})"],
    ),
    (
        "(room > ANY ( SELECT m.room FROM app.members m WHERE (m.member = auth.uid())))",
        ["auth.uid()"],
        [f"room > ANY (SELECT m.room FROM app.members m WHERE m.member = {K0})"],
    ),
    (
        "(room IN ( SELECT (j.j)::integer AS j FROM jsonb_array_elements_text((auth.jwt() -> 'rooms'::text)) j(j)))",
        ["auth.jwt() -> 'rooms'::text"],
        [f"room IN (SELECT j.j::int AS j FROM jsonb_array_elements_text({K0}) j(j))"],
    ),
    (
        "(( SELECT count(*) AS count FROM app.members) > 1)",
        [],
        ["(SELECT count(*) AS count FROM app.members) > 1"],
    ),
]  # fmt: skip


def _told(branch: Branch) -> str:
    """Its condition, or what it is joined with."""
    return branch.joins[0] if branch.joins and branch.condition == "(true)" else branch.condition


@pytest.mark.parametrize(("expression", "keys", "conditions"), JOINABLE)
def test_what_depends_on_the_claims_alone_is_a_key_and_each_side_of_an_or_a_branch(
    expression: str, keys: list[str], conditions: list[str]
) -> None:
    found = joined(expression)

    assert isinstance(found, Joinable), found
    assert list(found.keys) == keys
    assert [_told(branch) for branch in found.branches] == [
        condition if condition.startswith("SELECT") else f"({condition})" for condition in conditions
    ]
    for branch in found.branches:
        assert branch.by_claims == (K0[:-1] in _told(branch))


REFUSED = [
    *(
        (f"(body = bad.{name})", f"bad.{name.partition('(')[0]}()")
        for name in (
            "setting('a'::text)", "plpgsql()", "table()", "two()", "config()", "clock()", "today()", "who()", "calls()",
            "recursive()", "random()", "search()", "default()", "set()", "domain()", "labelled(body)", "backslash()",
            "overloaded()", "aggregate(body)",
        )
    ),
    # a function that reads the claims, with a value of the row
    ("(body = auth.claim(body))", "auth.claim()"),
    ("(body = current_setting(body))", "current_setting()"),
    ("(body = ext.stable(body))", "ext.stable()"),
    ("(random() < body)", "random()"),
    ("(body = shadowed(body))", "public.shadowed() has the name"),
    ("(body = app.shadowed())", "app.shadowed()"),
    ("(body = app.unknown())", "no function app.unknown"),
    ("(body @@ body)", "no operator @@"),
    ("(body OPERATOR(bad.===) auth.role())", "bad.==="),
    ("((auth.role())::app.checked = body)", "app.checked"),
    ("(ROW(1, 2)::app.pair IS NULL)", "app.pair"),
    ("(body = (body)::inet)", "public.inet"),
    ("(body = (table_to_xml('t'::regclass, true, false, ''::text))::text)", "table_to_xml()"),
    ("(EXISTS ( SELECT FROM pg_show_all_settings() s))", "pg_show_all_settings()"),
    ("(EXISTS ( SELECT FROM app.secured s))", "app.secured, which has row level security"),
    ("(EXISTS ( SELECT FROM app.seen s))", "app.seen, which is a view"),
    ("(EXISTS ( SELECT FROM app.far s))", "app.far, which is a foreign table"),
    ("(EXISTS ( SELECT FROM app.parts s))", "app.parts"),
    ("(EXISTS ( SELECT FROM app.nowhere s))", "app.nowhere"),
    ("(EXISTS ( SELECT FROM pg_settings s))", "pg_settings"),
    ("(EXISTS ( SELECT FROM auth.uid() u(u)))", "auth.uid()"),
    ("(EXISTS ( SELECT FROM current_setting('a'::text) u(u)))", "current_setting()"),
    ("(EXISTS ( WITH m AS (SELECT 1) SELECT FROM m))", "WITH"),
    ("(room IN ( VALUES (1), (2)))", "VALUES"),
    ("(EXISTS ( SELECT FROM app.members m FOR UPDATE))", "FOR UPDATE"),
    ("(( SELECT count(*) OVER () AS count FROM app.members m) > 1)", "window function"),
    # would be the outer query's once a key is its column
    ("(( SELECT count(auth.uid()) AS count FROM app.members m) > 1)", "aggregate"),
    ("(EXISTS ( SELECT FROM app.members m GROUP BY m.room HAVING (max(docs.room) > m.room)))", "aggregate"),
    ("(( SELECT count(( SELECT m.room)) AS count FROM app.members m) > 1)", "aggregate"),
    ("(1 IN ( SELECT auth.uid() FROM app.members m))", "no name"),
    ("(body = _walrus_claims.x)", "_walrus_"),
    ("(body = B'101'::text)", "bsval"),
    ("(body = XMLELEMENT(NAME a))", "XmlExpr"),
    ("body = ", "cannot be parsed"),
    ("true FROM app.members", "not one expression"),
    ("true; SELECT 1", "not one expression"),
    ("(" * 3000 + "true" + ")" * 3000, ""),
    ("NOT " * 300 + "hidden", ""),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_proven_is_not_joinable_and_says_why(expression: str, reason: str) -> None:
    found = joined(expression)

    if isinstance(found, Joinable) and not reason:
        return  # deep, but it was understood
    assert isinstance(found, NotJoinable), found
    assert reason in found.reason
    assert found.reason.startswith('policy "p" cannot be joined: ')


def test_restrictive_policies_are_in_each_branch() -> None:
    policies = [
        policy("(owner = auth.uid())", name="a"),
        policy("((room = 1) OR (room = 2))", name="b", permissive=False),
        policy("(auth.role() = 'x'::text)", name="c", permissive=False),
        policy("true", name="d"),
    ]

    found = joinable(policies, table(), facts())

    rest = f"(room = 1 OR room = 2) AND ({K1})"
    assert found == Joinable(
        ("auth.uid()", "auth.role() = 'x'::text"),
        (Branch(f"(owner = {K0}) AND {rest}", True, True), Branch(f"(true) AND {rest}", True, True)),
    )


def test_without_a_permissive_policy_there_is_no_branch() -> None:
    assert joinable([policy("true", permissive=False)], table(), facts()) == Joinable((), ())


def test_a_branch_says_whether_it_reads_the_row_and_the_claims() -> None:
    found = joined(
        "((auth.role() = 'x'::text) OR (room = 1) OR (owner = auth.uid()) OR true OR (docs.* IS NULL)"
        " OR (EXISTS ( SELECT FROM app.members m WHERE (m.member = auth.uid())))"
        " OR (EXISTS ( SELECT FROM app.members m WHERE (m.room = docs.room))))"
    )

    assert isinstance(found, Joinable), found
    assert [(branch.by_row, branch.by_claims) for branch in found.branches] == [
        (False, True),
        (True, False),
        (True, True),
        (False, False),
        (True, False),
        (False, True),
        (True, False),
    ]


@pytest.mark.parametrize(
    "refused",
    [
        joinable([policy("true")], table("_walrus_rows"), facts()),
        joinable([policy("true")], table("docs", "_Walrus_line"), facts()),
        joinable([policy("true", system_columns=frozenset({"xmin"}))], table(), facts()),
        joinable([policy("true", sayable=False)], table(), facts()),
        joinable([policy("true")], table(), facts("a doubt")),
    ],
)
def test_names_of_ours_system_columns_closed_schemas_and_the_catalogs_doubts_are_not_joinable(
    refused: Joinable | NotJoinable,
) -> None:
    assert isinstance(refused, NotJoinable)
