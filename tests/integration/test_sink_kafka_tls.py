"""The Kafka sink by TLS: SCRAM and clients' certificates, and what is not to be trusted, by either side."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.cluster import free_port
from bridge.config import CreateTopics
from bridge.config import Kafka as KafkaConfig
from bridge.errors import SinkRefused, SinkUnreachable
from bridge.sinks.kafka import KafkaSink
from tests.integration.sinks import TABLE, Driver, an_event
from tests.servers.certificates import Authority
from tests.servers.kafka import Kafka
from tests.servers.process import running

SECURED = """
ssl.keystore.type=PEM
ssl.keystore.location={home}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={authority}
listener.name.mutual.ssl.client.auth=required
listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.scram.scram-sha-512.sasl.jaas.config=\\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


class SecureKafka(Kafka):
    """With two listeners for TLS as well, where the broker is called localhost: one asks for a client's certificate,
    one for a login."""

    def __init__(self, home: pathlib.Path) -> None:
        self.authority = Authority(home / "tls")
        self.stranger = Authority(home / "stranger", "stranger")
        super().__init__(home)
        self.mutual, self.scram = (f"localhost:{free_port()}" for _ in range(2))
        certificate, key = self.authority.issue("broker", "localhost")
        (home / "broker.pem").write_text(key.read_text() + certificate.read_text(), encoding="utf-8")
        path = home / "server.properties"
        settings = path.read_text(encoding="utf-8").replace(
            f"PLAINTEXT://{self.servers}",
            f"PLAINTEXT://{self.servers},MUTUAL://{self.mutual},SCRAM://{self.scram}",
        )
        settings = settings.replace("protocol.map=", "protocol.map=MUTUAL:SSL,SCRAM:SASL_SSL,")
        path.write_text(settings + SECURED.format(home=home, authority=self.authority.certificate), encoding="utf-8")

    def _run(self, main: str, *arguments: str) -> None:
        if main.endswith("StorageTool"):
            arguments += ("--add-scram", "SCRAM-SHA-512=[name=bridge,password=right-one]")
        super()._run(main, *arguments)

    def client(self, listener: str, *, trusts: Authority | None = None, **changed: Any) -> dict[str, Any]:
        """`changed`: settings with underscores for dots; None leaves it out."""
        settings: dict[str, Any] = {"ssl.ca.location": str((trusts or self.authority).certificate)}
        if listener == "mutual":
            certificate, key = self.authority.issue("bridge")
            settings |= {
                "bootstrap.servers": self.mutual,
                "security.protocol": "SSL",
                "ssl.certificate.location": str(certificate),
                "ssl.key.location": str(key),
            }
        else:
            settings |= {
                "bootstrap.servers": self.scram,
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": "bridge",
                "sasl.password": "right-one",
            }
        settings |= {name.replace("_", "."): value for name, value in changed.items()}
        return {name: value for name, value in settings.items() if value is not None}


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureKafka]:
    with running(SecureKafka) as server:
        yield server


def sink(client: dict[str, Any], prefix: str, **changed: Any) -> KafkaSink:
    return KafkaSink(KafkaConfig(prefix=prefix, client=client, create_topics=CreateTopics(), **changed))


@pytest.mark.parametrize("listener", ["mutual", "scram"])
def test_events_go_by_tls(secure: SecureKafka, prefix: str, listener: str) -> None:
    driver = Driver(sink(secure.client(listener), prefix))

    driver.sink.open([TABLE])
    driver.send(*(an_event(number) for number in range(100)))
    driver.drain()

    assert len(secure.read(f"{prefix}public.book")) == 100
    driver.sink.close()


@pytest.mark.parametrize("listener", ["mutual", "scram"])
@pytest.mark.parametrize("wrong", ["authority", "host"])
def test_a_broker_that_is_not_to_be_trusted_is_refused(
    secure: SecureKafka, prefix: str, listener: str, wrong: str
) -> None:
    client = secure.client(listener, trusts=secure.stranger if wrong == "authority" else None)
    if wrong == "host":
        client["bootstrap.servers"] = client["bootstrap.servers"].replace("localhost", "127.0.0.1")
    made = sink(client, prefix)

    with pytest.raises(SinkRefused, match=f"the certificate of Kafka at {client['bootstrap.servers']}") as raised:
        made.open([TABLE])

    assert "right-one" not in str(raised.value)
    made.close()


@pytest.mark.parametrize("wrong", ["missing", "stranger"])
def test_a_client_whose_certificate_is_missing_or_unknown_is_told(secure: SecureKafka, prefix: str, wrong: str) -> None:
    client = secure.client("mutual", ssl_certificate_location=None, ssl_key_location=None)
    if wrong == "stranger":
        certificate, key = secure.stranger.issue("bridge")
        client |= {"ssl.certificate.location": str(certificate), "ssl.key.location": str(key)}
    made = sink(client, prefix)

    with pytest.raises(SinkRefused, match=r"refuses this client's certificate.*ssl\.certificate\.location"):
        made.open([TABLE])

    made.close()


def test_a_wrong_password_is_refused(secure: SecureKafka, prefix: str) -> None:
    made = sink(secure.client("scram", sasl_password="hush-hush"), prefix)

    with pytest.raises(SinkRefused, match="refuses the connection: .*[Aa]uthentication") as raised:
        made.open([TABLE])

    assert not re.search("hush|right-one", str(raised.value))
    made.close()


@pytest.mark.parametrize("listener", ["mutual", "scram"])
def test_a_client_that_speaks_no_tls_is_told(secure: SecureKafka, prefix: str, listener: str) -> None:
    protocol = "PLAINTEXT" if listener == "mutual" else "SASL_PLAINTEXT"
    made = sink(secure.client(listener, security_protocol=protocol), prefix)

    with pytest.raises((SinkRefused, SinkUnreachable), match="security.protocol"):
        made.open([TABLE])

    made.close()


def test_a_listener_that_speaks_no_tls_is_told(secure: SecureKafka, prefix: str) -> None:
    made = sink(secure.client("scram", bootstrap_servers=secure.servers), prefix)

    with pytest.raises((SinkRefused, SinkUnreachable), match="security.protocol"):
        made.open([TABLE])

    made.close()
