"""What librdkafka says of a connection, as ours: whether waiting helps, and what to do. Pure."""

from confluent_kafka import KafkaError

from bridge.errors import SinkRefused

_REFUSED_LOGIN = {
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
}
# Alerts of TLS with which a broker ends a client whose certificate it does not take.
_CLIENT_CERTIFICATE = ("alert bad certificate", "alert unknown ca", "alert certificate")


def connection_refusal(code: int, text: str, servers: str) -> SinkRefused | None:
    """The error for what does not pass by waiting; None: it may."""
    if "certificate verify failed" in text or "could not be verified" in text:
        return SinkRefused(
            f"the certificate of Kafka at {servers} is not to be trusted: {text}. What to do: give the file of its authority"
            " as ssl.ca.location in sink.kafka.client, and connect by a name that the certificate has"
        )
    if any(alert in text for alert in _CLIENT_CERTIFICATE):
        return SinkRefused(
            f"Kafka at {servers} refuses this client's certificate, or that there is none: {text}. What to do: give one that it"
            " trusts as ssl.certificate.location in sink.kafka.client, and its key as ssl.key.location"
        )
    if code in _REFUSED_LOGIN:
        return SinkRefused(
            f"Kafka at {servers} refuses the connection: {text}. What to do: check security.protocol and the sasl and ssl"
            " settings in sink.kafka.client"
        )
    return None
