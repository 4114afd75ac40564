"""A temporary PostgreSQL cluster, for `walrus-bridge demo` and for the tests."""

import contextlib
import os
import pathlib
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from bridge.errors import SourceUnreachable

_SETTINGS = {
    "wal_level": "logical",
    "fsync": "off",
    "listen_addresses": "127.0.0.1",
    "max_replication_slots": "40",
    "max_wal_senders": "40",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "timezone": "UTC",
}
_PLUGINS = "pgoutput, test_decoding, wal2json"


def free_port() -> int:
    """A free loopback port, below those that Linux gives to outgoing connections (32768 and up): one of these could take
    the port while a server restarts, even a client's own attempts to reach that server. Until this process ends no other
    call is given it, in any process: its UDP twin is held, which the server does not need."""
    while True:
        address = ("127.0.0.1", random.randrange(15000, 32000))
        with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as twin, contextlib.suppress(OSError):
            probe.bind(address)
            twin.bind(address)
            twin.detach()  # open, though nobody has it
            return address[1]


def find_binaries() -> pathlib.Path:
    """$PG_BIN, or Debian's newest PostgreSQL with wal2json, or the folder of `postgres` on the path.

    Raises SourceUnreachable naming what is missing.
    """
    if chosen := os.environ.get("PG_BIN"):
        folders = [pathlib.Path(chosen)]
    else:
        debian = pathlib.Path("/usr/lib/postgresql").glob("*/bin")
        folders = sorted(debian, key=lambda path: (_has_wal2json(path), int(path.parent.name)), reverse=True)
        if on_path := shutil.which("postgres"):
            folders.append(pathlib.Path(on_path).resolve().parent)
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return folder
    raise SourceUnreachable(
        "no PostgreSQL server is installed here. What to do: apt-get install postgresql-15 postgresql-15-wal2json, or"
        " set PG_BIN to the folder of initdb, pg_ctl and postgres"
    )


def _has_wal2json(binaries: pathlib.Path) -> bool:
    return (binaries.parent / "lib" / "wal2json.so").exists()


class Cluster:
    """A server on a free loopback port in a folder of its own. PostgreSQL refuses root: then it runs as `postgres`."""

    def __init__(self, binaries: pathlib.Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.binaries = binaries or find_binaries()
        self.port = free_port()
        self._settings = _SETTINGS | dict(settings or {})
        self._home = pathlib.Path(tempfile.mkdtemp(prefix="walrus-bridge-pg-"))
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            try:
                pwd.getpwnam("postgres")
            except KeyError:
                raise SourceUnreachable(
                    "PostgreSQL does not run as root, and there is no user postgres. What to do: run as another user"
                ) from None
            self._account = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self._home, "postgres", "postgres")
        self._data = self._home / "data"

    @property
    def has_wal2json(self) -> bool:
        return _has_wal2json(self.binaries)

    @property
    def log(self) -> str:
        path = self._home / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def socket_directory(self) -> str:
        return str(self._home)

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """initdb and the settings."""
        self._call(
            "initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8", "--no-sync"
        )
        settings = self._settings | {"port": str(self.port), "unix_socket_directories": str(self._home)}
        if "output_plugin_libraries" in self._call("postgres", "--describe-config"):
            settings["output_plugin_libraries"] = _PLUGINS
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        self._call("pg_ctl", "-D", str(self._data), "-l", str(self._home / "log"), "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        self._call("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "-t", "60", "stop")

    def restart(self, mode: str = "fast") -> None:
        """`immediate` is a power cut: what was not on disk is lost."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        if (self._data / "postmaster.pid").exists():
            with contextlib.suppress(SourceUnreachable):
                self.stop("immediate")
        shutil.rmtree(self._home, ignore_errors=True)

    def _call(self, program: str, *arguments: str) -> str:
        # Output goes to a file: the server that pg_ctl leaves behind would keep a pipe open.
        with tempfile.TemporaryFile() as output:
            try:
                done = subprocess.run(
                    [self.binaries / program, *arguments],
                    cwd=self._home,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                    **self._account,
                )
            except OSError as error:
                account = self._account.get("user", "you")
                raise SourceUnreachable(
                    f"{self.binaries / program} cannot be run as {account}: {error.strerror}. What to do: let {account}"
                    " read and run it, or set PG_BIN to the folder of other initdb, pg_ctl and postgres"
                ) from error
            output.seek(0)
            text = output.read().decode(errors="replace")
        if done.returncode:
            raise SourceUnreachable(f"{program} failed: {text.strip()}\n{self.log[-2000:]}")
        return text


_Running = TypeVar("_Running", bound=Cluster)


@contextlib.contextmanager
def running(cluster: _Running) -> Iterator[_Running]:
    """Made and started; stopped and removed at the end."""
    try:
        cluster.create()
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@contextlib.contextmanager
def temporary_cluster(
    binaries: pathlib.Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A running cluster, stopped and removed at the end."""
    with running(Cluster(binaries, settings)) as cluster:
        yield cluster
