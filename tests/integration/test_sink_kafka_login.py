"""The Kafka sink and a broker that asks who it is, and what it may do."""

import pathlib
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from bridge.cluster import free_port
from bridge.config import CreateTopics
from bridge.config import Kafka as KafkaConfig
from bridge.errors import SinkRefused
from bridge.lsn import Identity
from bridge.sinks.base import Position
from bridge.sinks.kafka import KafkaSink
from bridge.sinks.kafka_exactly_once import ExactlyOnceSink
from bridge.sinks.kafka_letters import KafkaLetters
from tests.integration.sinks import TABLE, Driver, an_event
from tests.servers.kafka import Kafka
from tests.servers.process import running
from tests.servers.waiting import wait_until

COMPACTED = {"cleanup.policy": "compact"}
SECURED = """
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN
listener.name.asking.plain.sasl.jaas.config=\\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_bridge="right";
"""


class AskingKafka(Kafka):
    """With a second listener, where a login is needed; who comes by the first may do all."""

    def __init__(self, home: pathlib.Path) -> None:
        super().__init__(home)
        path = home / "server.properties"
        asking = free_port()
        self.asking = f"127.0.0.1:{asking}"
        settings = path.read_text(encoding="utf-8").replace(
            f"PLAINTEXT://{self.servers}", f"PLAINTEXT://{self.servers},ASKING://{self.asking}"
        )
        settings = settings.replace("protocol.map=", "protocol.map=ASKING:SASL_PLAINTEXT,")
        path.write_text(settings + SECURED, encoding="utf-8")

    def allow(self, name: str, *operations: AclOperation, of: ResourceType = ResourceType.TOPIC) -> None:
        """Let the login do these to topics, or another kind, whose names begin so."""
        acls = [
            AclBinding(
                of,
                name,
                ResourcePatternType.PREFIXED,
                "User:bridge",
                "*",
                each,
                AclPermissionType.ALLOW,
            )
            for each in operations
        ]
        admin = self.admin
        for future in admin.create_acls(acls).values():
            future.result()

    def revoke(self, topic: str, *operations: AclOperation) -> None:
        filters = [
            AclBindingFilter(
                ResourceType.TOPIC,
                topic,
                ResourcePatternType.PREFIXED,
                "User:bridge",
                "*",
                each,
                AclPermissionType.ALLOW,
            )
            for each in operations
        ]
        admin = self.admin
        for future in admin.delete_acls(filters).values():
            assert future.result(), "there was one"


@pytest.fixture(scope="module")
def asking() -> Iterator[AskingKafka]:
    with running(AskingKafka) as server:
        yield server


def driver(server: AskingKafka, prefix: str, password: str = "right", *, create: bool = True) -> Driver:
    return Driver(KafkaSink(config(server, prefix, password, create=create)))


def config(server: AskingKafka, prefix: str, password: str = "right", *, create: bool = True) -> KafkaConfig:
    client = {
        "bootstrap.servers": server.asking,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "bridge",
        "sasl.password": password,
    }
    return KafkaConfig(prefix=prefix, client=client, create_topics=CreateTopics() if create else None)


def test_a_wrong_password_is_refused_at_once(asking: AskingKafka, prefix: str) -> None:
    made = driver(asking, prefix, "hush-hush")

    with pytest.raises(
        SinkRefused, match=f"Kafka at {asking.asking} refuses the connection: .*[Aa]uthentication"
    ) as raised:
        made.sink.open([TABLE])

    assert "hush" not in str(raised.value)
    made.sink.close()


def test_a_login_that_may_not_see_its_topics_says_what_it_needs(asking: AskingKafka, prefix: str) -> None:
    made = driver(asking, prefix)

    with pytest.raises(SinkRefused, match=f"does not let this login use or create topic {prefix}.* Describe and Write"):
        made.sink.open([TABLE])

    made.sink.close()


def test_a_login_that_may_create_and_write_needs_no_more(asking: AskingKafka, prefix: str) -> None:
    asking.allow(prefix, AclOperation.CREATE, AclOperation.DESCRIBE, AclOperation.WRITE)
    made = driver(asking, prefix)

    made.sink.open([TABLE])
    made.send(an_event())
    made.drain()

    assert len(asking.read(f"{prefix}public.book")) == 1
    made.sink.close()


def test_a_login_that_may_not_see_that_a_topic_is_compacted_is_told(asking: AskingKafka, prefix: str) -> None:
    topics = [NewTopic(f"{prefix}dead-letter", 1, 1), NewTopic(f"{prefix}public.book", 1, 1, config=COMPACTED)]
    admin = asking.admin
    for future in admin.create_topics(topics).values():
        future.result()
    asking.allow(prefix, AclOperation.DESCRIBE, AclOperation.WRITE)
    driven = driver(asking, prefix, create=False)
    driven.sink.open([TABLE])

    driven.send(an_event(1), an_event(2, key=None), an_event(3))
    with pytest.raises(SinkRefused, match="grant it DescribeConfigs"):
        driven.drain()

    assert driven.rejections == [], "what has a key could be delivered"
    assert driven.in_flight == 3
    driven.sink.close()


def test_a_login_that_may_not_write_is_told_when_it_does(asking: AskingKafka, prefix: str) -> None:
    admin = asking.admin
    for future in admin.create_topics(
        [NewTopic(f"{prefix}{name}", 1, 1) for name in ("public.book", "dead-letter")]
    ).values():
        future.result()
    asking.allow(prefix, AclOperation.DESCRIBE)
    made = driver(asking, prefix, create=False)
    wait_until(lambda: set(asking.topics()) >= {f"{prefix}public.book", f"{prefix}dead-letter"}, "topics")

    made.sink.open([TABLE])
    with pytest.raises(SinkRefused, match=r"What to do: grant the login Write on (the topic|its topics)"):
        made.send(an_event())
        made.drain()

    assert made.in_flight == 1
    made.sink.close()


@pytest.mark.parametrize(
    "revoked",
    [(AclOperation.WRITE,), (AclOperation.WRITE, AclOperation.CREATE, AclOperation.DESCRIBE)],
    ids=["to write", "even to see its topics"],
)
def test_a_right_that_is_revoked_in_mid_stream_is_told(
    asking: AskingKafka, prefix: str, revoked: tuple[AclOperation, ...]
) -> None:
    asking.allow(prefix, AclOperation.CREATE, AclOperation.DESCRIBE, AclOperation.WRITE)
    made = driver(asking, prefix)
    made.sink.open([TABLE])
    made.send(an_event(1))
    made.drain()

    asking.revoke(prefix, *revoked)
    with pytest.raises(SinkRefused, match=r"The position is unmoved. What to do: grant the login Write on"):
        for number in range(2, 1000):  # the broker may take a moment to hear of it
            made.send(an_event(number))
            made.drain()

    assert made.in_flight == 1
    made.sink.close()


def test_exactly_once_needs_the_transactional_id_and_to_read_its_position(asking: AskingKafka, prefix: str) -> None:
    asking.allow(prefix, AclOperation.CREATE, AclOperation.DESCRIBE, AclOperation.WRITE, AclOperation.READ)
    asking.allow(
        f"walrus-bridge-{prefix}books",
        AclOperation.DESCRIBE,
        AclOperation.WRITE,
        of=ResourceType.TRANSACTIONAL_ID,
    )
    places = []

    for number in range(2):
        driven = Driver(ExactlyOnceSink(config(asking, prefix), "books"))
        driven.sink.open([TABLE])
        places.append(driven.sink.resume(Identity("7409", 1)))
        driven.send(an_event(number))
        driven.checkpoint.commit(100 + number)
        driven.drain()
        driven.sink.close()

    assert places == [None, Position("7409", 1, 100, an_event(0).order)]


def test_dead_letters_are_read_without_rights_on_a_group(asking: AskingKafka, prefix: str) -> None:
    asking.allow(prefix, AclOperation.CREATE, AclOperation.DESCRIBE, AclOperation.WRITE, AclOperation.READ)
    driven = driver(asking, prefix)
    driven.sink.open([TABLE])
    driven.send(an_event(dead_letter=True))
    driven.drain()
    driven.sink.close()

    letters = KafkaLetters(config(asking, prefix))
    try:
        assert letters.count() == 1
    finally:
        letters.close()
