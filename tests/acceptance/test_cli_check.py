"""`walrus-bridge check` on real servers: what it says of logins, tables and brokers."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import conninfo as pg_conninfo

from bridge.errors import Exit

ROLES = Path(__file__).parents[2] / "deploy" / "roles.sql"


class Place(msgspec.Struct, frozen=True):
    """A database with the migrations, a subscribed table, and the two logins of roles.sql."""

    dsn: str
    source: str
    judge: str
    claim: str
    slot: str

    def as_user(self, user: str) -> str:
        return pg_conninfo.make_conninfo(self.dsn, user=user)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode())

    def config(self, rest: str = "sink: {stdout: {}}", *, judge: bool = True) -> str:
        connection = f"'{self.as_user(self.judge)}'" if judge else "null"
        return (
            f"source: {{connection: '{self.as_user(self.source)}', slot: {self.slot}}}\n"
            f"rls: {{connection: {connection}}}\nmigrations: check\n{rest}\n"
        )


@pytest.fixture
def place(dsn: str, walrus_bridge) -> Iterator[Place]:
    unique = uuid.uuid4().hex[:8]
    place = Place(dsn, f"source_{unique}", f"judge_{unique}", f"claim {unique}", f"check_{unique}")
    assert walrus_bridge("migrate", "deploy", "--connection", dsn).status == 0
    place.execute(
        f'create role "{place.claim}"; create table book (id int primary key, title text);'
        f'grant select on book to "{place.claim}";'
        f"insert into realtime.subscription (subscription_id, entity, claims)"
        f""" values (gen_random_uuid(), 'book', '{{"role": "{place.claim}"}}')"""
    )
    names = ["-v", f"source_login={place.source}", "-v", f"judge_login={place.judge}"]
    subprocess.run(["psql", "-X", "-q", *names, "-f", str(ROLES), dsn], check=True, capture_output=True)
    yield place
    for name in (place.source, place.judge, place.claim):
        place.execute(f'drop owned by "{name}" cascade; drop role "{name}"')


def findings(done: Any) -> list[dict[str, Any]]:
    return [each for each in json.loads(done.stdout) if each["level"] != "ok"]


def test_with_the_logins_of_roles_sql_all_is_ok(walrus_bridge, place: Place, config_file) -> None:
    done = walrus_bridge("check", "--config", config_file(place.config()))

    assert done.status == 0, done.stdout + done.stderr
    assert done.stdout.endswith("no errors, 0 warnings\n")
    assert "\x1b[" not in done.stdout
    for name in ("source.connection", "wal_level", "source.plugin", "migrations", "claims roles", "rls.connection"):
        assert f"ok       {name:25}  " in done.stdout
    assert place.claim in done.stdout


def test_policies_on_the_source_login_are_a_warning(walrus_bridge, place: Place, config_file) -> None:
    # Given no judging login, and a source login that may become the claims role
    place.execute(f'grant "{place.claim}" to "{place.source}"')

    done = walrus_bridge("check", "--json", "--config", config_file(place.config(judge=False)))

    assert done.status == 0, done.stderr
    assert [(each["name"], each["level"]) for each in findings(done)] == [("rls.connection", "warning")]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ('alter role "{judge}" createdb', "has CREATEDB"),
        ('alter role "{judge}" superuser', "has SUPERUSER"),
        ('alter role "{judge}" inherit', "without becoming them"),
        ('grant select on book to "{judge}"', "rights of its own on table book"),
        ('grant create on schema public to "{judge}"', "rights of its own on schema public"),
        ('create table mine (); alter table mine owner to "{judge}"', "owns table mine"),
        ('alter role "{claim}" createrole', "may become {claim}, which can do"),
    ],
)
def test_whatever_more_the_judging_login_may_do_is_an_error(
    statement: str, says: str, walrus_bridge, place: Place, config_file
) -> None:
    # Given one thing more that a policy function could use
    names = {"judge": place.judge, "claim": place.claim}
    place.execute(statement.format(**names))

    done = walrus_bridge("check", "--json", "--config", config_file(place.config()))

    # Then it is named
    done.refused(Exit.CHECK_FAILED)
    assert [(each["name"], each["level"]) for each in findings(done)] == [("rls.connection", "error")]
    assert says.format(**names) in findings(done)[0]["what"]
    assert findings(done)[0]["remedy"]


def test_a_judging_login_that_may_not_become_the_claims_role(walrus_bridge, place: Place, config_file) -> None:
    place.execute(f'revoke "{place.claim}" from "{place.judge}"')

    done = walrus_bridge("check", "--json", "--config", config_file(place.config()))

    done.refused(Exit.CHECK_FAILED)
    assert [(each["name"], each["level"]) for each in findings(done)] == [("claims roles", "error")]


def test_the_temporary_tables_of_a_running_bridge_are_no_rights_of_the_judging_login(
    walrus_bridge, place: Place, config_file
) -> None:
    # Given the claims of a bridge that runs, as key_tables.py has them
    with psycopg.connect(place.as_user(place.judge), autocommit=True) as bridge:
        bridge.execute(
            "create temp table claims (id int primary key);"
            "create function pg_temp.keys(text[]) returns text language sql return $1[1];"
            "grant select on claims to public; grant execute on function pg_temp.keys to public"
        )

        done = walrus_bridge("check", "--config", config_file(place.config()))

    assert done.status == 0, done.stdout + done.stderr
    assert "0 warnings" in done.stdout


def test_a_judging_login_of_another_database(walrus_bridge, place: Place, config_file) -> None:
    text = place.config().replace(
        place.as_user(place.judge), pg_conninfo.make_conninfo(place.as_user(place.judge), dbname="postgres")
    )

    done = walrus_bridge("check", "--json", "--config", config_file(text))

    done.refused(Exit.CHECK_FAILED)
    assert "another database" in findings(done)[0]["what"]


def test_a_source_login_that_may_do_too_little(walrus_bridge, place: Place, config_file) -> None:
    # Given a source login without REPLICATION and without the bridge's own schema
    place.execute(
        f'alter role "{place.source}" noreplication; revoke all on schema walrus_bridge from "{place.source}";'
        f'revoke pg_read_all_data from "{place.source}"'
    )

    done = walrus_bridge("check", "--json", "--config", config_file(place.config()))

    # Then each lack is named
    done.refused(Exit.CHECK_FAILED)
    errors = {each["name"] for each in findings(done) if each["level"] == "error"}
    assert {"replication", "source.plugin", "subscriptions", "walrus_bridge"} <= errors


def test_tables_that_lose_changes_are_warnings(walrus_bridge, place: Place, config_file) -> None:
    place.execute(
        "create table plain (a int); create table loose (id int primary key);"
        "create table measured (id int primary key, value float8);"
        "create table deferred (id int, primary key (id) deferrable);"
        "create table parent (id int primary key) partition by range (id);"
        "create table part partition of parent for values from (0) to (9); alter table part replica identity nothing;"
    )
    for name in ("plain", "loose", "measured", "deferred", "parent"):
        place.execute(
            f'grant select on {name} to "{place.claim}";'
            "insert into realtime.subscription (subscription_id, entity, claims)"
            f""" values (gen_random_uuid(), '{name}', '{{"role": "{place.claim}"}}')"""
        )

    place.execute("alter table loose set unlogged")

    done = walrus_bridge("check", "--json", "--config", config_file(place.config()))

    assert done.status == 0
    said = [f"{each['name']}: {each['what']}" for each in findings(done)]
    assert [line.split(":")[0] for line in said] == [
        "table public.deferred",
        "table public.deferred",
        "table public.loose",
        "table public.part",
        "table public.plain",
        "table public.plain",
        "values",
    ]
    assert "public.measured" in said[-1]


def test_a_publication_is_asked_for_with_its_sql(walrus_bridge, place: Place, config_file) -> None:
    # Given pgoutput and no publication
    text = place.config().replace("slot:", "plugin: pgoutput, publication: bridge, slot:")

    done = walrus_bridge("check", "--json", "--config", config_file(text))

    # Then the SQL is given, and it does
    done.refused(Exit.CHECK_FAILED)
    remedy = findings(done)[0]["remedy"]
    place.execute(remedy.partition(";")[0])
    assert walrus_bridge("check", "--config", config_file(text)).status == 0

    # When it publishes too little
    place.execute("alter publication bridge set (publish = 'insert', publish_via_partition_root = true)")
    done = walrus_bridge("check", "--json", "--config", config_file(text))
    assert [each["name"] for each in findings(done)] == ["source.publication"] * 2


@pytest.mark.parametrize(
    ("sink", "name"),
    [
        ("kafka: {client: {bootstrap.servers: '127.0.0.1:1'}}", "sink.kafka"),
        ("rabbitmq: {url: 'amqp://u:geheim@127.0.0.1:1/%2F'}", "sink.rabbitmq"),
    ],
)
def test_a_broker_that_is_away_is_one_finding_among_the_others(
    sink: str, name: str, walrus_bridge, place: Place, config_file
) -> None:
    done = walrus_bridge("check", "--json", "--config", config_file(place.config(f"sink: {{{sink}}}")))

    done.refused(Exit.CHECK_FAILED)
    assert [(each["name"], each["level"]) for each in findings(done)] == [(name, "error")]
    assert "geheim" not in done.stdout + done.stderr


def test_kafka_is_reached_and_its_topics_can_be_used(
    walrus_bridge, place: Place, config_file, kafka, prefix: str
) -> None:
    sink = f"sink: {{kafka: {{prefix: {prefix}, client: {{bootstrap.servers: '{kafka.servers}'}}}}}}"

    done = walrus_bridge("check", "--config", config_file(place.config(sink)))

    assert done.status == 0, done.stdout + done.stderr
    assert f"ok       {'sink.kafka':25}  " in done.stdout
    assert f"{prefix}public.book" in kafka.topics()


def test_a_missing_topic_that_may_not_be_made_is_an_error(
    walrus_bridge, place: Place, config_file, kafka, prefix: str
) -> None:
    sink = (
        f"sink: {{kafka: {{prefix: {prefix}, create_topics: false, client: {{bootstrap.servers: '{kafka.servers}'}}}}}}"
    )
    path = config_file(place.config(sink) + "http: {listen: null}\n")

    check = walrus_bridge("check", "--json", "--config", path)
    run = walrus_bridge("run", "--config", path)

    check.refused(Exit.CHECK_FAILED)
    assert [each["name"] for each in findings(check)] == ["sink.kafka"]
    run.refused(Exit.SINK_REFUSED, prefix, "What to do")


def test_rabbitmq_is_reached_and_its_exchanges_can_be_used(
    walrus_bridge, place: Place, config_file, rabbitmq, prefix: str
) -> None:
    sink = f"sink: {{rabbitmq: {{prefix: {prefix}, url: '{rabbitmq.url}'}}}}"

    done = walrus_bridge("check", "--config", config_file(place.config(sink)))

    assert done.status == 0, done.stdout + done.stderr
    assert f"ok       {'sink.rabbitmq':25}  " in done.stdout
    assert f"{prefix}public.book" in rabbitmq.control("list_exchanges", "name")


def test_check_leaves_nothing_behind(walrus_bridge, place: Place, config_file) -> None:
    walrus_bridge("check", "--config", config_file(place.config()))

    with psycopg.connect(place.dsn) as connection:
        found = connection.execute(
            "select slot_name from pg_replication_slots where slot_name = %s or slot_name like 'walrus_bridge_check%%'",
            (place.slot,),
        ).fetchall()
    assert found == []
