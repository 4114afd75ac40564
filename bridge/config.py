"""The configuration: what its keys are, what they mean, and what they are when left out.

The structs are the whole truth: the YAML is checked against them, `config schema` prints them, docs/configuration.md
explains them. Reading and checking is in config_file.py. Only cli.py and pipeline.py see a Config; everything inside
gets plain values.
"""

from functools import partial
from typing import Annotated, Any, Literal

import msgspec

from bridge.units import Address, Duration, Size, Window

DEFAULT_CONNECTION = "postgresql://postgres@localhost:5432/postgres"
DEFAULT_SLOT = "realtime"
DEFAULT_DESTINATION = "{prefix}{schema}.{table}"
DEFAULT_PREFIX = "realtime."
DEFAULT_ROUTING_KEY = "{schema}.{table}.{type}"

Scalar = str | int | float | bool


def _about(description: str, **constraints: Any) -> msgspec.Meta:
    return msgspec.Meta(description=description, **constraints)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping in the config."""


class Tables(Section, frozen=True):
    include: Annotated[
        tuple[str, ...],
        _about(
            'Tables to stream: "schema.table", "schema.*", "*.table" or "*.*". Names as in the catalog, without quotes; '
            "a backslash before a dot, star or backslash that belongs to a name."
        ),
    ] = ("*.*",)
    exclude: Annotated[tuple[str, ...], _about("Tables not to stream, in the same form. It wins over include.")] = ()


class Source(Section, frozen=True):
    connection: Annotated[
        str,
        _about("Where PostgreSQL is: a URI or key=value string as libpq takes it, with a login that has REPLICATION."),
    ] = DEFAULT_CONNECTION
    slot: Annotated[
        str,
        _about("The logical replication slot: made if it is missing. Lower-case letters, digits and underscores."),
    ] = DEFAULT_SLOT
    plugin: Annotated[
        Literal["wal2json", "pgoutput"], _about("The output plugin: wal2json, or pgoutput, which needs a publication.")
    ] = "wal2json"
    publication: Annotated[
        str | None,
        _about("With pgoutput, the publication to stream. You make it (`check` prints the SQL); it is never altered."),
    ] = None
    tables: Annotated[Tables, _about("Which tables are streamed at all.")] = msgspec.field(default_factory=Tables)
    heartbeat: Annotated[
        Duration,
        _about("How often a message goes through the WAL, so that an idle database does not hold WAL back."),
    ] = msgspec.field(default_factory=partial(Duration, 60))
    replay_window: Annotated[
        Window | None,
        _about(
            "How much of the past to keep for `replay`: a duration such as 24h, or the size of its WAL such as 20GiB. "
            "null: nothing but what is not delivered yet."
        ),
    ] = None
    replay_limit: Annotated[
        Size | None,
        _about(
            "The most WAL that the window may hold: beyond that it is dropped and begun anew. "
            "null: twice replay_window and 1GiB more where that is a size, else 20GiB."
        ),
    ] = None


class Rls(Section, frozen=True):
    judge: Annotated[
        Literal["record", "current"],
        _about(
            "Which row policies see: the one the event carries (record), or the table's row as it is now (current)."
        ),
    ] = "record"
    connection: Annotated[
        str | None,
        _about(
            "A login of its own for running policies, which may do nothing but become the claims roles. "
            "null: source.connection; `check` warns."
        ),
    ] = None


class Events(Section, frozen=True):
    max_record_bytes: Annotated[
        Size, _about("A change larger than this is sent as error 413, with its key and its short values only.")
    ] = msgspec.field(default_factory=partial(Size, 1 << 20))
    leave: Annotated[
        bool,
        _about(
            "Whether those who lose sight of a row by an UPDATE get a DELETE of it, where the old row is known "
            "(REPLICA IDENTITY FULL)."
        ),
    ] = False


class CreateTopics(Section, frozen=True):
    partitions: Annotated[int, _about("Partitions of a topic that is created.", ge=1)] = 6
    replication_factor: Annotated[
        int, _about("Replicas of a topic that is created; -1: the broker's default.", ge=-1)
    ] = -1


class Kafka(Section, frozen=True):
    topic: Annotated[str, _about("The topic of a table, with {prefix}, {schema} and {table}.")] = DEFAULT_DESTINATION
    prefix: Annotated[str, _about("What {prefix} stands for; the dead letters go to <prefix>dead-letter.")] = (
        DEFAULT_PREFIX
    )
    topics: Annotated[dict[str, str], _about('Topics of single tables: {"schema.table": name}.')] = {}
    create_topics: Annotated[
        CreateTopics | bool | None,
        _about("How missing topics are created. false or null: they are not, and a missing one is an error."),
    ] = CreateTopics()
    client: Annotated[
        dict[str, Scalar],
        _about(
            "librdkafka's producer settings, passed through. Those that would weaken the delivery promise are refused."
        ),
    ] = msgspec.field(default_factory=lambda: {"bootstrap.servers": "localhost:9092"})


class Queue(Section, frozen=True):
    name: Annotated[str, _about("The durable queue to declare.", min_length=1)]
    bindings: Annotated[dict[str, str], _about("Where it gets messages from: {exchange: routing key pattern}.")] = {}


class RabbitMQ(Section, frozen=True):
    url: Annotated[str, _about("The broker: amqp://user:password@host:5672/vhost, or amqps://.")] = (
        "amqp://guest:guest@localhost:5672/%2F"
    )
    exchange: Annotated[str, _about("The exchange of a table, with {prefix}, {schema} and {table}.")] = (
        DEFAULT_DESTINATION
    )
    prefix: Annotated[
        str,
        _about("What {prefix} stands for; the queues of parked messages and dead letters are named with it too."),
    ] = DEFAULT_PREFIX
    routing_key: Annotated[str, _about("The routing key, with {schema}, {table} and {type}.")] = DEFAULT_ROUTING_KEY
    route_by: Annotated[
        Literal["event", "subscription"],
        _about("subscription: besides, one routing key for each subscription id (the CC header)."),
    ] = "event"
    unroutable: Annotated[
        Literal["park", "stop", "drop"],
        _about("What to do with a message that no queue is bound for: park it in <prefix>unrouted, stop, or drop it."),
    ] = "park"
    queues: Annotated[tuple[Queue, ...], _about("Queues and bindings to declare at start. Others are left alone.")] = ()


class Stdout(Section, frozen=True):
    """No keys: `stdout: {}`."""


class Sink(Section, frozen=True):
    kafka: Annotated[Kafka | None, _about("Events go to Apache Kafka.")] = None
    rabbitmq: Annotated[RabbitMQ | None, _about("Events go to RabbitMQ.")] = None
    stdout: Annotated[Stdout | None, _about("Events are printed, one JSON object a line: `stdout: {}`.")] = None

    @property
    def kind(self) -> str:
        """kafka, rabbitmq or stdout."""
        return next(name for name in self.__struct_fields__ if getattr(self, name) is not None)


class Limits(Section, frozen=True):
    in_flight: Annotated[Size, _about("Bytes that may wait for the sink's acknowledgement before reading pauses.")] = (
        msgspec.field(default_factory=partial(Size, 64 << 20))
    )
    events_per_second: Annotated[
        int | None, _about("At most so many events a second; reading slows down, nothing is dropped. null: no limit.")
    ] = None
    per_table: Annotated[
        dict[str, int],
        _about('The same for single tables: {"schema.table": 100}. The others wait too, as order is kept.'),
    ] = {}


class Http(Section, frozen=True):
    listen: Annotated[
        Address | None, _about("host:port for /live, /ready, /metrics and /status; null: no listener.")
    ] = msgspec.field(default_factory=partial(Address, "127.0.0.1:9187"))


class Log(Section, frozen=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("The least important line that is shown.")
    ] = "info"
    format: Annotated[Literal["console", "json"], _about("console for people, json for machines.")] = "console"


class Config(Section, frozen=True):
    sink: Annotated[Sink, _about("Where events go: exactly one of kafka, rabbitmq and stdout.")]
    source: Annotated[Source, _about("The database whose changes are streamed.")] = msgspec.field(
        default_factory=Source
    )
    rls: Annotated[Rls, _about("How row level security is judged.")] = msgspec.field(default_factory=Rls)
    events: Annotated[Events, _about("What events hold.")] = msgspec.field(default_factory=Events)
    delivery: Annotated[
        Literal["at_least_once", "exactly_once"],
        _about("The delivery promise. exactly_once: to Kafka, for consumers that read committed messages only."),
    ] = "at_least_once"
    on_failure: Annotated[
        Literal["dead_letter", "stop"],
        _about("What to do with a change that can never succeed: send it to the dead letters, or stop."),
    ] = "dead_letter"
    limits: Annotated[Limits, _about("Bounds on memory and rate.")] = msgspec.field(default_factory=Limits)
    migrations: Annotated[
        Literal["apply", "check", "off"],
        _about("At start: apply the missing migrations, only check that they are applied, or neither."),
    ] = "apply"
    http: Annotated[Http, _about("The endpoint for probes and Prometheus.")] = msgspec.field(default_factory=Http)
    log: Annotated[Log, _about("Logs, which go to stderr.")] = msgspec.field(default_factory=Log)


def from_options(connection: str, slot: str) -> Config:
    """What `--connection` and `--slot` mean: the original worker's line. Events to stdout, no HTTP listener."""
    return Config(source=Source(connection=connection, slot=slot), sink=Sink(stdout=Stdout()), http=Http(listen=None))
