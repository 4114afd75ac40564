"""`walrus-bridge tail`: what Kafka's topics, RabbitMQ's exchanges and a bridge's output carry, for people."""

import json
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.errors import Exit
from tests.acceptance.topics import committed, config, consume, header, headers, make, producing, write
from tests.command import Done, environment, program
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import PATIENCE, wait_until

Command = Callable[..., Done]
ConfigFile = Callable[[str], str]
ALICE = "af68a1b5-fbb3-4154-84cc-a2ee1a7048f9"


class Tail:
    """The command as a process that goes on."""

    def __init__(self, folder: pathlib.Path, *arguments: str, stdin: Any = subprocess.DEVNULL) -> None:
        self._out, self._err = folder / "tail.out", folder / "tail.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [program(), "tail", *arguments], stdin=stdin, stdout=out, stderr=err, env=environment()
            )

    @property
    def lines(self) -> list[str]:
        return self._out.read_text(encoding="utf-8").splitlines()

    @property
    def stderr(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def wait_for(self, *words: str) -> list[str]:
        """Until each of these is in a line of its own, in this order, and there are no others."""

        def arrived() -> bool:
            assert self.process.poll() is None or len(self.lines) >= len(words), self.stderr
            return len(self.lines) >= len(words)

        wait_until(arrived, f"{len(words)} lines")
        lines = self.lines
        assert len(lines) == len(words), lines
        for line, word in zip(lines, words, strict=True):
            assert word in line
        return lines

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


@pytest.fixture
def tail(tmp_path: pathlib.Path) -> Iterator[Callable[..., Tail]]:
    started: list[Tail] = []

    def start(*arguments: str, **how: Any) -> Tail:
        started.append(Tail(tmp_path, *arguments, **how))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait(PATIENCE)


def value(number: int, table: str = "book", subscription: str = ALICE) -> bytes:
    wal = {"schema": "public", "table": table, "type": "INSERT", "record": {"id": number}}
    return json.dumps({"wal": wal, "subscription_ids": [subscription]}, separators=(",", ":")).encode()


def put(kafka: Kafka, topic: str, lsn: str, number: int, partition: int = 0, **how: Any) -> None:
    with producing(kafka) as producer:
        producer.produce(topic, value(number, **how), b'{"id":%d}' % number, partition, headers=headers(lsn))


# -- Kafka --------------------------------------------------------------------------------------------------------


def test_the_last_messages_in_their_order_then_what_comes(
    kafka: Kafka, prefix: str, config_file: ConfigFile, tail: Callable[..., Tail]
) -> None:
    topic = make(kafka, f"{prefix}public.book", 2)
    for number in range(6):
        put(kafka, topic, f"0/{number}0", number, number % 2)
    running = tail("--config", config_file(config(kafka, prefix)), "--last", "3")
    running.wait_for('{"id":3}', '{"id":4}', '{"id":5}')
    put(kafka, topic, "0/60", 6)
    running.wait_for('{"id":3}', '{"id":4}', '{"id":5}', '{"id":6}')
    assert running.interrupt() == Exit.OK
    assert running.stderr == ""


def test_events_of_the_bridge_from_an_lsn_on(
    database: Database, kafka: Kafka, prefix: str, bridge: Any, walrus_bridge: Command, config_file: ConfigFile
) -> None:
    database.execute('create table "odd.Name" (id int primary key); create table other (id int primary key)')
    subscription = database.subscribe('"odd.Name"')
    database.subscribe("other")
    settings = {
        "source": {"connection": database.dsn, "slot": database.slot},
        "sink": {"kafka": {"prefix": prefix, "client": {"bootstrap.servers": kafka.servers}}},
        "http": {"listen": None},
    }
    running = bridge(config=settings)
    running.wait_until_streaming()
    for number in range(4):
        database.execute('insert into "odd.Name" values (%s)', (number,))
        database.execute("insert into other values (%s)", (number,))
    database.wait_until_confirmed()
    topic = f"{prefix}public.odd-2EName"
    lsns = {each.key(): header(each, "commit_lsn") for each in kafka.read(topic)}
    path = config_file(config(kafka, prefix))

    def shown(*arguments: str) -> list[str]:
        done = walrus_bridge("tail", "--config", path, "--no-follow", *arguments)
        assert done.status == Exit.OK, done.stderr
        return done.stdout.splitlines()

    lsn = lsns[b'{"id":2}']
    lines = shown("--from-lsn", lsn, "--table", "public.odd\\.Name")
    assert {line.split(" ", 2)[1] for line in lines} == {lsn, lsns[b'{"id":3}']}
    assert all("INSERT public.odd.Name" in line and "1 subscription as postgres" in line for line in lines)
    assert len(shown("--from-lsn", lsn, topic)) == 2
    assert len(shown("--from-lsn", lsn)) == 4  # the other table's from there on, too
    assert len(shown("--last", "100")) == 8
    assert len(shown("--last", "100", "--subscription", subscription.upper())) == 4
    assert len(shown("--last", "100", "--table", "public.other", "--subscription", subscription)) == 0
    values = sorted(json.loads(line)["wal"]["record"]["id"] for line in shown("--json", "--last", "100", topic))
    assert values == [0, 1, 2, 3]
    assert running.stop() == Exit.OK


def test_it_disturbs_no_group_and_makes_none(
    kafka: Kafka, prefix: str, config_file: ConfigFile, tail: Callable[..., Tail]
) -> None:
    topic, group = make(kafka, f"{prefix}public.book"), f"{prefix}group"
    put(kafka, topic, "0/10", 1)
    consume(kafka, group, topic)
    admin = kafka.admin

    def groups() -> set[str]:
        return {each.group_id for each in admin.list_consumer_groups(request_timeout=10).result().valid}

    before = groups()
    running = tail("--config", config_file(config(kafka, prefix)))
    running.wait_for('{"id":1}')
    assert groups() == before
    assert committed(kafka, group, topic) == [1]
    assert running.interrupt() == Exit.OK


def test_other_programs_messages_and_uncommitted_ones(
    kafka: Kafka, prefix: str, config_file: ConfigFile, walrus_bridge: Command
) -> None:
    topic = make(kafka, f"{prefix}public.book")
    write(kafka, topic, [None])
    with producing(kafka) as producer:
        producer.produce(topic, b"hello", partition=0)
    with producing(kafka, **{"transactional.id": prefix}) as producer:
        producer.init_transactions(20)
        producer.begin_transaction()
        producer.produce(topic, value(1), partition=0, headers=headers("0/10"))
        producer.flush(20)
        path = config_file(config(kafka, prefix))
        done = walrus_bridge("tail", "--config", path, "--no-follow")
        assert done.stdout.splitlines()[-1] == "no event of a bridge, 5 bytes"
        assert '{"id":1}' not in done.stdout
        producer.abort_transaction(20)
    done = walrus_bridge("tail", "--config", path, "--no-follow")
    assert '{"id":1}' not in done.stdout
    assert "hello" not in walrus_bridge("tail", "--config", path, "--no-follow", "--json").stdout


def test_a_long_topic_whose_reader_leaves(
    kafka: Kafka, prefix: str, config_file: ConfigFile, tmp_path: pathlib.Path
) -> None:
    topic = make(kafka, f"{prefix}public.book")
    with producing(kafka) as producer:
        for number in range(5000):
            producer.produce(topic, value(number), partition=0, headers=headers("0/10"))
    command = f"{program()} tail --config {config_file(config(kafka, prefix))} --from-lsn 0/10 | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, env=environment(), check=False
    )
    assert '{"id":0}' in done.stdout
    assert "Traceback" not in done.stderr


def test_topics_that_are_not_there(kafka: Kafka, prefix: str, config_file: ConfigFile, walrus_bridge: Command) -> None:
    path = config_file(config(kafka, prefix))
    walrus_bridge("tail", "--config", path, "none").refused(Exit.SINK_REFUSED, "no topic none")
    walrus_bridge("tail", "--config", path, "--table", "public.a").refused(Exit.SINK_REFUSED, f"{prefix}public.a")


def test_a_topic_that_is_deleted_meanwhile(
    kafka: Kafka, prefix: str, config_file: ConfigFile, tail: Callable[..., Tail]
) -> None:
    topic = make(kafka, f"{prefix}public.book")
    put(kafka, topic, "0/10", 1)
    running = tail("--config", config_file(config(kafka, prefix)))
    running.wait_for('{"id":1}')
    admin = kafka.admin
    admin.delete_topics([topic])[topic].result()
    assert running.process.wait(PATIENCE) == Exit.SINK_REFUSED
    assert topic in running.stderr


# -- RabbitMQ -----------------------------------------------------------------------------------------------------


def rabbit_config(rabbitmq: RabbitMQ, prefix: str, **more: str) -> str:
    rest = "".join(f", {name}: {text}" for name, text in more.items())
    return f"sink: {{rabbitmq: {{url: '{rabbitmq.url}', prefix: {prefix}{rest}}}}}"


def test_an_exchange_is_looked_at_and_the_users_queue_keeps_its_messages(
    database: Database,
    rabbitmq: RabbitMQ,
    prefix: str,
    bridge: Any,
    config_file: ConfigFile,
    tail: Callable[..., Tail],
    tmp_path: pathlib.Path,
) -> None:
    database.execute("create table note (id int primary key)")
    database.subscribe("note")
    queues = [{"name": f"{prefix}inbox", "bindings": {f"{prefix}public.note": "#"}}]
    settings = {
        "source": {"connection": database.dsn, "slot": database.slot},
        "sink": {"rabbitmq": {"prefix": prefix, "url": rabbitmq.url, "queues": queues}},
        "http": {"listen": None},
    }
    running = bridge(config=settings)
    running.wait_until_streaming()
    path = str(tmp_path / "bridge.yaml")
    before = rabbitmq.control("list_queues", "name")

    looking = tail("--config", path, "--table", "public.note")
    wait_until(lambda: f"looking on at {prefix}public.note" in looking.stderr, "looking on")
    assert len(bindings(rabbitmq, f"{prefix}public.note")) == 2
    database.execute("insert into note values (1), (2)")
    database.wait_until_confirmed()

    lines = looking.wait_for("INSERT public.note", "INSERT public.note")
    assert '1 subscription as postgres {"id":1}' in lines[0]
    assert looking.interrupt() == Exit.OK
    with rabbitmq.connect() as connection:
        kept = connection.channel().queue_declare(f"{prefix}inbox", passive=True).method.message_count
    assert kept == 2
    wait_until(lambda: sorted(rabbitmq.control("list_queues", "name")) == sorted(before), "its queue's end")
    assert running.stop() == Exit.OK


def bindings(rabbitmq: RabbitMQ, exchange: str) -> list[str]:
    listed = rabbitmq.control("list_bindings", "source_name", "destination_name").splitlines()
    return [line for line in listed if line.split("\t")[0] == exchange]


def test_what_would_be_parked_is_not_taken_unasked(
    rabbitmq: RabbitMQ, prefix: str, config_file: ConfigFile, walrus_bridge: Command, tail: Callable[..., Tail]
) -> None:
    exchange = f"{prefix}public.book"
    with rabbitmq.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare(exchange, "topic", durable=True)
        parking = config_file(rabbit_config(rabbitmq, prefix))
        walrus_bridge("tail", "--config", parking, exchange).refused(
            Exit.CONFIG, "unroutable: park", "--accept-unparked", exchange
        )
        assert bindings(rabbitmq, exchange) == []

        for path, arguments in (
            (parking, ["--accept-unparked"]),
            (config_file(rabbit_config(rabbitmq, prefix, unroutable="drop")), []),
        ):
            looking = tail("--config", path, exchange, *arguments)
            wait_until(lambda: bindings(rabbitmq, exchange), "the binding")
            channel.basic_publish(exchange, "public.book.insert", value(1))
            looking.wait_for("INSERT public.book")
            assert looking.interrupt() == Exit.OK
            wait_until(lambda: not bindings(rabbitmq, exchange), "its end")


def test_what_rabbitmq_refuses(
    rabbitmq: RabbitMQ, prefix: str, config_file: ConfigFile, walrus_bridge: Command
) -> None:
    path = config_file(rabbit_config(rabbitmq, prefix, unroutable="drop"))
    walrus_bridge("tail", "--config", path, "none").refused(Exit.SINK_REFUSED, "no exchange none")
    for arguments, word in (
        ([], "--table"),
        (["--from-lsn", "0/10", "x"], "Kafka"),
        (["--last", "3", "x"], "Kafka"),
        (["--no-follow", "x"], "Kafka"),
    ):
        done = walrus_bridge("tail", "--config", path, *arguments)
        assert (done.status, word in done.stderr) == (Exit.USAGE, True), done.stderr
    wrong = config_file(rabbit_config(rabbitmq, prefix, unroutable="drop").replace("guest:guest", "guest:hush"))
    done = walrus_bridge("tail", "--config", wrong, "x")
    done.refused(Exit.SINK_REFUSED, "login")
    assert "hush" not in done.stderr
    vhost = config_file(rabbit_config(rabbitmq, prefix, unroutable="drop").replace("/%2F", "/none"))
    walrus_bridge("tail", "--config", vhost, "x").refused(Exit.SINK_REFUSED, "vhost")
    away = config_file("sink: {rabbitmq: {url: 'amqp://127.0.0.1:1', unroutable: drop}}")
    walrus_bridge("tail", "--config", away, "x").refused(Exit.SINK_UNREACHABLE, "127.0.0.1:1", "cannot be reached")


# -- standard input -----------------------------------------------------------------------------------------------


def test_a_bridge_that_prints_is_read_by_a_pipe(
    database: Database, tmp_path: pathlib.Path, tail: Callable[..., Tail]
) -> None:
    database.execute("create table note (id int primary key); create table other (id int primary key)")
    database.subscribe("note")
    database.subscribe("other")
    with (tmp_path / "bridge.log").open("wb") as log:
        run = subprocess.Popen(
            [program(), "run", "--connection", database.dsn, "--slot", database.slot],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(),
        )
    try:
        looking = tail("-", "--table", "public.note", stdin=run.stdout)
        assert run.stdout is not None
        run.stdout.close()
        wait_until(lambda: "] streaming " in (tmp_path / "bridge.log").read_text(), "streaming")
        database.execute("insert into other values (1)")
        database.execute("insert into note values (1)")
        (line,) = looking.wait_for('INSERT public.note - 1 subscription as - {"id":1}')
        assert line[:4].isdigit()
        run.send_signal(signal.SIGTERM)
        assert run.wait(PATIENCE) == Exit.OK
        assert looking.process.wait(PATIENCE) == Exit.OK  # with the end of its input
    finally:
        run.kill()
        run.wait(PATIENCE)


def test_standard_input_needs_no_file_and_has_no_past(walrus_bridge: Command, config_file: ConfigFile) -> None:
    printed = f"{value(1).decode()}\n\nnot json\n"
    lines = walrus_bridge("tail", "-", stdin=printed).stdout.splitlines()
    assert lines == ['- - INSERT public.book - 1 subscription as - {"id":1}', "no event of a bridge, 8 bytes"]
    path = config_file("sink: {stdout: {}}")
    assert walrus_bridge("tail", "--config", path, stdin=printed).stdout.splitlines() == lines
    assert walrus_bridge("tail", "-", "--json", stdin=printed).stdout == f"{value(1).decode()}\n"
    for arguments in (
        ("-", "--from-lsn", "0/10"),
        ("-", "--last", "1"),
        ("--config", path, "book"),
        (),
        ("-", "--table", "x"),
    ):
        assert walrus_bridge("tail", *arguments).status == Exit.USAGE
