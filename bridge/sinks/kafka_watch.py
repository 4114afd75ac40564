"""Whether Kafka still is what it was: the same cluster, the same topics, and able to acknowledge. Never blocks.

librdkafka goes on with whatever answers at the brokers' addresses, and says nothing of why it waits. So both are asked
for now and then, and often while something is wrong with a connection.
"""

import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # it is public

from bridge.errors import SinkRefused

log = structlog.get_logger()

CALM_SECONDS: Final = 10.0
TROUBLED_SECONDS: Final = 1.0
_TROUBLE_LASTS_SECONDS: Final = 30.0
"""Replicas fall out of sync a while after their broker has died."""
_ANSWER_SECONDS: Final = 5.0
MISSING_SECONDS: Final = 5.0
"""A broker that has just started may not know its topics yet."""
_SAY_AGAIN_SECONDS: Final = 30.0
_NO_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"
"""Of topics on brokers before Kafka 2.8."""


class Watch:
    def __init__(self, admin: AdminClient, servers: str) -> None:
        self._admin = admin
        self._servers = servers
        self.refused: dict[str, str] = {}
        """Topics that are not what they were, each with what to tell when there is an event for it."""
        self._cluster_id: str | None = None
        self._topic_ids: dict[str, str] = {}
        self._needed: dict[str, int] = {}
        self._missing_since: dict[str, float] = {}
        self._cluster: Future[Any] | None = None
        self._asked: dict[str, Future[Any]] = {}
        self._configs: dict[str, Future[Any]] = {}
        self._starved: set[str] = set()
        self._ask_at = 0.0
        self._troubled_until = 0.0
        self._say_at = 0.0

    def needs(self, topic: str, in_sync: int) -> None:
        """How many replicas must have an event of this topic (``min.insync.replicas``)."""
        self._needed[topic] = in_sync

    def look_soon(self) -> None:
        """Something is wrong with a connection."""
        now = time.monotonic()
        self._troubled_until = now + _TROUBLE_LASTS_SECONDS
        self._ask_at = min(self._ask_at, now + TROUBLED_SECONDS)

    def poll(self, topics: Collection[str]) -> None:
        """Ask when it is time, and look at what was answered. Raises SinkRefused: it is another cluster."""
        now = time.monotonic()
        if self._cluster is None:
            if now >= self._ask_at:
                self._ask(topics)
        elif all(future.done() for future in (self._cluster, *self._asked.values(), *self._configs.values())):
            cluster, asked, configs = self._cluster, self._asked, self._configs
            self._cluster, self._asked, self._configs = None, {}, {}
            answered = self._look_at_cluster(cluster)
            self._look_at_configs(configs)
            self._look_at_topics(asked, now)
            calm = answered and not self._starved and not self._missing_since and now > self._troubled_until
            self._ask_at = now + (CALM_SECONDS if calm else TROUBLED_SECONDS)

    def _ask(self, topics: Collection[str]) -> None:
        self._cluster = self._admin.describe_cluster(request_timeout=_ANSWER_SECONDS)
        if names := [name for name in topics if name not in self.refused]:
            self._asked = self._admin.describe_topics(TopicCollection(names), request_timeout=_ANSWER_SECONDS)
        if starved := [ConfigResource(ConfigResource.Type.TOPIC, name) for name in sorted(self._starved)]:
            answers = self._admin.describe_configs(starved, request_timeout=_ANSWER_SECONDS)
            self._configs = {resource.name: future for resource, future in answers.items()}

    def _look_at_cluster(self, answer: Future[Any]) -> bool:
        """Whether there was an answer."""
        if answer.exception() is not None:
            return False
        now_id = answer.result().cluster_id
        if now_id and self._cluster_id is None:
            self._cluster_id = now_id
            log.info("kafka cluster", id=now_id)
        elif now_id and now_id != self._cluster_id:
            raise SinkRefused(
                f"Kafka at {self._servers} is another cluster than before: its id is {now_id}, and was"
                f" {self._cluster_id}. It came back empty, or the address leads elsewhere now: what was delivered before"
                " is not in it. What to do: restore the old cluster; or start the bridge again, which goes on with the"
                " events that were not acknowledged; the earlier ones come by a replay (docs/runbooks/broker-lost.md)"
            )
        return True

    def _look_at_configs(self, answers: dict[str, Future[Any]]) -> None:
        """Somebody may have lowered what a topic needs, to get on without the replicas that are missing."""
        for name, answer in answers.items():
            if answer.exception() is None and (in_sync := answer.result().get("min.insync.replicas")) is not None:
                self.needs(name, int(in_sync.value))

    def _look_at_topics(self, answers: dict[str, Future[Any]], now: float) -> None:
        starved = []
        for name, answer in answers.items():
            error = answer.exception()
            if error is None:
                self._missing_since.pop(name, None)
                found = answer.result()
                self._look_at_id(name, str(found.topic_id))
                starved += [(name, part) for part in found.partitions if not self._has_enough(name, part)]
            elif isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                self._look_at_missing(name, now)
        self._say_what_waits(starved, now)

    def _look_at_missing(self, name: str, now: float) -> None:
        if now - self._missing_since.setdefault(name, now) >= MISSING_SECONDS:
            del self._missing_since[name]
            self._refuse(
                name,
                f"topic {name} is not there any more. What to do: start the bridge again, which creates it as"
                " configured; its earlier events are gone with it",
            )

    def _look_at_id(self, name: str, now_id: str) -> None:
        if now_id == _NO_ID or self._topic_ids.setdefault(name, now_id) == now_id:
            return
        self._refuse(
            name,
            f"topic {name} is another one than before: it was deleted and made again, or Kafka lost its data, and its"
            " earlier events are gone. What to do: find out why, and what its consumers need; start the bridge again,"
            " which goes on with the events that were not acknowledged",
        )

    def _refuse(self, name: str, why: str) -> None:
        self.refused[name] = why
        log.warning("topic lost", topic=name, reason=why)

    def _has_enough(self, name: str, partition: Any) -> bool:
        return partition.leader is not None and len(partition.isr) >= self._needed.get(name, 1)

    def _say_what_waits(self, starved: Iterable[tuple[str, Any]], now: float) -> None:
        found = list(starved)
        if found and now >= self._say_at:
            name, partition = found[0]
            log.warning(
                "kafka cannot acknowledge: replicas are missing",
                topics=len({topic for topic, _ in found}),
                topic=name,
                partition=partition.id,
                in_sync=len(partition.isr),
                needed=self._needed.get(name, 1),
                leader=partition.leader is not None,
            )
            self._say_at = now + _SAY_AGAIN_SECONDS
        elif self._starved and not found:
            log.info("kafka has the replicas again that it needs")
            self._say_at = 0.0
        self._starved = {name for name, _ in found}
