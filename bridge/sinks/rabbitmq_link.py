"""The connection to RabbitMQ: made, and made again when it is lost, for as long as it takes.

Two channels: one publishes, with confirms; the other declares. All of it happens in `step`; callbacks only record.
"""

import re
import time
from collections.abc import Callable
from typing import Any, Final

import pika
import structlog
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, ConnectionClosed

from bridge.backoff import Backoff
from bridge.errors import BridgeError, ConfigError, SinkRefused
from bridge.sinks.rabbitmq_connection import Connection
from bridge.sinks.rabbitmq_loop import StepLoop
from bridge.sinks.rabbitmq_topology import ACCESS_REFUSED, NOT_FOUND, Topology

log = structlog.get_logger()

_LARGEST_FRAME_BYTES: Final = 131_072
_CLOSING_SECONDS: Final = 0.2
_NOT_TO_CLOSE: Final = {
    Connection.CONNECTION_CLOSED,
    Connection.CONNECTION_CLOSING,
    # In its handshake: pika 1.4 trips over its own abortion of that (its workflow passes on an error's class). It is hung up.
    Connection.CONNECTION_PROTOCOL,
    Connection.CONNECTION_START,
    Connection.CONNECTION_TUNE,
}
_NOT_ALLOWED: Final = 530
_BROKEN: Final = {501, 502, 503, 504, 505}
"""What the broker says of a client that breaks the protocol."""
_STEADY_SECONDS: Final = 30.0
"""A connection that lasted so long was in order."""
_LIMIT_REACHED: Final = "connection limit ("
"""Said with the same code as a vhost that does not exist; but others leave, and the broker notices lost connections."""
_WRONG_CERTIFICATE: Final = "CERTIFICATE_VERIFY_FAILED"
_OUR_CERTIFICATE: Final = re.compile(
    r"ALERT_(CERTIFICATE_\w+|UNKNOWN_CA|BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|HANDSHAKE_FAILURE)"
)
"""What a broker says that does not take the client's certificate, or the lack of one (the last: before TLS 1.3)."""
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL says of an answer that is not TLS."""
_INNERMOST: Final = re.compile(r"last exception - (?:AMQP\w+: )?(.*?); first exception", re.DOTALL)
_IN_TEXT: Final = re.compile(r"ConnectionClosedByBroker: \((\d+)\) ['\"](.*?)['\"](?:['\"],)?\)*$")


def parameters(url: str) -> pika.URLParameters:
    """Raises ConfigError, without the URL: it holds the password."""
    try:
        made = pika.URLParameters(url)
    except OSError as error:
        raise ConfigError(
            f"sink.rabbitmq.url: the certificates in its ssl_options cannot be loaded: {error.strerror}. What to do: name"
            " readable PEM files"
        ) from None
    except TypeError:  # the standard library's, where it is told of no authority
        raise ConfigError(
            "sink.rabbitmq.url: its ssl_options name no authority for the broker's certificate. What to do: add ca_certs,"
            " such as /etc/ssl/certs/ca-certificates.crt"
        ) from None
    except Exception:
        raise ConfigError(
            "sink.rabbitmq.url: cannot be understood. What to do: write it as amqp://user:password@host:5672/vhost, with"
            " %2F for the vhost / and special characters in the password percent-encoded"
        ) from None
    if not made.client_properties:
        made.client_properties = {"connection_name": "walrus-bridge"}
    return made


def blocking(settings: pika.URLParameters) -> pika.BlockingConnection:
    """A connection for a command, whose calls wait. Raises AMQPError, OSError."""
    try:
        return pika.BlockingConnection(settings)
    except AMQPConnectorStackTimeout as error:  # an error of another family
        raise AMQPConnectionError(f"it says nothing for {settings.stack_timeout:.0f} s") from error


def place_of(settings: pika.URLParameters) -> str:
    return f"{settings.host}:{settings.port}, vhost {settings.virtual_host}"


class Link:
    def __init__(
        self,
        settings: pika.URLParameters,
        topology: Topology,
        *,
        on_confirm: Callable[[Any], None],
        on_return: Callable[[Any, Any, Any, bytes], None],
        on_lost: Callable[[int, str], None],
    ) -> None:
        """`on_confirm`, `on_return`: as pika's. `on_lost(code, text)`: the publishing channel is gone."""
        self.loop = StepLoop()
        self.failure: BridgeError | None = None
        """What cannot pass by waiting."""
        self.trouble = ""
        """Why there is no connection."""
        self._settings = settings
        self._topology = topology
        self._on_confirm, self._on_return, self._on_lost = on_confirm, on_return, on_lost
        self._connection: Any = None
        self._declaring: Any = None
        self._publishing: Any = None
        self._is_confirming = False
        self._is_blocked = False
        self._backoff = Backoff()
        self._not_before = 0.0
        self._open_since = float("inf")

    @property
    def place(self) -> str:
        return place_of(self._settings)

    @property
    def channel(self) -> Any:
        """Where one may publish now; None while one may not."""
        if self._is_confirming and not self._is_blocked and self._topology.is_complete and self._publishing.is_open:
            return self._publishing
        return None

    @property
    def is_connected(self) -> bool:
        return self._connection is not None and bool(self._connection.is_open)

    @property
    def frame_bytes(self) -> int:
        """The largest frame that was agreed upon."""
        return int(self._connection.params.frame_max or _LARGEST_FRAME_BYTES)

    def step(self, timeout_seconds: float) -> None:
        if self.failure is None and time.monotonic() >= self._not_before:
            self._bring_up()
        if self._declaring is not None and self._declaring.is_open:
            self._topology.step(self._declaring)
        self.loop.step(timeout_seconds)

    def works(self) -> None:
        """The broker has confirmed something: the next trouble is a new one."""
        self._backoff.reset()

    def close(self) -> None:
        """Say good-bye, waiting for the answer a moment at most."""
        connection, self._connection = self._connection, None  # so that its end is no loss
        if connection is not None and connection.connection_state not in _NOT_TO_CLOSE:
            connection.close()
        end = time.monotonic() + _CLOSING_SECONDS
        while not self.loop.is_idle and time.monotonic() < end:
            self.loop.step(0.01)
        self.loop.hang_up()
        for _ in range(10):
            self.loop.step(0.0)
        self.loop.close()

    # -- bringing it up --------------------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        if self._connection is None:
            self._connection = Connection(
                self._settings,
                self.loop,
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_closed,
                on_close_callback=self._on_closed,
            )
        elif self._connection.is_open:
            if self._declaring is None:
                self._declaring = self._connection.channel(on_open_callback=self._on_declaring_open)
            if self._publishing is None:
                self._publishing = self._connection.channel(on_open_callback=self._on_publishing_open)

    def _on_open(self, connection: Any) -> None:
        if connection is not self._connection:  # the sink is being closed
            connection.close()
            return
        log.info("rabbitmq connected", server=self.place)
        self._is_blocked = False
        self._open_since = time.monotonic()
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._topology.forget()
        self._bring_up()

    def _on_declaring_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_declaring_closed)

    def _on_publishing_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_publishing_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=self._on_confirming)

    def _on_confirming(self, _: object) -> None:
        self._is_confirming = True

    # -- what goes wrong -------------------------------------------------------------------------------------------

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        log.warning("rabbitmq blocks publishers", reason=frame.method.reason)
        self._is_blocked = True

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        log.info("rabbitmq takes messages again")
        self._is_blocked = False

    def _on_declaring_closed(self, _channel: Any, reason: Exception) -> None:
        self._declaring = None
        if isinstance(reason, ChannelClosedByBroker):
            self.failure = self.failure or self._topology.refused(reason.reply_code, reason.reply_text)
        else:
            self._topology.detach()

    def _on_publishing_closed(self, _channel: Any, reason: Exception) -> None:
        self._publishing, self._is_confirming = None, False
        if not isinstance(reason, ChannelClosedByBroker):
            return  # the connection is lost, and says why
        code, text = reason.reply_code, reason.reply_text
        log.warning("rabbitmq closed the channel", code=code, reason=text)
        self._on_lost(code, text)
        if code == ACCESS_REFUSED:
            self.failure = self.failure or SinkRefused(
                f"RabbitMQ at {self.place} does not let this login publish: {text}. What to do: grant it the write"
                " permission on the exchanges, and on amq.default for the queues of dead letters and parked messages"
            )
        elif code == NOT_FOUND:
            self._topology.forget()
        else:
            self._wait(text)

    def _on_closed(self, connection: Any, reason: BaseException) -> None:
        """The connection is lost, or could not be made."""
        if connection is not self._connection:
            return
        self._connection = self._declaring = self._publishing = None
        self._is_confirming = self._is_blocked = False
        self._topology.detach()
        code, text = told(reason)
        self._on_lost(0, text)
        if time.monotonic() - self._open_since > _STEADY_SECONDS:
            self._backoff.reset()
        self._open_since = float("inf")
        if (refusal := connection_refusal(self.place, code, text)) is not None:
            self.failure = self.failure or refusal
        elif code in _BROKEN:
            self.failure = self.failure or SinkRefused(
                f"RabbitMQ at {self.place} does not understand us: {text}. The position is unmoved. What to do: report it"
            )
        else:
            self._wait(text)

    def _wait(self, text: str) -> None:
        pause = self._backoff.pause_seconds()
        self.trouble = text
        self._not_before = time.monotonic() + pause
        log.warning(
            "rabbitmq lost, reconnecting",
            server=self.place,
            reason=text,
            attempt=self._backoff.attempt,
            pause_seconds=round(pause, 2),
        )


def connection_refusal(place: str, code: int, text: str) -> SinkRefused | None:
    """The error for what does not pass by waiting; None: it may. Pure."""
    if code in {ACCESS_REFUSED, _NOT_ALLOWED} and _LIMIT_REACHED not in text:
        return SinkRefused(
            f"RabbitMQ at {place} refuses the login: {text}. What to do: check user, password and vhost in"
            " sink.rabbitmq.url, and the user's permissions"
        )
    if _WRONG_CERTIFICATE in text:
        return SinkRefused(
            f"the certificate of RabbitMQ at {place} is not to be trusted: {text}. What to do: name its authority"
            " by ssl_options in sink.rabbitmq.url, or correct the host's name"
        )
    if _OUR_CERTIFICATE.search(text):
        return SinkRefused(
            f"RabbitMQ at {place} refuses this client's certificate, or that there is none: {text}. What to do: name"
            " a certificate and key that it trusts by certfile and keyfile in the ssl_options of sink.rabbitmq.url"
        )
    if any(sign in text for sign in _NO_TLS):
        return SinkRefused(
            f"RabbitMQ at {place} speaks no TLS: {text}. What to do: name its TLS port in sink.rabbitmq.url (5671"
            " where it is not changed), or write amqp:// for a connection without TLS"
        )
    return None


def told(reason: BaseException) -> tuple[int, str]:
    """The broker's code (0: none) and words. While a login fails pika has them inside of another error's text."""
    if isinstance(reason, ConnectionClosed):
        return reason.reply_code, reason.reply_text
    text = str(reason) or repr(reason)
    if inner := _IN_TEXT.search(text.strip()):
        return int(inner[1]), inner[2]
    if innermost := _INNERMOST.search(text):
        return 0, innermost[1]
    return 0, text
