"""Apache Kafka: KRaft nodes, no ZooKeeper, started from the jars that `make tools` has put into .cache."""

import os
import pathlib
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from bridge.cluster import free_port
from tests.servers.process import Server
from tests.servers.waiting import wait_until

JARS = pathlib.Path(__file__).parents[2] / ".cache" / "kafka" / "libs"

PROPERTIES = """\
process.roles={roles}
node.id={node}
controller.quorum.voters={voters}
listeners={listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={home}/data
num.partitions=1
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=3
transaction.state.log.replication.factor={replicas}
transaction.state.log.num.partitions=3
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
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
    def __init__(
        self,
        home: pathlib.Path,
        *,
        node: int = 1,
        controllers: Mapping[int, int] | None = None,
        cluster: str | None = None,
        memory: str = "512m",
    ) -> None:
        """`controllers`: each controller's port, by its node; a node that is not among them is a broker only. None: it is
        alone."""
        super().__init__(home, "kafka")
        java = shutil.which("java")
        if java is None or not any(JARS.glob("kafka_*.jar")):
            raise RuntimeError("Kafka is not installed for the tests. What to do: make tools")
        self._java = java
        self._memory = memory
        self.port = free_port()
        controllers = controllers or {node: free_port()}
        own = f",CONTROLLER://127.0.0.1:{controllers[node]}" if node in controllers else ""
        properties = PROPERTIES.format(
            roles="broker,controller" if own else "broker",
            node=node,
            port=self.port,
            listeners=f"PLAINTEXT://127.0.0.1:{self.port}{own}",
            voters=",".join(f"{number}@127.0.0.1:{port}" for number, port in controllers.items()),
            replicas=len(controllers),
            in_sync=len(controllers) // 2 + 1,
            home=home,
        )
        (home / "server.properties").write_text(properties, encoding="utf-8")
        (home / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
        self.format(cluster)

    def format(self, cluster: str | None = None) -> None:
        """An empty data folder, of a new cluster unless it is told which."""
        shutil.rmtree(self.home / "data", ignore_errors=True)
        self._run("kafka.tools.StorageTool", "format", "-t", cluster or str(uuid.uuid4()), "-c", "server.properties")

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start it and wait for nothing."""
        self._launch(self._command("kafka.Kafka", "server.properties"), self._environment)

    def start(self) -> None:
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Until it answers."""
        wait_until(self._answers, "Kafka's start")

    def restart(self) -> None:
        """After `kill`: on the same port, with its data."""
        self.start()

    def resume(self) -> None:
        """Until it answers again: a controller that was frozen for long first takes its broker for dead."""
        super().resume()
        if not self.has_ended:
            wait_until(self._answers, "Kafka's answer after a pause")

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers})

    def topics(self) -> dict[str, int]:
        """Topics and their number of partitions."""
        found = self.admin.list_topics(timeout=10).topics
        return {name: len(topic.partitions) for name, topic in found.items()}

    def read(self, topic: str) -> list[Message]:
        """All that the topic holds and that is committed, partition by partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": f"reader-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
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
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:  # markers of transactions may lie before it
                open_partitions.discard(message.partition())
            else:
                raise KafkaException(error)

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
        options = [
            f"-Xmx{self._memory}",
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={self.home}/log4j2.properties",
        ]
        return [self._java, *options, "-cp", f"{JARS}/*", main, *arguments]

    def _run(self, main: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(main, *arguments), cwd=self.home, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{main}: {done.stdout}{done.stderr}")


class KafkaCluster:
    """Three nodes, each broker and controller; three replicas of everything, two of which must have it."""

    def __init__(self, home: pathlib.Path) -> None:
        numbers = (1, 2, 3)
        controllers = {number: free_port() for number in numbers}
        cluster = str(uuid.uuid4())
        for number in numbers:
            (home / str(number)).mkdir()
        self.nodes = [
            Kafka(home / str(number), node=number, controllers=controllers, cluster=cluster, memory="384m")
            for number in numbers
        ]

    @property
    def servers(self) -> str:
        return ",".join(node.servers for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.launch()
        self.wait_for(len(self.nodes))

    def wait_for(self, brokers: int) -> None:
        """Until so many are known to one another, and none besides."""
        wait_until(lambda: self._count() == brokers, f"{brokers} Kafka brokers", 90)

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def end(self) -> None:
        for node in self.nodes:
            node.kill()

    def _count(self) -> int:
        try:
            return len(self.admin.list_topics(timeout=2).brokers)
        except KafkaException:
            return 0
