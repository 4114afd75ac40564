"""What arrives is what `walrus-bridge schema` says, by the schemas that it prints."""

import json
from collections.abc import Iterable
from typing import Any

import jsonschema
import pytest
import yaml

from tests.acceptance.test_parts import Message, config, from_kafka, from_rabbitmq, kafka_sink, rabbitmq_sink
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ

ALL = {
    ("INSERT", None),
    ("UPDATE", None),
    ("DELETE", None),
    *((kind, f"Error {error}") for kind in ("INSERT", "UPDATE") for error in (400, 401, 413)),
    ("DELETE", "Error 413"),
}


def make_all(database: Database) -> None:
    """A change of each kind and with each error; unchanged TOAST, leave events, parts, and policies that fail."""
    database.execute("""
        create table book (id int primary key, owner text, price numeric, story text, odd jsonb, list text[]);
        alter table book replica identity full, alter story set storage external;
        create table "no Key" (id int);
        alter table "no Key" replica identity full;
        create table hidden (id int primary key);
        create table toasted (id int primary key, long text, short text);
        alter table toasted alter long set storage external;
        create table failing (id int primary key);
        grant select on failing, toasted to authenticated;
        alter table failing enable row level security;
        create policy fails on failing using (1 / (id - id) = 1);
    """)
    for table in ("book", '"no Key"', "toasted"):
        database.subscribe(table)
    for table in ("hidden", "failing", "toasted"):
        database.subscribe(table, "authenticated", sub="00000000-0000-4000-8000-000000000001")
    database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims, filters) values"
        " (gen_random_uuid(), 'book', '{\"role\": \"postgres\"}',"
        " array[('owner', 'eq', 'alice')::realtime.user_defined_filter])"
    )


def change_all(database: Database) -> None:
    database.execute("""
        insert into book values (1, 'alice', 'NaN', null, '{"a": [1.50, null]}', '{{a},{b}}'), (2, 'alice', 1.10, 'x', '3', '{}');
        update book set owner = 'bob' where id = 1;
        update book set id = 3 where id = 2;
        insert into book values (4, 'alice', 0, repeat('x', 30000));
        update book set owner = 'bob', story = repeat('y', 30000) where id = 4;
        delete from book;
        insert into "no Key" values (1);
        update "no Key" set id = 2;
        delete from "no Key";
        insert into hidden values (1);
        update hidden set id = 2;
        delete from hidden;
        insert into toasted values (1, repeat('z', 9000), 'a');
        update toasted set short = 'b';
        insert into failing values (1);
    """)


def check(messages: Iterable[Message], asyncapi: dict[str, Any], message: str, value: dict[str, Any]) -> None:
    parts = asyncapi["components"]
    headers = jsonschema.Draft7Validator(parts["messages"][message]["headers"])
    values = jsonschema.Draft202012Validator(value), jsonschema.Draft7Validator(parts["schemas"][message])
    for each in messages:
        headers.validate(each.headers)
        for validator in values:
            validator.validate(each.value)


@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_all_that_arrives_fits_the_schemas(
    request: pytest.FixtureRequest,
    database: Database,
    prefix: str,
    bridge: Any,
    walrus_bridge: Any,
    broker: str,
    tmp_path: Any,
) -> None:
    server = request.getfixturevalue(broker)
    make_all(database)
    if isinstance(server, RabbitMQ):
        sink = rabbitmq_sink(server, prefix, route_by="subscription")
        bound = {f"{prefix}public.{table}": "#" for table in ("book", "no-20Key", "hidden", "toasted", "failing")}
        sink["rabbitmq"]["queues"] = [{"name": f"{prefix}inbox", "bindings": bound}]
    else:
        sink = kafka_sink(server, prefix)
        sink["kafka"]["create_topics"] = {"partitions": 1}  # read sooner
    settings = config(database, sink, events={"leave": True, "max_record_bytes": 20_000})
    running = bridge(config=settings)
    running.wait_until_streaming()
    change_all(database)
    database.wait_until_confirmed()

    file = tmp_path / "bridge.yaml"
    file.write_text(yaml.safe_dump(settings))
    asyncapi = json.loads(walrus_bridge("schema", "asyncapi", "--config", str(file)).stdout)
    event = json.loads(walrus_bridge("schema").stdout)
    letter = json.loads(walrus_bridge("schema", "dead-letter").stdout)
    jsonschema.Draft202012Validator.check_schema(event)
    jsonschema.Draft202012Validator.check_schema(letter)
    if isinstance(server, Kafka):
        topics = sorted(name for name in server.topics() if name.startswith(f"{prefix}public."))
        messages = [message for topic in topics for message in from_kafka(server, topic)]
        letters = from_kafka(server, asyncapi["channels"]["dead-letters"]["address"])
        address = asyncapi["channels"]["events"]["address"]
        assert set(topics) >= {address.format(schema="public", table=table) for table in ("book", "no-20Key")}
    else:
        messages = from_rabbitmq(server, f"{prefix}inbox")
        letters = from_rabbitmq(server, asyncapi["channels"]["dead-letters"]["address"])
    check(messages, asyncapi, "event", event)
    check(letters, asyncapi, "deadLetter", letter)
    seen = {(each.value["wal"]["type"], (each.value["errors"] or [None])[0]) for each in messages}
    assert {(kind, error and error[:9]) for kind, error in seen} == ALL
    assert {name for each in messages for name in each.headers} >= {"leave", "unchanged_toast"}
    assert {each.value["dead_letter"]["table"] for each in letters} == {"failing"}
    # And they are strict enough to tell that something is amiss
    for wrong in ({**messages[0].value, "more": 1}, {**messages[0].value, "errors": ["Error 500"]}, letters[0].value):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, event)
