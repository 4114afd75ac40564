"""What is known to be too large for RabbitMQ, and how many subscriptions a part of it may have."""

import msgspec
import pika
import pytest

from bridge.checkpoint import Ticket
from bridge.event import Event
from bridge.parts import smaller
from bridge.sinks.base import Rejection
from bridge.sinks.rabbitmq_sizes import Sizes
from tests.unit.test_parts import an_event

FRAME = 131_072
CLOSED = "PRECONDITION_FAILED - message size 60000 is larger than {}max size 50000"
TICKET = Ticket.__new__(Ticket)


def properties(event: Event, *, keys: bool) -> pika.BasicProperties:
    headers = dict(event.headers) | ({"CC": list(event.subscription_ids)} if keys else {})
    return pika.BasicProperties(headers=headers, message_id=event.id, delivery_mode=2)


def refused(sizes: Sizes, event: Event, *, keys: bool) -> Rejection | None:
    return sizes.refuse(event, TICKET, properties(event, keys=keys), FRAME)


@pytest.mark.parametrize("count", [4000, 10_000, 100_000])
def test_parts_by_subscription_fill_a_frame_and_are_not_refused_again(count: int) -> None:
    sizes = Sizes(by_subscription=True)
    event = an_event(count)
    rejection = refused(sizes, event, keys=True)
    assert rejection is not None
    assert rejection.too_large
    parts = list(smaller(event, rejection.share) or ())
    assert len(parts) == -(-count // (rejection.share or 1))
    assert 3100 < (rejection.share or 0) < 3200
    assert all(refused(sizes, each, keys=True) is None for each in parts)


def test_headers_too_large_without_any_subscription_are_no_matter_of_parts() -> None:
    event = an_event(2)
    event = msgspec.structs.replace(event, headers=[*event.headers, ("unchanged_toast", "x" * FRAME)])
    for keys in (True, False):
        rejection = refused(Sizes(by_subscription=keys), event, keys=keys)
        assert rejection is not None
        assert not rejection.too_large


@pytest.mark.parametrize("kind", ["", "configured "])
def test_a_body_is_refused_once_the_limit_was_told_and_parts_would_help(kind: str) -> None:
    sizes = Sizes(by_subscription=False)
    many, large = an_event(2000), an_event(1, "x" * 60_000)
    assert refused(sizes, many, keys=False) is None
    assert sizes.told("NOT_FOUND - no exchange") is None

    assert sizes.told(CLOSED.format(kind)) == 60_000
    rejection = refused(sizes, many, keys=False)
    assert rejection is not None
    assert rejection.too_large
    assert all(len(each.value) <= 50_000 for each in smaller(many, rejection.share) or ())
    # The broker is asked: its limit may have been raised.
    assert refused(sizes, large, keys=False) is None
    assert sizes.refuse_body(large, TICKET).share == 0
