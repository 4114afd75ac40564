"""RabbitMQ: a node of its own, with its own epmd, both ended by their process ids."""

import os
import pathlib
import shutil
import signal
import subprocess
import uuid

import pika

from bridge.cluster import free_port
from bridge.sinks.rabbitmq_link import blocking
from tests.servers.process import Server
from tests.servers.waiting import wait_until

BINARIES = pathlib.Path("/usr/lib/rabbitmq/bin")


class RabbitMQ(Server):
    def __init__(self, home: pathlib.Path) -> None:
        super().__init__(home, "rabbitmq")
        if not (BINARIES / "rabbitmq-server").exists() or shutil.which("epmd") is None:
            raise RuntimeError("RabbitMQ is not installed for the tests. What to do: make tools")
        self.port, self._epmd_port = free_port(), free_port()
        self._node = f"walrus-{uuid.uuid4().hex[:8]}@localhost"
        (home / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n", encoding="utf-8")
        (home / "enabled_plugins").write_text("[].\n", encoding="utf-8")
        self.environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def start(self) -> None:
        if self._epmd is None:
            # Started here, so that it is not a daemon whose id nobody knows.
            self._epmd = subprocess.Popen(
                ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._launch([str(BINARIES / "rabbitmq-server")], self.environment)
        wait_until(self._answers, "RabbitMQ's start")

    def restart(self) -> None:
        """After `kill`: on the same port, with its data."""
        self.start()

    def end(self) -> None:
        self.kill()
        if self._epmd is not None:
            os.kill(self._epmd.pid, signal.SIGKILL)
            self._epmd.wait(10)
            self._epmd = None

    def connect(self) -> pika.BlockingConnection:
        return blocking(pika.URLParameters(self.url))

    def control(self, *arguments: str) -> str:
        """rabbitmqctl."""
        done = subprocess.run(
            [str(BINARIES / "rabbitmqctl"), "--node", self._node, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    def _answers(self) -> bool:
        if self.has_ended:
            raise AssertionError(f"RabbitMQ has ended: {self.log[-3000:]}")
        try:
            self.connect().close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True
