"""Every secret is changed while rows are written: two passwords, both logins, an authority, RabbitMQ's user and Kafka's."""

import contextlib
import json
import pathlib
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pika
import psycopg
import pytest

from bridge import migrations
from bridge.cluster import free_port
from bridge.config import Kafka as KafkaConfig
from bridge.errors import Exit, SinkRefused
from bridge.sinks.kafka import KafkaSink
from tests.acceptance.conftest import ROLES_SQL
from tests.acceptance.runbooks.conftest import Desk
from tests.command import environment
from tests.servers.bridge import BridgeProcess
from tests.servers.certificates import Authority
from tests.servers.kafka import Kafka
from tests.servers.postgres import SUPABASE, Database
from tests.servers.process import running as running_server
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.secure_postgres import SecureCluster, secure_cluster
from tests.servers.waiting import wait_until

ALICE = "a11ce000-0000-4000-8000-000000000001"
TABLE = """
create table book (id int primary key, owner uuid);
alter table book enable row level security;
create policy own on book to authenticated using (owner = auth.uid());
grant select on book to authenticated;
"""
SCRAM = """
listener.name.asking.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.asking.scram-sha-512.sasl.jaas.config=\\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


class AskingKafka(Kafka):
    """With a second listener, where a login is needed: at first that of walrus_a."""

    def __init__(self, home: pathlib.Path) -> None:
        super().__init__(home)
        self.asking = f"127.0.0.1:{free_port()}"
        path = home / "server.properties"
        settings = path.read_text().replace(
            f"PLAINTEXT://{self.servers}", f"PLAINTEXT://{self.servers},ASKING://{self.asking}"
        )
        path.write_text(settings.replace("protocol.map=", "protocol.map=ASKING:SASL_PLAINTEXT,") + SCRAM)

    def _run(self, main: str, *arguments: str) -> None:
        if main.endswith("StorageTool"):
            arguments += ("--add-scram", "SCRAM-SHA-512=[name=walrus_a,password=first]")
        super()._run(main, *arguments)


@pytest.fixture
def asking() -> Iterator[AskingKafka]:
    with running_server(AskingKafka) as server:
        yield server


@pytest.fixture
def cluster() -> Iterator[SecureCluster]:
    with secure_cluster("scram-sha-256") as running:
        yield running


@pytest.fixture
def server(
    cluster: SecureCluster, tmp_path: pathlib.Path, prefix: str, bridge: Callable[..., BridgeProcess]
) -> Iterator[Desk]:
    database = Database(cluster, "postgres")
    with contextlib.closing(database.connection):
        database.execute(SUPABASE)
        migrations.deploy(cluster.dsn())
        yield Desk(database, tmp_path, prefix, bridge)


@pytest.fixture
def users(rabbitmq: RabbitMQ, prefix: str) -> Iterator[None]:
    """walrus_a, who may do what a bridge does, and at the end neither of the two."""
    escaped = re.escape(prefix)
    rabbitmq.control("add_user", "walrus_a", "first")
    rabbitmq.control("set_permissions", "walrus_a", f"^{escaped}", rf"^({escaped}.*|amq\.default)$", f"^{escaped}")
    yield
    for name in {"walrus_a", "walrus_b"} & set(rabbitmq.control("-q", "list_users").split()):
        rabbitmq.control("delete_user", name)


class Secrets:
    """`secrets.env`, and the environment of what is started."""

    def __init__(self, folder: pathlib.Path, environment: pytest.MonkeyPatch, **values: str) -> None:
        self._path = folder / "secrets.env"
        self._environment = environment
        self.values: dict[str, str] = {}
        self.change(**values)

    def change(self, **values: str) -> dict[str, str]:
        """What was there before."""
        before = dict(self.values)
        self.values |= values
        lines = ["# secrets.env", *(f"{name}={value}" for name, value in self.values.items())]
        self._path.write_text("\n".join(lines) + "\n")
        for name, value in values.items():
            self._environment.setenv(name, value)
        return before


def connects(connection: str) -> bool:
    try:
        psycopg.connect(connection).close()
    except psycopg.OperationalError:
        return False
    return True


def refused(connection: str) -> str:
    with pytest.raises(psycopg.OperationalError) as raised:
        psycopg.connect(connection)
    return str(raised.value)


@pytest.mark.usefixtures("users")
def test_key_rotation(
    server: Desk,
    cluster: SecureCluster,
    rabbitmq: RabbitMQ,
    asking: AskingKafka,
    bridge: Callable[..., BridgeProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, database, prefix = server, server.database, server.prefix
    database.execute(TABLE)
    database.subscribe("book", "authenticated", sub=ALICE)
    authority = shutil.copy(cluster.authority.certificate, desk.folder / "authority.pem")
    shutil.copy(ROLES_SQL, desk.folder)
    subprocess.run(
        ["psql", "-X", "-q", "-v", "claims_roles=authenticated", "-f", "roles.sql", "-d", cluster.dsn()],
        cwd=desk.folder,
        env=environment(WALRUS_SOURCE_PASSWORD="first", WALRUS_JUDGE_PASSWORD="first"),
        check=True,
    )
    # As where it applies the migrations itself.
    database.execute("alter table walrus_bridge.slot owner to walrus_source")
    desk.has_rabbitmq(rabbitmq)
    desk.has_kafka(asking)

    def postgresql(user: str, password: str) -> str:
        return cluster.secure_dsn("postgres", user=f"{user}:{password}", sslrootcert=str(authority))

    def amqp(user: str, password: str) -> str:
        return f"amqp://{user}:{password}@127.0.0.1:{rabbitmq.port}/%2F"

    written = 0

    def write() -> None:
        nonlocal written
        written += 1
        database.execute("insert into book values (%s, %s)", (written, ALICE))

    def settled() -> None:
        """The replay window is connected, and what was before this bridge's start has gone."""

        def has_window() -> bool:
            return (told := desk.told()) is not None and any(slot.use == "replay" for slot in told.slots)

        running.wait_for(has_window, "the replay window")
        query = "select count(*) from pg_stat_activity where usename like 'walrus%'"
        wait_until(lambda: database.execute(query) == [(4,)], "four connections")

    kept = Secrets(
        desk.folder,
        monkeypatch,
        SOURCE_CONNECTION=postgresql("walrus_source", "wrong"),
        JUDGE_CONNECTION=postgresql("walrus_judge", "first"),
        RABBITMQ_URL=amqp("walrus_a", "wrong"),
        KAFKA_USER="walrus_a",
        KAFKA_PASSWORD="first",
    )
    book = desk.book("key-rotation")
    book.bind("db.example:5432", f"localhost:{cluster.port}")
    book.bind("mq.example:5672", f"127.0.0.1:{rabbitmq.port}")
    book.bind("localhost:9092", asking.servers)
    book.bind(r"realtime\.", re.escape(prefix))
    inbox = {"name": f"{prefix}inbox", "bindings": {f"{prefix}public.book": "#"}}
    own: dict[str, Any] = {"rls": {"connection": "${JUDGE_CONNECTION}"}, "migrations": "check"}
    login = {"connection": "${SOURCE_CONNECTION}", "replay_window": "1GiB"}
    to_rabbitmq = desk.settings({"rabbitmq": {"url": "${RABBITMQ_URL}", "queues": [inbox]}}, login, **own)
    client = {
        "bootstrap.servers": asking.asking,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
    }
    asked = {"sasl.username": "${KAFKA_USER}", "sasl.password": "${KAFKA_PASSWORD}"}
    to_kafka = desk.settings({"kafka": {"client": client | asked}}, login, **own)

    # Signs
    failing = bridge(config=to_rabbitmq)
    assert failing.wait() == Exit.SOURCE_REFUSED
    book.found_in(failing.stderr)
    kept.change(SOURCE_CONNECTION=postgresql("walrus_source", "first"))
    failing = bridge(config=to_rabbitmq)
    assert failing.wait() == Exit.SINK_REFUSED
    book.found_in(failing.stderr)
    kept.change(RABBITMQ_URL=amqp("walrus_a", "first"))
    running = desk.start(to_rabbitmq)
    settled()
    book.run(until="password walrus_source")

    # A new password for each login at PostgreSQL
    password = secrets.token_hex(24)
    book.run(until="while read", typed=f"{password}\n{password}\n")
    write()
    database.wait_until_confirmed()
    old = kept.change(
        SOURCE_CONNECTION=postgresql("walrus_source", password), JUDGE_CONNECTION=postgresql("walrus_judge", password)
    )
    assert "password authentication failed" in refused(old["SOURCE_CONNECTION"])
    assert "password authentication failed" in refused(old["JUDGE_CONNECTION"])
    book.run(until="source_login")
    assert running.stop() == Exit.OK
    write()
    running = desk.start(to_rabbitmq)

    # Second logins
    book.run(until="usename in", typed=f"{password}\n{password}\n")
    old = kept.change(
        SOURCE_CONNECTION=postgresql("walrus_source_b", password),
        JUDGE_CONNECTION=postgresql("walrus_judge_b", password),
    )
    write()
    assert running.stop() == Exit.OK
    running = desk.start(to_rabbitmq)
    settled()
    book.run(until="pg_terminate_backend")
    assert "password authentication failed" in refused(old["SOURCE_CONNECTION"])
    assert database.execute("select slot_name from walrus_bridge.slot") == [("realtime",)]

    # A new authority, and connections that are ended when its certificate is there
    streamed = running.stderr.count("] streaming ")
    book.run(until="cat new-authority")
    running.wait_until_streaming(streamed + 1)
    new = Authority(desk.folder / "new", "new-authority")
    shutil.copy(new.certificate, desk.folder)
    book.run(until="pg_reload_conf")
    cluster.present(new)
    book.run(until="openssl")
    with_the_old_alone = cluster.secure_dsn("postgres", user=f"walrus_source_b:{password}")
    wait_until(lambda: not connects(with_the_old_alone), "the new certificate")
    assert "certificate verify failed" in refused(with_the_old_alone)
    book.run(until="list_user_permissions")
    database.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'realtime'")
    write()
    running.wait_until_streaming(streamed + 2)

    # Another user at RabbitMQ
    book.run(until="list_connections", typed=f"{password}\n")
    old = kept.change(RABBITMQ_URL=amqp("walrus_b", password))
    write()
    assert running.stop() == Exit.OK
    running = desk.start(to_rabbitmq)
    book.run(until="umask")
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(old["RABBITMQ_URL"]))
    write()
    database.wait_until_confirmed()
    assert running.stop() == Exit.OK
    with rabbitmq.connect() as connection:
        channel = connection.channel()
        got = set()
        while (found := channel.basic_get(inbox["name"], auto_ack=True))[0] is not None:
            got.add(json.loads(found[2])["wal"]["record"]["id"])
        channel.queue_delete(inbox["name"])
    assert got == set(range(1, written + 1))

    # And at Kafka
    before = written
    running = desk.start(to_kafka)
    write()
    database.wait_until_confirmed()
    book.run(until="delete-config")
    chosen = (desk.folder / "walrus_b.properties").read_text().rpartition("password=")[2].strip()
    kept.change(KAFKA_USER="walrus_b", KAFKA_PASSWORD=chosen)
    write()
    assert running.stop() == Exit.OK
    running = desk.start(to_kafka)
    write()
    book.run(until="curl")

    def is_refused() -> bool:
        """The broker may take a moment to forget a password."""
        old = client | {"sasl.username": "walrus_a", "sasl.password": "first"}
        sink = KafkaSink(KafkaConfig(prefix=prefix, client=old))
        try:
            sink.open([])
        except SinkRefused as error:
            return "refuses the connection" in str(error)
        finally:
            sink.close()
        return False

    wait_until(is_refused, "the old password is refused")
    write()
    database.wait_until_confirmed()
    running.wait_for(lambda: desk.lag() == 0, "no lag")
    book.run()
    book.finished()

    assert running.stop() == Exit.OK
    records = [json.loads(message.value() or b"")["wal"]["record"] for message in asking.read(f"{prefix}public.book")]
    assert {record["id"] for record in records} == set(range(before + 1, written + 1))
