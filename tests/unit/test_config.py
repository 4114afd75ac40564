"""The configuration: what is read, what is refused, and how the refusal reads."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bridge import config_file, yaml_source
from bridge.config import Config, from_options
from bridge.config_file import redact, show
from bridge.errors import ConfigError, Exit

ROOT = Path(__file__).parents[2]


def read(text: str, **environ: str) -> Config:
    return config_file.check(yaml_source.parse(text, "bridge.yaml", environ))


def refusal(text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read(text, **environ)
    assert raised.value.exit is Exit.CONFIG
    return str(raised.value)


def with_stdout(text: str) -> str:
    return f"sink: {{stdout: {{}}}}\n{text}"


def test_what_is_left_out_is_the_documented_default() -> None:
    # When only the sink is given
    config = read("sink: {kafka: {}}")

    # Then all else is as DESIGN has it
    assert yaml.safe_load(show(config)) == {
        "source": {
            "connection": "postgresql://postgres@localhost:5432/postgres",
            "slot": "realtime",
            "plugin": "wal2json",
            "publication": None,
            "tables": {"include": ["*.*"], "exclude": []},
            "heartbeat": "60s",
            "replay_window": None,
            "replay_limit": None,
        },
        "rls": {"judge": "record", "connection": None},
        "events": {"max_record_bytes": "1MiB", "leave": False},
        "sink": {
            "kafka": {
                "topic": "{prefix}{schema}.{table}",
                "prefix": "realtime.",
                "topics": {},
                "create_topics": {"partitions": 6, "replication_factor": -1},
                "client": {"bootstrap.servers": "localhost:9092"},
            }
        },
        "delivery": "at_least_once",
        "on_failure": "dead_letter",
        "limits": {"in_flight": "64MiB", "events_per_second": None, "per_table": {}},
        "migrations": "apply",
        "http": {"listen": "127.0.0.1:9187"},
        "log": {"level": "info", "format": "console"},
    }


def test_the_original_workers_options_print_to_stdout_without_a_listener() -> None:
    config = from_options("host=db", "mine")

    assert config.source.connection == "host=db"
    assert config.source.slot == "mine"
    assert config.sink.stdout is not None
    assert config.http.listen is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # given                                           # then: line, key path, reason, a suggestion
        ("source: {plugn: wal2json}", "bridge.yaml:2: source.plugn: unknown key; did you mean plugin?"),
        ("source:\n  tabels: {}", "bridge.yaml:3: source.tabels: unknown key; did you mean tables?"),
        ("sources: {}", "bridge.yaml:2: sources: unknown key; did you mean source?"),
        ("log: {colour: red}", "bridge.yaml:2: log.colour: unknown key; known here: level, format"),
        ("source: {slot: 5}", "bridge.yaml:2: source.slot: expected text, got a whole number"),
        ("source: wal2json", "bridge.yaml:2: source: expected a mapping (key: value), got text"),
        ("source: {tables: {include: x}}", "source.tables.include: expected a list, got text"),
        ("source: {tables: {include: ['a.b', 1]}}", "source.tables.include[1]: expected text, got a whole number"),
        ("limits: {per_table: {a.b: many}}", "limits.per_table.a.b: expected a whole number, got text"),
        (
            "log: {level: inf}",
            "log.level: 'inf' is not possible here; one of debug, error, info, warning; did you mean",
        ),
        ("migrations: no", "migrations: 'no' is not possible here; one of apply, check, off"),
        ("migrations: true", "migrations: expected text, got true or false"),
        ("rls: {judge: recrd}", "rls.judge: 'recrd' is not possible here; one of current, record"),
        ("on_failure: ignore", "on_failure: 'ignore' is not possible here; one of dead_letter, stop"),
        ("source: {heartbeat: 60 parsecs}", "source.heartbeat: the unit 'parsecs' is no unit of time"),
        ("source: {heartbeat: soon}", "source.heartbeat: expected a duration such as"),
        ("source: {heartbeat: 10ms}", "source.heartbeat: must be at least 1s"),
        ("limits: {in_flight: 64 megs}", "limits.in_flight: the unit 'megs' is no unit of size"),
        ("limits: {in_flight: 0}", "limits.in_flight: must be at least 1"),
        ("events: {max_record_bytes: [1]}", "events.max_record_bytes: expected a size such as"),
        ("http: {listen: 9187}", "http.listen: expected host:port"),
        ("http: {listen: 'localhost:99999'}", "http.listen: expected host:port"),
        ("source: {slot: My-Slot}", "source.slot: a slot's name has 1 to 63 lower-case letters"),
        ("source: {plugin: pgoutput}", "source.publication: pgoutput needs a publication"),
        ("source: {publication: p}", "source.publication: wal2json has no publication"),
        ("source: {plugin: test_decoding}", "source.plugin: 'test_decoding' is not possible here"),
        ("source: {tables: {include: []}}", "source.tables.include: an empty list streams nothing"),
        ("source: {tables: {include: [book]}}", "source.tables.include[0]: 'book' is no pattern"),
        ("source: {tables: {include: [a.b.c]}}", "source.tables.include[0]: 'a.b.c' is no pattern"),
        ("source: {tables: {include: ['a.b*']}}", "source.tables.include[0]: 'a.b*' is no pattern"),
        ("source: {tables: {exclude: ['\"a\".b']}}", "source.tables.exclude[0]: '\"a\".b': names are written as in"),
        ("source: {connection: 'not a dsn'}", "source.connection: not a connection that libpq understands"),
        ("rls: {connection: 'not a dsn'}", "rls.connection: not a connection that libpq understands"),
        ("source: {replay_window: 24}", "source.replay_window: expected a duration such as 24h, or a size such as"),
        ("source: {replay_window: a day}", "source.replay_window: expected a duration such as 24h, or a size such as"),
        (
            "source: {replay_window: 5 parsecs}",
            "source.replay_window: expected a duration such as 24h, or a size such as",
        ),
        ("source: {replay_window: 0h}", "source.replay_window: must be more than 0; null keeps nothing"),
        ("source: {replay_limit: 1GiB}", "source.replay_limit: has no meaning without source.replay_window"),
        ("source: {replay_window: 2GiB, replay_limit: 1GiB}", "source.replay_limit: must be more than source.replay_w"),
        (f"source: {{replay_window: 24h, slot: {'s' * 57}}}", "source.replay_window: sss"),
        ("delivery: exactly_once", "delivery: exactly_once is possible with sink.kafka only"),
        ("limits: {events_per_second: 0}", "limits.events_per_second: must be at least 1"),
        ("limits: {events_per_second: many}", "limits.events_per_second: expected a whole number or nothing, got text"),
        ("limits: {per_table: {public.book: 0}}", "limits.per_table.public.book: must be at least 1"),
        ("limits: {per_table: {public.book: x}}", "limits.per_table.public.book: expected a whole number, got text"),
        ("limits: {per_table: {book: 1}}", "limits.per_table.book: 'book' is no pattern: write schema.table"),
        ("limits: {per_table: {'public.*': 1}}", "limits.per_table.public.*: 'public.*' names no single table"),
        ("limits: {per_table: {'\"a\".b': 1}}", 'limits.per_table."a".b: \'"a".b\': names are written as in'),
    ],
)
def test_a_wrong_key_is_named_with_its_line_and_what_to_do(text: str, says: str) -> None:
    assert says in refusal(with_stdout(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "bridge.yaml: sink: is missing (one of kafka, rabbitmq, stdout)"),
        ("sink: {}", "bridge.yaml:1: sink: exactly one of kafka, rabbitmq and stdout is needed; found none"),
        ("sink: {stdout: }", "found none (an empty one is written `stdout: {}`)"),
        (
            "sink: {kafka: {}, stdout: {}}",
            "exactly one of kafka, rabbitmq and stdout is needed; found kafka and stdout",
        ),
        (
            "sink: {kafka: {topic: '{prefix}{scheme}'}}",
            "sink.kafka.topic: '{prefix}{scheme}' has an unknown field",
        ),
        ("sink: {kafka: {topic: '{schema'}}", "sink.kafka.topic: '{schema' is no template"),
        ("sink: {kafka: {topic: 'all'}}", "sink.kafka.topic: 'all' lacks {schema}"),
        ("sink: {kafka: {topic: '{schema}'}}", "sink.kafka.topic: '{schema}' lacks {table}"),
        (
            "sink: {kafka: {topic: '{schema!r}.{table}'}}",
            "sink.kafka.topic: '{schema!r}.{table}' has a field with a format of its own",
        ),
        ("sink: {kafka: {client: {acks: [1]}}}", "sink.kafka.client.acks: expected true or false or a whole number"),
        ("sink: {kafka: {client: {acks: all}}}", "sink.kafka.client: bootstrap.servers is missing"),
        ("sink: {kafka: {create_topics: {partitions: 0}}}", "create_topics.partitions: expected a whole number >= 1"),
        ("sink: {rabbitmq: {url: 'http://x'}}", "sink.rabbitmq.url: expected amqp://"),
        ("sink: {rabbitmq: {routing_key: '{role}'}}", "sink.rabbitmq.routing_key: '{role}' has an unknown field"),
    ],
)
def test_a_wrong_sink_is_refused(text: str, says: str) -> None:
    assert says in refusal(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sink: {stdout: {}", "bridge.yaml:1:"),
        ("sink:\n\tstdout: {}", "bridge.yaml:2:1: invalid YAML"),
        ("sink: {stdout: {}}\nlog: {}\nlog: {}", "bridge.yaml:3: log: this key stands twice, first in line 2"),
        ("sink: {stdout: {}}\nlog: {level: info, level: debug}", "bridge.yaml:2: log.level: this key stands twice"),
        ("- sink", "bridge.yaml:1: expected a mapping (key: value), got a list"),
        ("sink: !!python/object:os.system {}", "the tag tag:yaml.org,2002:python/object:os.system is not possible"),
        ("sink: !!python/name:os.system", "bridge.yaml:1:7: invalid YAML"),
        ("a: &a [*a]", "an alias refers to the mapping or list that holds it"),
        ("sink: {stdout: {}}\n---\nsink: {stdout: {}}", "invalid YAML"),
    ],
)
def test_invalid_yaml_names_file_and_line(text: str, says: str) -> None:
    assert says in refusal(text)


def test_variables_come_from_the_environment() -> None:
    # Given variables that are set, empty, or not set at all
    text = (
        "sink: {stdout: {}}\n"
        "source:\n"
        "  connection: postgresql://u:${PASSWORD}@${HOST:-localhost}/${EMPTY:-d}\n"
        "  slot: ${SLOT:-realtime}\n"
        "log: {level: '${LEVEL:-debug}'}\n"
    )

    # When it is read
    config = read(text, PASSWORD="p%20w", EMPTY="")

    # Then
    assert config.source.connection == "postgresql://u:p%20w@localhost/d"
    assert config.source.slot == "realtime"
    assert config.log.level == "debug"


def test_off_is_a_word_and_not_a_truth_value() -> None:
    config = read("sink: {kafka: {create_topics: false}}\nmigrations: off")

    assert config.migrations == "off"
    assert config.sink.kafka is not None
    assert config.sink.kafka.create_topics is False


def test_an_undefined_variable_is_named_with_file_and_key() -> None:
    message = refusal(with_stdout("source:\n  connection: ${DATABASE_URL}"))

    assert message.startswith("bridge.yaml:3: source.connection: the variable DATABASE_URL is not defined")
    assert "${DATABASE_URL:-default}" in message


@pytest.mark.parametrize("text", ["${", "${1A}", "${A", "${}", "${A:default}"])
def test_a_malformed_variable_is_refused(text: str) -> None:
    assert "expected ${NAME} or ${NAME:-default}" in refusal(with_stdout(f"source: {{connection: '{text}'}}"), A="x")


def test_a_doubled_dollar_sign_is_one() -> None:
    config = read(with_stdout("source: {connection: 'host=h password=a$${B}$c'}"), B="no")

    assert config.source.connection == "host=h password=a${B}$c"


def test_a_variable_cannot_bring_in_yaml() -> None:
    # Given a value that would close the mapping and open another key
    hostile = "x'}\nmigrations: off\nlog: {level: 'debug"

    # When it is substituted
    config = read("sink: {kafka: {client: {bootstrap.servers: b, sasl.password: '${P}'}}}", P=hostile)

    # Then it is the value, and nothing else has changed
    assert config.sink.kafka is not None
    assert config.sink.kafka.client["sasl.password"] == hostile
    assert config.migrations == "apply"


def test_a_variable_may_stand_for_a_number_and_keeps_its_text_where_text_is_wanted() -> None:
    config = read(
        "sink: {kafka: {create_topics: {partitions: '${N}'}, client: {bootstrap.servers: b, sasl.password: '${P}'}}}",
        N="12",
        P="0123",
    )

    kafka = config.sink.kafka
    assert kafka is not None
    assert kafka.create_topics.partitions == 12  # type: ignore[union-attr]
    assert kafka.client["sasl.password"] == "0123"


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("60s", 60), ("5m", 300), ("24h", 86400), ("7d", 604800), ("90", 90)]
)
def test_durations(text: str, seconds: float) -> None:
    from bridge.units import Duration

    assert Duration.parse(text) == seconds
    assert Duration.parse(str(Duration.parse(text))) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("64MiB", 64 << 20), ("1GiB", 1 << 30), ("512KiB", 512 << 10), ("2MB", 2_000_000), (77, 77)]
)
def test_sizes(text: Any, count: int) -> None:
    from bridge.units import Size

    assert Size.parse(text) == count
    assert Size.parse(str(Size.parse(text))) == count


def test_show_hides_secrets_and_nothing_else() -> None:
    # Given secrets in every place that can hold one
    config = read(
        "source: {connection: 'postgresql://u:geheim@h:5432/d?sslpassword=geheim&sslmode=require'}\n"
        "rls: {connection: \"host=h user=j password='geheim too' dbname=d\"}\n"
        "sink: {kafka: {client: {bootstrap.servers: 'b:9092', sasl.username: me, sasl.password: geheim, "
        "ssl.key.password: geheim, ssl.key.pem: geheim, sasl.oauthbearer.client.secret: geheim, "
        "sasl.oauthbearer.config: 'x=geheim', ssl.key.location: /etc/key}}}"
    )

    # When it is shown
    text = show(config)

    # Then
    assert "geheim" not in text
    assert "too" not in text
    for kept in ("u:********@h:5432/d", "sslmode=require", "user=j", "dbname=d", "me", "b:9092", "/etc/key"):
        assert kept in text


def test_show_hides_the_password_of_rabbitmq() -> None:
    text = show(read("sink: {rabbitmq: {url: 'amqps://me:ge:he/im@h:5671/v'}}"))

    assert "amqps://me:********@h:5671/v" in text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:p@ss@h/d", "postgresql://u:********@h/d"),
        ("host=h password = x", "host=h password = ********"),
        (r"password='it\'s' host=h", "password=******** host=h"),
        (
            "amqps://h/v?ssl_options={'certfile':'c','password':'x'}&heartbeat=5",
            "amqps://h/v?ssl_options=********&heartbeat=5",
        ),
        ("amqps://h/v?ssl_options=%7B%27p%61ssword%27%3A%27x%27%7D", "amqps://h/v?ssl_options=********"),
        (
            "amqps://h/v?ssl_options=%7B%27ca_certs%27%3A%27x%27%7D",
            "amqps://h/v?ssl_options=%7B%27ca_certs%27%3A%27x%27%7D",
        ),
    ],
)
def test_redact(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_an_error_never_quotes_a_secret() -> None:
    # Given a password that makes the connection unreadable
    message = refusal(with_stdout("source: {connection: 'host=h password=ge heim'}"))

    assert "heim" not in message


def test_the_schema_describes_every_key_with_its_default() -> None:
    definitions = config_file.schema()["$defs"]

    undescribed = [
        f"{section}.{key}"
        for section, definition in definitions.items()
        for key, about in definition.get("properties", {}).items()
        if not about.get("description")
    ]
    assert undescribed == []
    assert definitions["Limits"]["properties"]["in_flight"]["default"] == "64MiB"
    assert definitions["Config"]["required"] == ["sink"]


def test_the_schema_takes_what_the_bridge_takes() -> None:
    schema = config_file.schema()
    example = yaml.safe_load((ROOT / "bridge" / "bridge.example.yaml").read_text(encoding="utf-8"))

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(example, schema)
    with pytest.raises(jsonschema.ValidationError, match="sorce"):
        jsonschema.validate({"sink": {"stdout": {}}, "sorce": {}}, schema)


def test_the_example_is_the_default_config_and_the_same_in_both_places() -> None:
    # Given the example that `init` prints
    shipped = (ROOT / "bridge" / "bridge.example.yaml").read_text(encoding="utf-8")

    # Then deploy/ has the same, and it says what the defaults are; a new bridge keeps something to replay besides
    assert (ROOT / "deploy" / "bridge.example.yaml").read_text(encoding="utf-8") == shipped
    assert read(shipped) == read("source: {replay_window: 1GiB}\nsink: {kafka: {}}")


def test_every_key_in_the_example_exists_also_the_commented_ones() -> None:
    shipped = (ROOT / "bridge" / "bridge.example.yaml").read_text(encoding="utf-8")
    lines = shipped.splitlines()
    start = lines.index("  # rabbitmq:")
    end = next(number for number in range(start, len(lines)) if lines[number] == "  # stdout: {}")

    # When the commented sink is made the active one
    rabbitmq = "sink:\n" + "\n".join(line.replace("  # ", "  ", 1) for line in lines[start:end])

    # Then it is the default of that sink
    assert read(rabbitmq) == read("sink: {rabbitmq: {}}")


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file. What to do: `walrus-bridge init"):
        config_file.load(tmp_path / "none.yaml", {})
