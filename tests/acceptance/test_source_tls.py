"""TLS to PostgreSQL: all three connections by verify-full, and sqitch's; what is not to be trusted is refused.

On a server of its own that lets nobody in without TLS.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import yaml

from bridge.errors import Exit
from tests.servers.postgres import Database
from tests.servers.secure_postgres import SecureCluster, secure_cluster

SLOT = "secured"


@pytest.fixture(scope="module")
def cluster() -> Iterator[SecureCluster]:
    with secure_cluster() as running:
        yield running


@pytest.fixture
def database(cluster: SecureCluster) -> Iterator[Database]:
    """With nothing in it."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute("create database shop")
    made = Database(cluster, "shop")
    yield made
    made.remove()


def config(source: str, judge: str) -> dict[str, Any]:
    return {
        "source": {"connection": source, "slot": SLOT},
        "rls": {"connection": judge},
        "sink": {"stdout": {}},
        "http": {"listen": None},
    }


def test_all_that_connects_does_so_by_tls(cluster: SecureCluster, database: Database, bridge: Any) -> None:
    # Given a database without the migrations, whose server lets nobody in by TCP without TLS
    database.slot = SLOT
    database.execute("""
        create role reader; create role judging login; grant reader to judging;
        create table book (id int primary key);
        grant select on book to reader;
        alter table book enable row level security;
        create policy even on book to reader using (id % 2 = 0);
    """)
    source, judge = cluster.secure_dsn(database.name), cluster.secure_dsn(database.name, user="judging")

    # When the bridge migrates, streams and judges
    running = bridge(config=config(source, judge))
    running.wait_until_streaming()
    database.subscribe("book", role="reader")
    database.execute("insert into book select generate_series(1, 4)")
    database.wait_until_confirmed()

    # Then it does all of it by TLS
    assert [event["wal"]["record"] for event in running.events] == [{"id": 2}, {"id": 4}]
    used = database.execute("""
        select usename, backend_type, bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid)
        where application_name = 'walrus-bridge' group by 1, 2 order by 1, 2
    """)
    assert used == [("judging", "client backend", True), ("postgres", "client backend", True),
                    ("postgres", "walsender", True)]  # fmt: skip
    assert running.stop() == Exit.OK


REFUSALS = {
    "an unknown authority": ({"sslrootcert": "stranger"}, "certificate verify failed", "sslrootcert"),
    "another host": ({"host": "127.0.0.1"}, "does not match host name", "by the name in the server's certificate"),
    "no authority": ({"sslrootcert": "none"}, "root certificate file", "sslrootcert"),
    "no certificate of ours": ({"user": "certified"}, "requires a valid client certificate", "sslcert"),
    "a certificate of another's": ({"user": "certified", "sslcert": "stranger"}, "unknown ca", "sslcert"),
    "no TLS": ({"sslmode": "disable"}, "pg_hba.conf rejects connection", "allow this client in pg_hba.conf"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_to_be_trusted_is_refused(
    walrus_bridge: Any, cluster: SecureCluster, database: Database, case: str
) -> None:
    changed, says, remedy = REFUSALS[case]

    done = walrus_bridge("run", "--connection", cluster.secure_dsn(database.name, **cluster.files(changed)))

    done.refused(Exit.SOURCE_REFUSED, says, "What to do", remedy)
    assert database.execute("select slot_name from pg_replication_slots") == []


def test_the_judging_connection_verifies_too(
    walrus_bridge: Any, config_file: Any, cluster: SecureCluster, database: Database
) -> None:
    strange = cluster.secure_dsn(database.name, **cluster.files({"sslrootcert": "stranger"}))

    text = yaml.safe_dump(config(cluster.secure_dsn(database.name), strange))
    done = walrus_bridge("run", "--config", config_file(text))

    done.refused(Exit.SOURCE_REFUSED, "certificate verify failed", "sslrootcert")


def test_a_clients_certificate_is_enough_for_every_step(
    walrus_bridge: Any, cluster: SecureCluster, database: Database
) -> None:
    """Whatever does not pass it on, sqitch's psql for one, is not let in."""
    database.execute("drop role if exists certified; create role certified superuser login")
    dsn = cluster.secure_dsn(database.name, user="certified", **cluster.files({"sslcert": "ours"}))

    for command in (
        ("migrate", "deploy"),
        ("check",),
        ("slot", "create"),
        ("slot", "drop", "--yes"),
        ("migrate", "revert", "--yes"),
    ):
        done = walrus_bridge(*command, "--connection", dsn)
        assert done.status == 0, f"{command}: {done.stdout}{done.stderr}"
