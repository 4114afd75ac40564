"""One torture: the workload, what dies meanwhile, and the verdict."""

import pathlib
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psycopg

from bridge import migrations
from bridge.cluster import Cluster
from bridge.errors import Exit
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import PATIENCE, wait_until
from tests.torture.checker import Report, check, tally
from tests.torture.consumers import Consumers
from tests.torture.targets import KafkaTarget, RabbitMQTarget, Target
from tests.torture.workload import Session, audiences_of, set_up, truth

SLOT = "torture"
SESSIONS = 4
WAL_SENDER_TIMEOUT_SECONDS = 2
PASSING = {Exit.SOURCE_UNREACHABLE, Exit.SINK_UNREACHABLE, Exit.SLOT, Exit.UNDELIVERED}
"""What the bridge may end with by itself, at a start or a stop while something is away: then it is started again."""
TARGETS: dict[str, Callable[[pathlib.Path, int], Target]] = {
    "kafka": KafkaTarget,
    "kafka-cluster": lambda home, seed: KafkaTarget(home, seed, nodes=3),
    "rabbitmq": lambda home, _: RabbitMQTarget(home),
    # Three nodes: one alone that dies between a transaction's two phases forgets the second (Kafka 4.3.1).
    "exactly-once": lambda home, seed: KafkaTarget(home, seed, nodes=3, exactly_once=True),
}


class Torture:
    """Servers of its own, ended by `close`. `program`: how Python is to start the bridge; `with_consumers`: they read meanwhile."""

    def __init__(
        self,
        target: str,
        seed: int,
        program: Sequence[str] = ("-m", "bridge"),
        in_flight: str = "1MiB",
        *,
        with_consumers: bool = True,
    ) -> None:
        self._name = target
        self._seed = seed
        self._random = random.Random(f"chaos {seed}")
        self._program = tuple(program)
        self._in_flight = in_flight
        self._with_consumers = with_consumers
        self._consumers = Consumers([], seed)
        self.plugin = random.Random(f"plugin {seed}").choice(("wal2json", "pgoutput"))
        self.counts: Counter[str] = Counter()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="walrus-bridge-torture-"))
        self._bridge: BridgeProcess | None = None
        self._stop, self._go = threading.Event(), threading.Event()
        self._go.set()
        self._sessions: list[Session] = []
        self._cluster = Cluster(
            settings={"fsync": "on", "wal_sender_timeout": f"{WAL_SENDER_TIMEOUT_SECONDS}s", "log_min_messages": "log"}
        )
        (self.folder / "broker").mkdir()
        self.target: Target | None = None

    def start(self) -> None:
        """The servers, the tables, the bridge, the sessions."""
        self._cluster.create()
        self._cluster.start()
        self.target = TARGETS[self._name](self.folder / "broker", self._seed)
        self._config = {
            "source": {"connection": self._cluster.dsn(), "slot": SLOT, "plugin": self.plugin, "heartbeat": "1s"},
            "limits": {"in_flight": self._in_flight},
            "http": {"listen": None},
            **self.target.config(),
        }
        with self._connect() as connection:
            connection.execute("create publication everything for all tables")
        if self.plugin == "pgoutput":
            self._config["source"]["publication"] = "everything"
        migrations.deploy(self._cluster.dsn())
        with self._connect() as connection:
            self._subscriptions = set_up(connection)
        self._start_bridge()
        wait_until(self._streams, "streaming")
        if self._with_consumers:
            made = self.target.consumers(self.folder / "consumers", self._subscriptions)
            self._consumers = Consumers(made, self._seed)
            self._consumers.start()
        self._sessions = [
            Session(self._cluster.dsn(), f"{self._seed}/{n}", self._go, self._stop) for n in range(SESSIONS)
        ]
        for session in self._sessions:
            session.start()

    def run(self, seconds: float) -> Report:
        """Chaos for that long, then the verdict."""
        self.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.live(self._random.uniform(0.2, 2.5))
            action = self._random.choice(ACTIONS)
            self.counts[action.__name__.replace("_", " ")] += 1
            action(self)
        return self.verdict()

    def live(self, seconds: float) -> None:
        """Let it work; a bridge that has ended by itself for a reason that passes is started again."""
        end = time.monotonic() + seconds
        while True:
            self._ensure_bridge()
            self._consumers.live()
            if time.monotonic() > end:
                return
            time.sleep(0.05)

    def wait_until_it_moves(self) -> None:
        """Until the bridge confirms something new."""
        with self._connect() as connection:
            query = "select confirmed_flush_lsn from pg_replication_slots where slot_name = %s"
            before = connection.execute(query, (SLOT,)).fetchone()

            def has_moved() -> bool:
                self._ensure_bridge()
                return connection.execute(query, (SLOT,)).fetchone() != before

            wait_until(has_moved, "a moved slot")

    def verdict(self) -> Report:
        """Stop the sessions, let the bridge catch up, and compare."""
        self._stop.set()
        for session in self._sessions:
            session.join(PATIENCE)
            assert not session.is_alive(), "a session does not end"
            if session.failure is not None:
                raise session.failure
            self.counts.update(session.counts)
        with self._connect() as connection:
            self._catch_up(connection)
            wait_until(self._streams, "streaming")  # one that has only just been started ends by the signal
            assert self.bridge.stop() == Exit.OK
            assert self.target is not None
            ops, messages, audiences = truth(connection), self.target.contents(), audiences_of(self._subscriptions)
        report = check(ops, messages, audiences)
        report.consumers = self._consumers.verdict(ops, messages, audiences)
        self.counts.update(self._consumers.counts)
        return report

    def close(self, *, keep: bool = False) -> None:
        """End all that was started. `keep`: leave the bridge's log, the broker's and the consumers' where they are."""
        self._stop.set()
        for session in self._sessions:
            session.join(10)
        self._consumers.end()
        if self._bridge is not None:
            self._bridge.kill()
        if self.target is not None:
            self.target.end()
        self._cluster.remove()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def bridge(self) -> BridgeProcess:
        assert self._bridge is not None
        return self._bridge

    def say(self, report: Report) -> str:
        return f"torture {self._name}, {self.plugin}, seed {self._seed}: {tally(self.counts)} | {report.line()}"

    # -- what may happen -------------------------------------------------------------------------------------------

    def kill_bridge(self) -> None:
        self.bridge.kill()
        self._start_bridge()

    def stop_bridge(self) -> None:
        status = self.bridge.stop()
        # A process that has only just been started does not know of the signal yet.
        assert status in PASSING | {Exit.OK, -signal.SIGTERM}, self._last_words(status)
        self._start_bridge()

    def kill_broker(self) -> None:
        server = self._server
        server.kill()
        self.live(self._random.uniform(0, 2))
        server.restart()

    def freeze_broker(self) -> None:
        """For longer than wal_sender_timeout."""
        server = self._server
        server.pause()
        self.live(WAL_SENDER_TIMEOUT_SECONDS + self._random.uniform(0.5, 2))
        server.resume()

    def freeze_broker_and_kill_bridge(self) -> None:
        """What lies in the broker's sockets when it thaws is still appended: so now and then it dies instead."""
        server = self._server
        server.pause()
        self.live(self._random.uniform(0.2, 1))
        self.bridge.kill()
        if self._random.random() < 0.5:
            server.resume()
        else:
            server.kill()
            server.restart()
        self._start_bridge()

    def stall_and_kill_bridge(self) -> None:
        """Nothing that is under way arrives."""
        self._stall()
        self.live(self._random.uniform(0.3, 1.5))
        self.bridge.kill()
        self._cut()
        self._flow()
        self._start_bridge()

    def stall_and_kill_bridge_when_quiet(self) -> None:
        """PostgreSQL has nothing more to send, and says how far its WAL goes, while events are under way."""
        self._stall()
        self.live(0.3)
        self._go.clear()
        self.live(1.5)
        self.bridge.kill()
        self._cut()
        self._flow()
        self._go.set()
        self._start_bridge()

    def restart_postgresql(self) -> None:
        self._cluster.restart("fast")

    def crash_postgresql(self) -> None:
        self._cluster.restart("immediate")

    def terminate_walsender(self) -> None:
        self._terminate("backend_type = 'walsender'")

    def terminate_bridge_connections(self) -> None:
        self._terminate("application_name like 'walrus-bridge%'")

    def cut_broker_connections(self) -> None:
        self._cut()

    def stall_broker_connections(self) -> None:
        self._stall()
        self.live(self._random.uniform(0.2, 3))
        if self._random.random() < 0.5:
            self._cut()
        self._flow()

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _server(self) -> Kafka | RabbitMQ:
        assert self.target is not None
        return self.target.server

    def _stall(self) -> None:
        for proxy in self._proxies:
            proxy.stall()

    def _cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def _flow(self) -> None:
        for proxy in self._proxies:
            proxy.flow()

    @property
    def _proxies(self) -> list[Proxy]:
        assert self.target is not None
        return self.target.proxies

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._cluster.dsn(), autocommit=True)

    def _terminate(self, condition: str) -> None:
        with self._connect() as connection:
            connection.execute(
                f"select pg_terminate_backend(pid) from pg_stat_activity where {condition} and pid <> pg_backend_pid()"
            )

    def _start_bridge(self) -> BridgeProcess:
        self.counts["bridge starts"] += 1
        self._bridge = BridgeProcess(self.folder, config=self._config, program=self._program)
        return self._bridge

    def _ensure_bridge(self) -> None:
        status = self.bridge.process.poll()
        if status is not None:
            assert status in PASSING, self._last_words(status)
            self._start_bridge()
            time.sleep(0.2)

    def _streams(self) -> bool:
        self._ensure_bridge()
        return "] streaming " in self.bridge.stderr

    def _catch_up(self, connection: psycopg.Connection) -> None:
        """Until all is confirmed; for as long as the position moves."""
        row = connection.execute("select pg_current_wal_lsn()").fetchone()
        query = "select confirmed_flush_lsn::text, confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
        before: tuple[str, bool] | None = None

        def moved() -> tuple[str, bool] | None:
            self._ensure_bridge()
            now = connection.execute(query, (row and row[0], SLOT)).fetchone()
            return now if now != before else None

        while before is None or not before[1]:
            try:
                before = wait_until(moved, "the slot's moving")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.bridge.stderr[-3000:]}") from None

    def _last_words(self, status: int) -> str:
        return f"the bridge ended with {status}\n{self.bridge.stderr[-3000:]}"


ACTIONS = (
    Torture.kill_bridge,
    Torture.kill_bridge,
    Torture.kill_bridge,
    Torture.stop_bridge,
    Torture.kill_broker,
    Torture.freeze_broker,
    Torture.freeze_broker_and_kill_bridge,
    Torture.stall_and_kill_bridge,
    Torture.stall_and_kill_bridge_when_quiet,
    Torture.restart_postgresql,
    Torture.crash_postgresql,
    Torture.terminate_walsender,
    Torture.terminate_bridge_connections,
    Torture.cut_broker_connections,
    Torture.stall_broker_connections,
)


def torture(target: str, seconds: float, seed: int, say: Callable[[str], object]) -> bool:
    """Run one, say its line, and whether nothing was lost; of a failing one, what, and how to repeat it."""
    made = Torture(target, seed)
    clean = False
    try:
        report = made.run(seconds)
        clean = report.is_clean and (target != "exactly-once" or not report.duplicates)
        say(made.say(report))
        if not clean:
            say(report.details())
    finally:
        if not clean:
            say(f"repeat it with: make torture TARGET={target} SECONDS={seconds:.0f} SEED={seed}")
            say(f"what led to it: {tally(made.counts)}; logs: {made.folder}")
        made.close(keep=not clean)
    return clean
