"""Names on the wire: reversible, never two tables for one, and clear errors where there can be none."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import ConfigError, SinkRefused
from bridge.naming import Destinations, RoutingKeys, check_template, escape, unescape

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=63)
DEFAULT = "{prefix}{schema}.{table}"


def destinations(
    template: str = DEFAULT, prefix: str = "realtime.", *, kafka: bool = True, **overrides: str
) -> Destinations:
    key = "sink.kafka.topic" if kafka else "sink.rabbitmq.exchange"
    named = {name.replace("__", "."): topic for name, topic in overrides.items()}
    return Destinations(key, template, prefix, named, kafka=kafka)


# -- escaping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("book", "book"),
        ("Book_2", "Book_2"),
        ("a.b", "a-2Eb"),
        ("a-b", "a-2Db"),
        ("Über", "-C3-9Cber"),
        ("a b", "a-20b"),
    ],
)
def test_bytes_that_are_not_safe_are_written_in_hex(name: str, written: str) -> None:
    assert escape(name) == written


@given(NAMES)
def test_escaping_can_be_undone(name: str) -> None:
    written = escape(name)

    assert re.fullmatch(r"[A-Za-z0-9_-]*", written)
    assert unescape(written) == name


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_two_tables_never_share_a_destination(one: tuple[str, str], other: tuple[str, str]) -> None:
    made = [
        destinations(kafka=False, prefix="").of(*table) for table in (one, other) if len(escape("".join(table))) < 200
    ]

    assert len(set(made)) == len({one, other}) or len(made) < 2


# -- destinations -------------------------------------------------------------------------------------------------


def test_a_destination_follows_the_template() -> None:
    assert destinations().of("public", "book") == "realtime.public.book"
    assert destinations("cdc-{table}-of-{schema}").of("my shop", "a.b") == "cdc-a-2Eb-of-my-20shop"
    assert destinations(prefix="x_").dead_letters == "x_dead-letter"


def test_a_topic_may_be_given_by_name() -> None:
    assert destinations(public__book="books").of("public", "book") == "books"


def test_a_name_too_long_for_kafka_names_the_table_and_the_way_out() -> None:
    schema, table = "ä" * 31, "ö" * 31

    with pytest.raises(SinkRefused, match=r"topic of ä+\.ö+ would have 382 characters.*sink\.kafka\.topics"):
        destinations().of(schema, table)

    assert destinations(**{f"{schema}__{table}": "short"}).of(schema, table) == "short"


def test_a_name_too_long_for_amqp_names_the_table_and_the_way_out() -> None:
    with pytest.raises(SinkRefused, match=r"exchange of ä+\.ö+ would have .* 255.*sink\.rabbitmq\.exchange"):
        destinations(kafka=False).of("ä" * 31, "ö" * 31)


def test_names_that_kafka_takes_for_one_clash() -> None:
    made = destinations()
    made.of("public_a", "b")

    with pytest.raises(SinkRefused, match=r"of public\.a_b clashes with that of public_a\.b: .*sink\.kafka\.topics"):
        made.of("public", "a_b")
    assert made.of("public_a", "b") == "realtime.public_a.b", "the first keeps its own"


def test_rabbitmq_tells_them_apart() -> None:
    made = destinations(kafka=False)

    assert made.of("public_a", "b") != made.of("public", "a_b")


def test_one_name_for_two_tables_clashes() -> None:
    made = destinations(public__a="same", public__b="same")
    made.of("public", "a")

    with pytest.raises(SinkRefused, match="clashes with that of public.a"):
        made.of("public", "b")


def test_tables_that_are_written_alike_are_still_two() -> None:
    made = destinations(a__b__c="same")
    made.of("a.b", "c")

    with pytest.raises(SinkRefused, match="clashes"):
        made.of("a", "b.c")


def test_a_table_cannot_take_the_dead_letters_place() -> None:
    with pytest.raises(SinkRefused, match="clashes with that of dead letters"):
        destinations(public__book="realtime.dead-letter").of("public", "book")


@pytest.mark.parametrize("topic", ["", "a b", "ä", "a/b", ".", "x" * 250])
def test_a_name_that_kafka_cannot_have_is_a_fault_of_the_config(topic: str) -> None:
    with pytest.raises(ConfigError, match=r"public\.book.*sink\.kafka\.topics"):
        destinations(public__book=topic)


def test_a_prefix_that_kafka_cannot_have_is_a_fault_of_the_config() -> None:
    with pytest.raises(ConfigError, match=r"sink\.kafka\.prefix"):
        destinations(prefix="über/")


# -- templates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ("{schema}.{tabel}", "{tabel}"),
        ("{schema}.{}", "{}"),
        ("{schema.x}.{table}", "{schema.x}"),
        ("{schema!r}.{table}", "format of its own"),
        ("{schema:>9}.{table}", "format of its own"),
        ("{schema}.{table", "no template"),
        ("{schema}", "lacks {table}"),
        ("all", "lacks {schema}"),
    ],
)
def test_a_template_that_cannot_be_filled_in_names_its_key(template: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=rf"^sink\.kafka\.topic: .*{re.escape(wrong)}.*What to do"):
        check_template("sink.kafka.topic", template, ("prefix", "schema", "table"), ("schema", "table"))


# -- routing keys -------------------------------------------------------------------------------------------------


def test_a_routing_key_has_schema_table_and_type() -> None:
    keys = RoutingKeys("sink.rabbitmq.routing_key", "{schema}.{table}.{type}")

    assert keys.of("public", "a.b", "INSERT") == "public.a-2Eb.insert"
    assert keys.of("public", "a.b", "DELETE") == "public.a-2Eb.delete"


def test_a_routing_key_too_long_for_amqp_is_an_error() -> None:
    with pytest.raises(SinkRefused, match=r"routing key of ä+\.ö+ would have .*sink\.rabbitmq\.routing_key"):
        RoutingKeys("sink.rabbitmq.routing_key", "{schema}.{table}.{type}").of("ä" * 31, "ö" * 31, "INSERT")


# -- which destinations may be a table's --------------------------------------------------------------------------


@given(NAMES, NAMES, st.sampled_from([DEFAULT, "{schema}.{table}", "{prefix}{schema}-{table}", "x.{table}+{schema}"]))
def test_a_tables_destination_may_be_a_tables(schema: str, table: str, template: str) -> None:
    made = destinations(template, kafka=False)
    name = template.format(prefix="realtime.", schema=escape(schema), table=escape(table))
    assert made.may_be_a_tables(name) or name == made.dead_letters


@pytest.mark.parametrize(
    "name",
    ["realtime.dead-letter", "realtime.position-realtime", "realtime.book", "public.book", "realtime.a.b.c", "x"],
)
def test_others_are_not(name: str) -> None:
    assert not destinations().may_be_a_tables(name)


def test_a_topic_that_is_given_to_a_table_is_a_tables() -> None:
    made = destinations(public__book="books")
    assert made.may_be_a_tables("books")
    assert not made.may_be_a_tables("books2")
