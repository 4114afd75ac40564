"""Kafka's topics: whether they are there, what they take, and making those that may be made. Never blocks but in `open`.

Topics are asked for one by one and by name, as a login may be allowed to see only its own; and never by a way that
would make the broker create them by itself.
"""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # it is public
from confluent_kafka.cimpl import NewTopic

from bridge.config import CreateTopics
from bridge.errors import SinkRefused, SinkUnreachable
from bridge.sinks.kafka_log import LibraryLog
from bridge.sinks.kafka_refusals import connection_refusal
from bridge.sinks.kafka_settings import Settings
from bridge.sinks.kafka_watch import Watch

log = structlog.get_logger()

POLL_SECONDS: Final = 0.05
OPEN_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 1.0

_REFRESH: Final = {"topic.metadata.refresh.interval.ms": 5_000}
"""librdkafka asks the broker that it takes for the controller, and waits for that one also when it has died: until it has
asked another one who the controller is, which without a topic of its own it does only after five minutes."""

LETTERS_CONFIG: Final = {"cleanup.policy": "compact"}
"""A letter stays until one says that it is done."""

_FORBIDDEN: Final = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
_PASSING: Final = {
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
"""Asked for a topic's configuration: a broker that is away, or has not heard of a new topic yet."""
_IMPOSSIBLE: Final = {
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_REQUEST,
    KafkaError.POLICY_VIOLATION,
}


class Topics:
    def __init__(
        self,
        settings: Settings,
        servers: str,
        create: CreateTopics | None,
        own: Mapping[str, dict[str, str]],
        letters: str,
    ) -> None:
        """`create`: how a missing topic is made; None where it may not be. `own`: topics of one partition each, with
        the configuration that they are made with. `letters`: the dead letters', which is made compacted."""
        self._log = LibraryLog("admin")
        callbacks: dict[str, Any] = {"error_cb": self._on_error, "logger": self._log}
        # Not librdkafka's "info": closing with a question under way would write one past our log.
        self._admin = AdminClient({"log_level": 5, **_REFRESH} | settings | callbacks)
        self._servers = servers
        self._watch = Watch(self._admin, servers)
        self._create = create
        self._own = own
        self._letters = letters
        self._ready: set[str] = set()
        self._limits: dict[str, int] = {}
        self._compacted: set[str] = set()
        self._asked: dict[str, Future[Any]] = {}
        self._creating: dict[str, Future[Any]] = {}
        self._described: dict[str, Future[Any]] = {}
        self._not_before: dict[str, float] = {}
        self.advice: tuple[str, str] | None = None
        """What should be otherwise though it works, and what to do."""
        self._trouble: KafkaError | None = None
        self._poll_at = 0.0

    def open(self, names: Iterable[str]) -> None:
        """Have all these topics; many take longer than one. Raises SinkUnreachable, or SinkRefused with what to do."""
        names = list(names)
        self._ask(names)
        missing, last_seconds = names, time.monotonic()
        while still := [name for name in missing if not self.are_there(name)]:
            if len(still) < len(missing):
                last_seconds = time.monotonic()
            missing = still
            self._admin.poll(0.02)
            trouble = self._trouble
            if trouble is not None and (refused := connection_refusal(trouble.code(), trouble.str(), self._servers)):
                raise refused
            if time.monotonic() > last_seconds + OPEN_SECONDS:
                raise self._unreachable(missing)
        self._log.is_quiet = True
        log.info("kafka connected", servers=self._servers, topics=len(names))

    def are_there(self, name: str) -> bool:
        """Whether the topic is there, and what it takes is known. If not yet, finds out and makes it: ask again.

        Raises SinkRefused where it cannot be.
        """
        if name in self._ready:
            return True
        if name in self._asked:
            self._asked_answer(name)
        elif name in self._creating:
            self._creating_answer(name)
        elif name in self._described:
            self._described_answer(name)
        elif self._not_before.get(name, 0.0) <= time.monotonic():
            self._ask([name])
        return name in self._ready

    def poll(self) -> None:
        """Have what librdkafka reports of this client; unheard, it would pile up while the brokers are away.

        Raises SinkRefused where the brokers are of another cluster than before.
        """
        now = time.monotonic()
        if now >= self._poll_at:  # it costs as much as some tens of events
            self._poll_at = now + POLL_SECONDS
            self._admin.poll(0)
            self._watch.poll(self._ready)

    def look_soon(self) -> None:
        """Something is wrong with a connection: see whether all still is there."""
        self._watch.look_soon()

    @property
    def lost(self) -> Mapping[str, str]:
        """Topics that were there and are not, or are others by the same name: to each what to tell."""
        return self._watch.refused

    @property
    def smallest_limit(self) -> int | None:
        """The least ``max.message.bytes`` of the topics so far; None where the broker does not tell us."""
        return min(self._limits.values(), default=None)

    def limit(self, name: str) -> int | None:
        """Its ``max.message.bytes``; None where the broker does not tell us."""
        return self._limits.get(name)

    def is_compacted(self, name: str) -> bool:
        """Whether it takes no event without a key; False where the broker does not tell us."""
        return name in self._compacted

    # -- asking and making -----------------------------------------------------------------------------------------

    def _ask(self, names: list[str]) -> None:
        self._asked.update(self._admin.describe_topics(TopicCollection(names), request_timeout=OPEN_SECONDS))

    def _asked_answer(self, name: str) -> None:
        code, error = self._answer(self._asked, name)
        if error is None:
            return
        if code != KafkaError.UNKNOWN_TOPIC_OR_PART:
            self._judge(name, code, error)
        elif self._create is None:
            raise SinkRefused(
                f"topic {name} is missing, and sink.kafka.create_topics does not allow to create it. What to do:"
                f" kafka-topics.sh --bootstrap-server {self._servers} --create --topic {name} --partitions 6,"
                " or let the bridge create it"
            )
        else:
            partitions = 1 if name in self._own else self._create.partitions
            config = LETTERS_CONFIG if name == self._letters else self._own.get(name, {})
            new = NewTopic(name, partitions, self._create.replication_factor, config=config)
            self._creating.update(self._admin.create_topics([new], request_timeout=OPEN_SECONDS))

    def _creating_answer(self, name: str) -> None:
        code, error = self._answer(self._creating, name)
        if error is None:
            return
        if code == KafkaError.TOPIC_ALREADY_EXISTS:
            self._describe(name)
        else:
            self._judge(name, code, error)

    def _answer(self, waiting: dict[str, Future[Any]], name: str) -> tuple[int | None, BaseException | None]:
        """Takes a finished future away; without an error the topic is there."""
        future = waiting[name]
        if not future.done():
            return None, None
        del waiting[name]
        error = future.exception()
        if error is None:
            if waiting is self._creating:
                log.info("topic created", topic=name)
            self._describe(name)
        return error.args[0].code() if isinstance(error, KafkaException) else None, error

    def _describe(self, name: str) -> None:
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        self._described[name] = self._admin.describe_configs([resource], request_timeout=OPEN_SECONDS)[resource]

    def _described_answer(self, name: str) -> None:
        """A login may use a topic without being allowed to see its configuration: then it stays unknown."""
        future = self._described[name]
        if not future.done():
            return
        del self._described[name]
        error = future.exception()
        if error is None:
            found = {setting: entry.value for setting, entry in future.result().items()}
            if limit := found.get("max.message.bytes"):
                self._limits[name] = int(limit)
            if in_sync := found.get("min.insync.replicas"):
                self._watch.needs(name, int(in_sync))
            self._look_at_policy(name, found.get("cleanup.policy") or "")
        elif isinstance(error, KafkaException) and error.args[0].code() in _PASSING:
            self._not_before[name] = time.monotonic() + _AGAIN_SECONDS
            return
        else:
            log.debug("topic's configuration unknown", topic=name, reason=str(error))
        self._ready.add(name)

    def _look_at_policy(self, name: str, policy: str) -> None:
        alter = (
            f"kafka-configs.sh --bootstrap-server {self._servers} --alter --topic {name} --add-config"
            " cleanup.policy=compact"
        )
        if "compact" in policy:
            self._compacted.add(name)
        elif name in self._own:
            raise SinkRefused(f"topic {name} is not compacted, so it would forget what it holds. What to do: {alter}")
        if name == self._letters and "delete" in policy:
            what = f"topic {name} has cleanup.policy={policy}: Kafka deletes dead letters by time, done with or not"
            self.advice = (what, alter)
            log.warning("dead letters are deleted by time", topic=name, cleanup_policy=policy)

    def _judge(self, name: str, code: int | None, error: BaseException) -> None:
        """What can never be is raised; the rest is tried again, soon."""
        told = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        if code in _FORBIDDEN:
            raise SinkRefused(
                f"Kafka does not let this login use or create topic {name}: {told}. What to do: grant it Describe and"
                " Write on the topic, and Create unless the topic is there already"
            ) from error
        if code in _IMPOSSIBLE:
            raise SinkRefused(
                f"topic {name} cannot be created: {told}. What to do: correct sink.kafka.create_topics, give the table"
                " another name in sink.kafka.topics, or create the topic yourself"
            ) from error
        self._not_before[name] = time.monotonic() + _AGAIN_SECONDS
        log.warning("topic not known yet", topic=name, reason=told)

    def _on_error(self, error: KafkaError) -> None:
        # All brokers being down follows from what was said before, and explains less.
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self._trouble is None:
            self._trouble = error
        self._watch.look_soon()

    def _unreachable(self, missing: list[str]) -> SinkUnreachable:
        if self._ready or self._creating:
            return SinkUnreachable(
                f"Kafka at {self._servers} did not answer for topic {missing[0]} within {OPEN_SECONDS:.0f} s. What to"
                " do: see the broker's log"
            )
        reason = f": {self._trouble.str()}" if self._trouble else ""
        return SinkUnreachable(
            f"Kafka at {self._servers} cannot be reached within {OPEN_SECONDS:.0f} s{reason}. What to do: check"
            " sink.kafka.client.bootstrap.servers, that the broker runs, and that security.protocol is its listener's"
        )
