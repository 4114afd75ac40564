"""An authority and certificates of its own, made with openssl for one test run."""

import pathlib
import subprocess

_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


class Authority:
    """A certificate authority; its files lie in a folder of its own, readable by every account that a server runs as."""

    def __init__(self, folder: pathlib.Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = name
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / f"{name}.pem"
        self._openssl(f"req -x509 {_KEY} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}")

    def issue(self, name: str, *hosts: str) -> tuple[pathlib.Path, pathlib.Path]:
        """The certificate of a server with these host names, or of a client called `name`, and its key. Both PEM."""
        self._openssl(f"req {_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        extensions = self._folder / f"{name}.extensions"
        extensions.write_text(f"subjectAltName={','.join(f'DNS:{host}' for host in hosts or (name,))}\n", "utf-8")
        self._openssl(
            f"x509 -req -in {name}.csr -CA {self._name}.pem -CAkey {self._name}.key -CAcreateserial -days 2"
            f" -extfile {extensions.name} -out {name}.pem"
        )
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def _openssl(self, command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=self._folder, check=True, capture_output=True, timeout=30)
