"""Apache Kafka: one KRaft node, no ZooKeeper, started from the jars that `make tools` has put into .cache."""

import os
import pathlib
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from bridge.cluster import free_port
from tests.servers.process import Server
from tests.servers.waiting import wait_until

JARS = pathlib.Path(__file__).parents[2] / ".cache" / "kafka" / "libs"

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={home}/data
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=3
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=true
"""
LOGGING = """\
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
"""


class Kafka(Server):
    def __init__(self, home: pathlib.Path) -> None:
        super().__init__(home, "kafka")
        java = shutil.which("java")
        if java is None or not any(JARS.glob("kafka_*.jar")):
            raise RuntimeError("Kafka is not installed for the tests. What to do: make tools")
        self._java = java
        self.port, controller = free_port(), free_port()
        (home / "server.properties").write_text(
            PROPERTIES.format(port=self.port, controller=controller, home=home), encoding="utf-8"
        )
        (home / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
        self._run("kafka.tools.StorageTool", "format", "-t", str(uuid.uuid4()), "-c", "server.properties")

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._launch(self._command("kafka.Kafka", "server.properties"), self._environment)
        wait_until(self._answers, "Kafka's start", 60)

    def restart(self) -> None:
        """After `kill`: on the same port, with its data."""
        self.start()

    def resume(self) -> None:
        """Until it answers again: a controller that was frozen for long first takes its broker for dead."""
        super().resume()
        if not self.has_ended:
            wait_until(self._answers, "Kafka's answer after a pause", 60)

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers})

    def topics(self) -> dict[str, int]:
        """Topics and their number of partitions."""
        found = self.admin.list_topics(timeout=10).topics
        return {name: len(topic.partitions) for name, topic in found.items()}

    def read(self, topic: str) -> list[Message]:
        """All that the topic holds, partition by partition."""
        consumer = Consumer(
            {"bootstrap.servers": self.servers, "group.id": f"reader-{uuid.uuid4()}", "enable.auto.commit": False}
        )
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            places = [TopicPartition(topic, partition, 0) for partition in partitions]
            ends = {place.partition: self._end(consumer, place) for place in places}
            consumer.assign(places)
            found = sorted(self._until(consumer, ends), key=lambda message: (message.partition(), message.offset()))
        finally:
            consumer.close()
        return found

    def _end(self, consumer: Consumer, place: TopicPartition) -> int:
        """Where the partition ends. A broker that was just thawed may not know its partitions at first."""
        end = time.monotonic() + 20
        while True:
            try:
                return int(consumer.get_watermark_offsets(place, timeout=10)[1])
            except KafkaException:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def _until(self, consumer: Consumer, ends: dict[int, int]) -> Iterator[Message]:
        open_partitions = {partition for partition, end in ends.items() if end}
        while open_partitions:
            message = consumer.poll(10)
            if message is None:
                raise AssertionError(f"partitions {open_partitions} have less than {ends}")
            if message.error():
                raise KafkaException(message.error())
            yield message
            if message.offset() + 1 >= ends[message.partition()]:
                open_partitions.discard(message.partition())

    def _answers(self) -> bool:
        if self.has_ended:
            raise AssertionError(f"Kafka has ended: {self.log[-3000:]}")
        try:
            return bool(AdminClient({"bootstrap.servers": self.servers, "log_level": 0}).list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    @property
    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _command(self, main: str, *arguments: str) -> list[str]:
        options = ["-Xmx512m", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={self.home}/log4j2.properties"]
        return [self._java, *options, "-cp", f"{JARS}/*", main, *arguments]

    def _run(self, main: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(main, *arguments), cwd=self.home, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{main}: {done.stdout}{done.stderr}")
