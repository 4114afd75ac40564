"""A password is changed under a running bridge: it goes on, until it has to connect again. Then it ends, and nothing is lost."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge import migrations
from bridge.errors import Exit
from tests.servers.bridge import BridgeProcess
from tests.servers.postgres import Database
from tests.servers.secure_postgres import SecureCluster, secure_cluster

PASSWORDS = {"streaming": "before-it", "judging": "before-it"}


@pytest.fixture
def cluster() -> Iterator[SecureCluster]:
    """It asks for a password."""
    with secure_cluster("scram-sha-256") as running:
        yield running


@pytest.fixture
def database(cluster: SecureCluster) -> Iterator[Database]:
    migrations.deploy(cluster.dsn())
    made = Database(cluster, "postgres")
    for login, password in PASSWORDS.items():
        made.execute(f"create role {login} superuser login password '{password}'")
    yield made
    made.connection.close()


def config(cluster: SecureCluster, passwords: dict[str, str]) -> dict[str, Any]:
    streaming, judging = (cluster.secure_dsn("postgres", user=f"{login}:{passwords[login]}") for login in PASSWORDS)
    return {
        "source": {"connection": streaming},
        "rls": {"connection": judging},
        "sink": {"stdout": {}},
        "http": {"listen": None},
    }


@pytest.mark.parametrize("login", PASSWORDS)
def test_a_changed_password_is_missed_at_the_next_connection(
    cluster: SecureCluster, database: Database, bridge: Callable[..., BridgeProcess], login: str
) -> None:
    database.execute("create table book (id int primary key)")
    database.subscribe("book")
    running = bridge(config=config(cluster, PASSWORDS))
    running.wait_until_streaming()

    # What is connected stays so
    database.execute(f"alter role {login} password 'after-it'")
    database.execute("insert into book values (1)")
    running.wait_for_events(1)

    # Who has to connect again is refused
    database.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'realtime'")
    database.execute("insert into book values (2)")
    assert running.wait() == Exit.SOURCE_REFUSED
    assert f"as {login} refuses the connection" in running.stderr
    assert "before-it" not in running.stderr

    # And with the new one it has what was committed meanwhile
    running = bridge(config=config(cluster, PASSWORDS | {login: "after-it"}))
    running.wait_until_streaming()
    running.wait_for(lambda: {"id": 2} in [event["wal"]["record"] for event in running.events], "what has waited")
    assert running.stop() == Exit.OK
