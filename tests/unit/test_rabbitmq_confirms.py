"""The sink against every order of confirms, refusals, returns and lost channels that a broker may think of."""

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.spec import Basic

from bridge.checkpoint import Checkpoint, Ticket
from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.sinks import rabbitmq as rabbitmq_sink
from bridge.sinks.rabbitmq import RabbitMQSink
from tests.integration.sinks import an_event

PARKED = "realtime.unrouted"


class Published:
    def __init__(self, exchange: str, key: str, properties: Any) -> None:
        self.number = int(properties.headers["lsn"].removeprefix("0/"), 16)
        self.is_parked = key == PARKED and not exchange
        self.properties = properties
        self.is_returned = self.is_settled = False


class Broker:
    """The sink's link and the channel behind it, the broker's clock, and what a truthful account of it all says."""

    def __init__(self) -> None:
        self.channel: Broker | None = self
        self.frame_bytes, self.failure = 131_072, None
        self.published: list[Published] = []
        """On the channel of now; the first has the tag 1."""
        self.held: set[int] = set()
        """Events that the broker is answerable for."""
        self.now = 1000.0
        self.tickets: list[Ticket] = []
        with mock.patch.object(rabbitmq_sink, "Link", lambda *_, **__: self):
            self.sink = RabbitMQSink(RabbitMQConfig())
        self.sink._is_open = True

    # -- as a link and a channel

    def step(self, _seconds: float) -> None: ...

    def works(self) -> None: ...

    def basic_publish(self, exchange: str, key: str, _body: bytes, properties: Any, mandatory: bool) -> None:
        assert mandatory
        self.published.append(Published(exchange, key, properties))

    # -- what the test does

    def send(self, count: int) -> None:
        for number in range(len(self.tickets), len(self.tickets) + count):
            ticket = Checkpoint().current
            event = an_event(number)
            while not self.sink.send(event, ticket):
                self.poll()
            self.tickets.append(ticket)

    def poll(self) -> None:
        self.now += 0.01
        assert list(self.sink.poll(0.0)) == []

    def settled(self, tag: int, *, multiple: bool) -> list[Published]:
        found = self.published[:tag] if multiple else self.published[tag - 1 : tag]
        return [each for each in found if not each.is_settled]

    def confirm(self, tag: int, *, multiple: bool) -> None:
        for each in self.settled(tag, multiple=multiple):
            each.is_settled = True
            if not each.is_returned:
                self.held.add(each.number)
        self.sink._on_confirm(SimpleNamespace(method=Basic.Ack(tag, multiple)))

    def refuse(self, tag: int, *, multiple: bool) -> None:
        for each in self.settled(tag, multiple=multiple):
            each.is_settled = True
        self.sink._on_confirm(SimpleNamespace(method=Basic.Nack(tag, multiple)))

    def give_back(self, tag: int) -> None:
        """What has no queue; the parking lot always is one."""
        each = self.published[tag - 1]
        if not (each.is_settled or each.is_returned or each.is_parked):
            each.is_returned = True
            self.sink._on_return(None, Basic.Return(312, "NO_ROUTE"), each.properties, b"")

    def lose(self) -> None:
        self.published.clear()
        self.sink._on_lost(0, "lost")

    def check(self) -> None:
        acknowledged = {number for number, ticket in enumerate(self.tickets) if not ticket.pending}
        assert acknowledged == self.held


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Any:
    with mock.patch.object(rabbitmq_sink, "log"):
        yield


@given(st.data())
def test_acknowledged_is_what_the_broker_holds_and_in_the_end_all(data: st.DataObject) -> None:
    broker = Broker()
    with mock.patch.object(rabbitmq_sink, "time", SimpleNamespace(monotonic=lambda: broker.now)):
        broker.send(data.draw(st.integers(1, 6)))
        for _ in range(data.draw(st.integers(0, 25))):
            deeds = ["send", "poll", "lose"]
            if broker.published:
                deeds += ["confirm", "refuse", "return"] * 2
            deed = data.draw(st.sampled_from(deeds))
            tag = data.draw(st.integers(1, len(broker.published))) if broker.published else 0
            match deed:
                case "confirm":
                    broker.confirm(tag, multiple=data.draw(st.booleans()))
                case "refuse":
                    broker.refuse(tag, multiple=data.draw(st.booleans()))
                case "return":
                    broker.give_back(tag)
                case "lose":
                    broker.lose()
                case "send":
                    broker.send(1)
                case _:
                    broker.poll()
            broker.check()

        for _ in range(4):  # what was returned is parked, and confirmed there
            broker.now += 5.0
            broker.poll()
            broker.confirm(len(broker.published), multiple=True)
            broker.check()
        assert len(broker.held) == len(broker.tickets)


@pytest.fixture
def broker() -> Any:
    made = Broker()
    with mock.patch.object(rabbitmq_sink, "time", SimpleNamespace(monotonic=lambda: made.now)):
        yield made


def test_a_confirm_of_a_returned_message_acknowledges_nothing_until_it_is_parked(broker: Broker) -> None:
    broker.send(2)
    broker.give_back(1)
    broker.confirm(2, multiple=True)
    assert [ticket.pending for ticket in broker.tickets] == [1, 0]

    broker.poll()
    assert broker.published[2].is_parked
    broker.confirm(3, multiple=False)
    assert [ticket.pending for ticket in broker.tickets] == [0, 0]


def test_a_returned_message_that_is_refused_goes_to_its_exchange_again(broker: Broker) -> None:
    broker.send(1)
    broker.give_back(1)
    broker.refuse(1, multiple=False)
    broker.now += 5.0
    broker.poll()

    assert [each.is_parked for each in broker.published] == [False, False]
    broker.confirm(2, multiple=False)
    assert broker.tickets[0].pending == 0


def test_what_was_lost_goes_again_in_order_before_what_was_refused(broker: Broker) -> None:
    broker.send(4)
    broker.refuse(2, multiple=True)
    broker.lose()
    broker.now += 5.0
    broker.poll()
    broker.poll()

    assert [each.number for each in broker.published] == [2, 3, 0, 1]
