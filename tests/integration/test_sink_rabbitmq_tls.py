"""The RabbitMQ sink and a broker's certificate, made here."""

import pathlib
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from bridge.cluster import free_port
from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.errors import ConfigError, SinkRefused, SinkUnreachable
from bridge.sinks import rabbitmq as rabbitmq_sink
from bridge.sinks.rabbitmq import RabbitMQSink
from tests.integration.sinks import TABLE, Driver, an_event
from tests.servers.certificates import Authority
from tests.servers.process import running
from tests.servers.rabbitmq import RabbitMQ


class SecureRabbitMQ(RabbitMQ):
    """With a second listener, for TLS: its certificate is for localhost, and it asks for one of its own authority."""

    def __init__(self, home: pathlib.Path) -> None:
        super().__init__(home)
        self.secure_port = free_port()
        self.authority = Authority(home / "tls")
        self.stranger = Authority(home / "stranger", "stranger")
        certificate, key = self.authority.issue("broker", "localhost")
        with (home / "rabbitmq.conf").open("a", encoding="utf-8") as config:
            config.write(
                f"listeners.ssl.1 = 127.0.0.1:{self.secure_port}\n"
                "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
                f"ssl_options.cacertfile = {self.authority.certificate}\n"
                f"ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n"
            )

    def secure_url(self, host: str = "localhost", *, trusts: Authority | None, client: Authority | None) -> str:
        """`client`: who made the client's certificate."""
        options = {"ca_certs": str(trusts.certificate)} if trusts else {}
        if client is not None:
            certificate, key = client.issue("bridge")
            options |= {"certfile": str(certificate), "keyfile": str(key)}
        return f"amqps://guest:hush-hush@{host}:{self.secure_port}/%2F?ssl_options={quote(repr(options))}"


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureRabbitMQ]:
    with running(SecureRabbitMQ) as server:
        server.control("change_password", "guest", "hush-hush")
        yield server


def test_events_go_by_tls_with_certificates_that_each_side_trusts(secure: SecureRabbitMQ, prefix: str) -> None:
    url = secure.secure_url(trusts=secure.authority, client=secure.authority)
    driver = Driver(RabbitMQSink(RabbitMQConfig(url=url, prefix=prefix)))
    driver.sink.open([TABLE])

    driver.send(*(an_event(number) for number in range(100)))
    driver.drain()

    assert secure.control("list_connections", "ssl", "peer_cert_subject").split()[-2:] == ["true", "CN=bridge"]
    driver.sink.close()


@pytest.mark.parametrize(("host", "trusts"), [("localhost", "stranger"), ("127.0.0.1", "authority")])
def test_a_certificate_of_an_unknown_authority_or_another_host_is_refused(
    secure: SecureRabbitMQ, prefix: str, host: str, trusts: str
) -> None:
    url = secure.secure_url(host, trusts=getattr(secure, trusts), client=secure.authority)
    sink = RabbitMQSink(RabbitMQConfig(url=url, prefix=prefix))

    with pytest.raises(SinkRefused, match=f"the certificate of RabbitMQ at {host}:.* is not to be trusted") as raised:
        sink.open([TABLE])

    assert "hush" not in str(raised.value)
    sink.close()


@pytest.mark.parametrize("client", [None, "stranger"])
def test_a_client_certificate_that_is_missing_or_of_an_unknown_authority_is_told(
    secure: SecureRabbitMQ, prefix: str, client: str | None
) -> None:
    authority = getattr(secure, client) if client else None
    url = secure.secure_url(trusts=secure.authority, client=authority)
    sink = RabbitMQSink(RabbitMQConfig(url=url, prefix=prefix))

    with pytest.raises(SinkRefused, match="RabbitMQ at localhost:.* refuses this client's certificate.* certfile"):
        sink.open([TABLE])

    sink.close()


def test_a_listener_without_tls_is_told(secure: SecureRabbitMQ, prefix: str) -> None:
    url = secure.secure_url(trusts=secure.authority, client=None).replace(f":{secure.secure_port}", f":{secure.port}")
    sink = RabbitMQSink(RabbitMQConfig(url=url, prefix=prefix))

    with pytest.raises(SinkRefused, match=f"RabbitMQ at localhost:{secure.port}, .* speaks no TLS"):
        sink.open([TABLE])

    sink.close()


def test_a_client_certificate_without_an_authority_for_the_brokers_is_told(secure: SecureRabbitMQ) -> None:
    with pytest.raises(ConfigError, match="name no authority .* add ca_certs") as raised:
        RabbitMQSink(RabbitMQConfig(url=secure.secure_url(trusts=None, client=secure.authority)))

    assert "hush" not in str(raised.value)


def test_a_client_without_tls_is_told(secure: SecureRabbitMQ, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_sink, "OPEN_SECONDS", 1.0)
    url = f"amqp://guest:hush-hush@localhost:{secure.secure_port}/%2F"
    sink = RabbitMQSink(RabbitMQConfig(url=url, prefix=prefix))

    with pytest.raises(SinkUnreachable, match=r"check sink\.rabbitmq\.url \(amqps:// for a port with TLS\)"):
        sink.open([TABLE])

    sink.close()
