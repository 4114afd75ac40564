"""The RabbitMQ sink and a broker's certificate, made here."""

import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from bridge.cluster import free_port
from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.errors import SinkRefused
from bridge.sinks.rabbitmq import RabbitMQSink
from tests.integration.sinks import TABLE, Driver, an_event
from tests.servers.rabbitmq import RabbitMQ

KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


class SecureRabbitMQ(RabbitMQ):
    """With a second listener, for TLS: its certificate is for localhost, by an authority of its own."""

    def __init__(self, home: pathlib.Path) -> None:
        super().__init__(home)
        self.secure_port = free_port()
        self.authority = home / "authority.pem"
        (home / "names").write_text("subjectAltName=DNS:localhost\n", encoding="utf-8")
        for command in (
            f"req -x509 {KEY} -keyout authority.key -out authority.pem -days 2 -subj /CN=authority",
            f"req {KEY} -keyout broker.key -out broker.csr -subj /CN=broker",
            "x509 -req -in broker.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names"
            " -out broker.pem",
        ):
            subprocess.run(["openssl", *command.split()], cwd=home, check=True, capture_output=True, timeout=30)
        with (home / "rabbitmq.conf").open("a", encoding="utf-8") as config:
            config.write(
                f"listeners.ssl.1 = 127.0.0.1:{self.secure_port}\nssl_options.verify = verify_none\n"
                f"ssl_options.cacertfile = {self.authority}\n"
                f"ssl_options.certfile = {home}/broker.pem\nssl_options.keyfile = {home}/broker.key\n"
            )

    def secure_url(self, host: str, *, trusting: bool) -> str:
        options = f"?ssl_options={quote(repr({'ca_certs': str(self.authority)}))}" if trusting else ""
        return f"amqps://guest:guest@{host}:{self.secure_port}/%2F{options}"


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureRabbitMQ]:
    home = pathlib.Path(tempfile.mkdtemp(prefix="walrus-bridge-rabbitmq-"))
    server = SecureRabbitMQ(home)
    try:
        server.start()
        yield server
    finally:
        server.end()
        shutil.rmtree(home, ignore_errors=True)


def test_events_go_by_tls_to_a_broker_whose_authority_is_trusted(secure: SecureRabbitMQ, prefix: str) -> None:
    driver = Driver(RabbitMQSink(RabbitMQConfig(url=secure.secure_url("localhost", trusting=True), prefix=prefix)))
    driver.sink.open([TABLE])

    driver.send(*(an_event(number) for number in range(100)))
    driver.drain()

    assert secure.control("list_connections", "ssl").split()[-1] == "true"
    driver.sink.close()


@pytest.mark.parametrize(("host", "trusting"), [("localhost", False), ("127.0.0.1", True)])
def test_a_certificate_of_an_unknown_authority_or_another_host_is_refused(
    secure: SecureRabbitMQ, prefix: str, host: str, trusting: bool
) -> None:
    sink = RabbitMQSink(RabbitMQConfig(url=secure.secure_url(host, trusting=trusting), prefix=prefix))

    with pytest.raises(SinkRefused, match=f"the certificate of RabbitMQ at {host}:.* is not to be trusted"):
        sink.open([TABLE])

    sink.close()
