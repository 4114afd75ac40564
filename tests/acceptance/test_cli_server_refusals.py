"""A server that does not let the bridge work: a password, wal_level, the plugins it allows, its slots.

On a server of its own, whose settings are changed.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from bridge.cluster import Cluster, temporary_cluster
from bridge.errors import Exit


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with temporary_cluster(settings={"max_replication_slots": "3"}) as cluster:
        yield cluster


@pytest.fixture
def server(cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        yield connection


def setting(server: psycopg.Connection[Any], name: str, value: str | None) -> None:
    """`alter system`, and reload; None: reset it."""
    server.execute(
        sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.SQL(value))
        if value is not None
        else sql.SQL("alter system reset {}").format(sql.Identifier(name))
    )
    server.execute("select pg_reload_conf()")


def slots(server: psycopg.Connection[Any]) -> list[Any]:
    return server.execute("select slot_name, confirmed_flush_lsn from pg_replication_slots").fetchall()


@pytest.fixture
def guarded(server: psycopg.Connection[Any]) -> Iterator[str]:
    """A login whose password the server asks for; it is `k0rrekt`."""
    server.execute("create role guarded login superuser password 'k0rrekt'")
    (path,) = server.execute("show hba_file").fetchone() or ("",)
    (rules,) = server.execute("select pg_read_file(%s)", (path,)).fetchone() or ("",)
    write_file(server, path, f"host all guarded 127.0.0.1/32 scram-sha-256\n{rules}")
    yield "guarded"
    write_file(server, path, rules)
    server.execute("reassign owned by guarded to postgres; drop role guarded")


def write_file(server: psycopg.Connection[Any], path: str, text: str) -> None:
    """As the server's own user, and reload."""
    with server.cursor() as cursor:
        cursor.execute("create temporary table line (n serial, text text)")
        with cursor.copy("copy line (text) from stdin") as copy:
            for line in text.splitlines():
                copy.write_row((line,))
        cursor.execute(sql.SQL("copy (select text from line order by n) to {}").format(path))
        cursor.execute("drop table line; select pg_reload_conf()")


def test_a_wrong_password(walrus_bridge, cluster: Cluster, guarded: str, server: psycopg.Connection[Any]) -> None:
    wrong = walrus_bridge("run", "--connection", cluster.dsn(user=f"{guarded}:geheim"))
    none = walrus_bridge("run", "--connection", cluster.dsn(user=guarded))

    wrong.refused(Exit.SOURCE_REFUSED, "password authentication failed", "check the user and the password")
    assert "geheim" not in wrong.stderr
    none.refused(Exit.SOURCE_REFUSED, "no password supplied", "What to do")
    assert slots(server) == []


def test_the_right_password_is_enough_for_every_step(walrus_bridge, cluster: Cluster, guarded: str) -> None:
    # Given the password in the connection, then all that connects does: psycopg, libpq and sqitch
    dsn = cluster.dsn(user=f"{guarded}:k0rrekt")

    for command in (
        ("migrate", "deploy"),
        ("migrate", "verify"),
        ("check",),
        ("slot", "create"),
        ("slot", "drop", "--yes"),
    ):
        done = walrus_bridge(*command, "--connection", dsn)
        assert done.status == 0, done.stdout + done.stderr
        assert "k0rrekt" not in done.stdout + done.stderr


def test_a_plugin_that_the_server_does_not_allow(
    walrus_bridge, cluster: Cluster, server: psycopg.Connection[Any]
) -> None:
    # Given a server that allows other plugins only
    known = server.execute("select from pg_settings where name = 'output_plugin_libraries'").fetchone()
    if known is None:
        pytest.skip("this minor release knows no output_plugin_libraries")
    setting(server, "output_plugin_libraries", "pgoutput, test_decoding")
    try:
        run = walrus_bridge("run", "--connection", cluster.dsn())
        check = walrus_bridge("check", "--connection", cluster.dsn())
    finally:
        setting(server, "output_plugin_libraries", None)

    # Then both say so, and what to do
    run.refused(Exit.SOURCE_REFUSED, "wal2json", "may not be used as an output plugin", "output_plugin_libraries")
    check.refused(Exit.CHECK_FAILED)
    assert "error    source.plugin" in check.stdout
    assert "output_plugin_libraries = 'pgoutput, test_decoding, wal2json'" in check.stdout
    assert slots(server) == []


def test_no_slot_is_free(walrus_bridge, cluster: Cluster, server: psycopg.Connection[Any]) -> None:
    names = ["other_1", "other_2", "other_3"]
    for name in names:
        server.execute("select pg_create_physical_replication_slot(%s)", (name,))
    try:
        run = walrus_bridge("run", "--connection", cluster.dsn())
        check = walrus_bridge("check", "--connection", cluster.dsn())
    finally:
        for name in names:
            server.execute("select pg_drop_replication_slot(%s)", (name,))

    run.refused(Exit.SOURCE_REFUSED, "all replication slots are in use", "max_replication_slots")
    assert "error    max_replication_slots" in check.stdout


def test_wal_level_is_not_logical(walrus_bridge, cluster: Cluster) -> None:
    # Given a server with the default wal_level
    with psycopg.connect(cluster.dsn(), autocommit=True) as server:
        server.execute("alter system set wal_level = replica")
    cluster.restart()
    try:
        run = walrus_bridge("run", "--connection", cluster.dsn())
        check = walrus_bridge("check", "--connection", cluster.dsn())
        with psycopg.connect(cluster.dsn(), autocommit=True) as server:
            assert slots(server) == []
            server.execute("alter system reset wal_level")
    finally:
        cluster.restart()

    # Then
    run.refused(Exit.SOURCE_REFUSED, "wal_level is replica", "set wal_level = logical")
    check.refused(Exit.CHECK_FAILED)
    assert "error    wal_level                  replica, not logical" in check.stdout


def test_a_bridge_that_the_server_waits_for_at_each_commit(
    walrus_bridge, cluster: Cluster, server: psycopg.Connection[Any]
) -> None:
    # Given synchronous replication to whoever comes
    server.execute("set synchronous_commit = local")
    setting(server, "synchronous_standby_names", "'*'")
    try:
        run = walrus_bridge("run", "--connection", cluster.dsn() + "?options=-csynchronous_commit%3Dlocal")
    finally:
        setting(server, "synchronous_standby_names", None)

    # Then
    run.refused(Exit.SOURCE_REFUSED, "synchronous_standby_names", "What to do")
