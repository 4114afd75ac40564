"""The brokers as a torture sees them: behind a proxy, killed, frozen, and read at the end."""

import pathlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bridge.cluster import free_port
from tests.servers.kafka import Kafka, KafkaCluster
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitMQ
from tests.torture.checker import Message, message_of
from tests.torture.consumers import Consumer as Example
from tests.torture.consumers import KafkaCopy, KafkaInboxes, RabbitMQJournal
from tests.torture.workload import KEYS

PREFIX = "torture."
INBOX = f"{PREFIX}inbox"


class Target(Protocol):
    """A broker, and the proxies by which the bridge reaches it."""

    proxies: list[Proxy]

    @property
    def server(self) -> Kafka | RabbitMQ:
        """The one to do something to."""

    def config(self) -> dict[str, Any]:
        """The sections of the bridge's config that say where to."""

    def consumers(self, folder: pathlib.Path, subscriptions: Mapping[str, str]) -> Sequence[Example]:
        """The examples that read it, by the proxies as the bridge; `subscriptions`: ids by name."""

    def contents(self) -> list[Message]:
        """All that a consumer gets, duplicates included."""

    def end(self) -> None: ...


def behind_a_proxy(server: Kafka) -> Proxy:
    """The broker tells clients who come by the proxy to go on coming by it."""
    proxied = free_port()
    proxy = Proxy(proxied)
    properties = server.home / "server.properties"
    text = properties.read_text()
    text = text.replace("\nlisteners=", f"\nlisteners=PROXY://127.0.0.1:{proxied},")
    text = text.replace("\nadvertised.listeners=", f"\nadvertised.listeners=PROXY://127.0.0.1:{proxy.port},")
    text = text.replace("protocol.map=", "protocol.map=PROXY:PLAINTEXT,")
    properties.write_text(text + "inter.broker.listener.name=PLAINTEXT\n")
    return proxy


class KafkaTarget:
    """One broker, or three, of which one at random is meant each time."""

    def __init__(self, home: pathlib.Path, seed: int, *, nodes: int = 1, exactly_once: bool = False) -> None:
        self._random = random.Random(f"nodes {seed}")
        self._cluster = KafkaCluster(home) if nodes > 1 else None
        self._nodes = self._cluster.nodes if self._cluster else [Kafka(home)]
        self.proxies = [behind_a_proxy(node) for node in self._nodes]
        self._exactly_once = exactly_once
        (self._cluster or self._nodes[0]).start()

    @property
    def server(self) -> Kafka:
        return self._random.choice(self._nodes)

    def config(self) -> dict[str, Any]:
        kafka = {
            "prefix": PREFIX,
            "create_topics": {"partitions": 3},
            "client": {"bootstrap.servers": self._proxied},
        }
        return {"sink": {"kafka": kafka}, **({"delivery": "exactly_once"} if self._exactly_once else {})}

    def consumers(self, folder: pathlib.Path, subscriptions: Mapping[str, str]) -> Sequence[Example]:
        def copy(name: str) -> Example:
            return KafkaCopy(folder, self._proxied, PREFIX, name, subscriptions)

        if self._exactly_once:
            return [KafkaInboxes(folder, self._nodes, self._proxied, PREFIX, "secured"), copy("plain for the owner")]
        return [copy("plain for the owner"), copy("composite"), copy("whole for alice")]

    @property
    def _proxied(self) -> str:
        return ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)

    def contents(self) -> list[Message]:
        consumer = Consumer(
            {
                "bootstrap.servers": ",".join(node.servers for node in self._nodes),
                "group.id": "checker",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed" if self._exactly_once else "read_uncommitted",
            }
        )
        try:
            return [message for table in KEYS for message in self._topic(consumer, table)]
        finally:
            consumer.close()

    def _topic(self, consumer: Consumer, table: str) -> list[Message]:
        topic = f"{PREFIX}public.{table}"
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        found, ended = [], set[int]()
        while len(ended) < len(partitions):
            message = consumer.poll(20)
            assert message is not None, f"{topic} cannot be read to its end"
            error = message.error()
            if error is None:
                headers = {name: value.decode() for name, value in message.headers() or []}
                place = (topic, message.partition(), message.offset())
                found.append(message_of(headers, message.value() or b"", KEYS[table], place))
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition() or 0)
            else:
                raise KafkaException(error)
        return found

    def end(self) -> None:
        for proxy in self.proxies:
            proxy.close()
        for node in self._nodes:
            node.kill()


class RabbitMQTarget:
    """A broker with one durable queue for everything, so that its order is the order of publishing."""

    def __init__(self, home: pathlib.Path) -> None:
        self.server = RabbitMQ(home)
        self.proxies = [Proxy(self.server.port)]
        self.server.start()

    def config(self) -> dict[str, Any]:
        exchanges = {f"{PREFIX}public.{table}": "#" for table in KEYS}
        queues = [{"name": INBOX, "bindings": exchanges}]
        return {"sink": {"rabbitmq": {"prefix": PREFIX, "url": f"{self._proxied}?heartbeat=4", "queues": queues}}}

    def consumers(self, folder: pathlib.Path, subscriptions: Mapping[str, str]) -> Sequence[Example]:
        return [RabbitMQJournal(folder, self.server, self._proxied, PREFIX, table) for table in ("composite", "whole")]

    @property
    def _proxied(self) -> str:
        return self.server.url.replace(f":{self.server.port}/", f":{self.proxies[0].port}/")

    def contents(self) -> list[Message]:
        found = []
        with self.server.connect() as connection:
            channel = connection.channel()
            count = channel.queue_declare(INBOX, passive=True).method.message_count
            channel.basic_qos(prefetch_count=1000)
            if count:
                for method, properties, body in channel.consume(INBOX, inactivity_timeout=20):
                    assert method is not None, f"the queue says it holds {count} messages, and gives {len(found)}"
                    headers = {name: str(value) for name, value in (properties.headers or {}).items()}
                    table = headers["table"]
                    found.append(message_of(headers, body, KEYS[table], (len(found),)))
                    if len(found) % 500 == 0 or len(found) == count:
                        channel.basic_ack(method.delivery_tag, multiple=True)
                    if len(found) == count:
                        break
            channel.cancel()
        return found

    def end(self) -> None:
        self.proxies[0].close()
        self.server.end()
