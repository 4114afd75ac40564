"""A PostgreSQL server that lets nobody in by TCP without TLS."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from urllib.parse import quote

from bridge.cluster import Cluster, running
from tests.servers.certificates import Authority


class SecureCluster(Cluster):
    """Its certificate is for localhost; who comes by TCP must use TLS, and `certified` must bring a certificate."""

    def __init__(self, folder: pathlib.Path, login: str = "trust") -> None:
        """`login`: how pg_hba.conf asks for it."""
        self._login = login
        self.authority = Authority(folder / "authority")
        self.stranger = Authority(folder / "stranger", "stranger")
        self.client = self.authority.issue("certified")
        self.strange_client = self.stranger.issue("certified")
        super().__init__(settings={"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key",
                                   "ssl_ca_file": "authority.pem"})  # fmt: skip

    def create(self) -> None:
        super().create()
        self.present(self.authority)
        rules = [
            "local all all trust",
            "hostnossl all all all reject",
            "hostssl all certified all cert",
            f"hostssl all all all {self._login}",
        ]
        (self._data / "pg_hba.conf").write_text("\n".join(rules) + "\n", encoding="utf-8")

    def present(self, authority: Authority) -> None:
        """Put a certificate of this authority where the server finds it, when it is started or reloaded."""
        certificate, key = authority.issue("server", "localhost")
        for source, mode in ((certificate, 0o644), (key, 0o600), (self.authority.certificate, 0o644)):
            copy = pathlib.Path(shutil.copy(source, self._data))
            copy.chmod(mode)
            shutil.chown(copy, self._data.owner(), self._data.group())

    def files(self, parameters: dict[str, str]) -> dict[str, str]:
        """With the names of certificates replaced by their files."""
        found = dict(parameters)
        if "sslrootcert" in found:
            found["sslrootcert"] = str(self.stranger.certificate.with_name(found["sslrootcert"] + ".pem"))
        if "sslcert" in found:
            certificate, key = {"ours": self.client, "stranger": self.strange_client}[found["sslcert"]]
            found |= {"sslcert": str(certificate), "sslkey": str(key)}
        return found

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """The tests' own, by the socket."""
        return f"postgresql://{user}@/{database}?host={quote(self.socket_directory)}&port={self.port}"

    def secure_dsn(self, database: str, *, host: str = "localhost", user: str = "postgres", **parameters: str) -> str:
        options = {"sslmode": "verify-full", "sslrootcert": str(self.authority.certificate), **parameters}
        listed = "&".join(f"{name}={quote(value)}" for name, value in options.items())
        return f"postgresql://{user}@{host}:{self.port}/{database}?{listed}"


@contextlib.contextmanager
def secure_cluster(login: str = "trust") -> Iterator[SecureCluster]:
    """One that runs; it and its certificates are gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="walrus-bridge-tls-") as folder,
        running(SecureCluster(pathlib.Path(folder), login)) as cluster,
    ):
        yield cluster
