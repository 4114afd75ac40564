"""How far delivery is behind: the times are made up, the server's clock is 1000 s ahead of ours."""

from bridge.change import Begin, Commit, LogicalMessage, Transaction
from bridge.health import Health
from bridge.lag import Lag

AHEAD = 1000.0


def begin(lsn: int, server_seconds: int) -> Begin:
    return Begin(Transaction(1, lsn, f"1970-01-01T00:{server_seconds // 60:02}:{server_seconds % 60:02}.000000Z"))


def test_nothing_is_known_before_the_server_was_looked_at() -> None:
    assert Lag().seconds(0, 0, 5.0, streaming=True) is None


def test_all_is_delivered() -> None:
    lag = Lag()
    lag.looked(100, AHEAD + 5, 5.0)
    lag.confirmed(100)

    assert lag.seconds(100, 90, 6.0, streaming=True) == 0
    assert lag.bytes(100, 90) == 0


def test_it_grows_from_the_moment_when_all_was_delivered() -> None:
    lag = Lag()
    for second in range(10):
        lag.looked(100 + second, AHEAD + second, float(second))
    lag.confirmed(104)

    assert lag.seconds(104, 104, 9.0, streaming=True) == 5
    assert lag.seconds(104, 104, 20.0, streaming=True) == 16
    assert lag.bytes(104, 104) == 5
    # What was read counts as well, though nobody has looked meanwhile
    assert lag.bytes(104, 120) == 16


def test_what_piled_up_before_the_start_is_as_old_as_what_is_delivered_of_it() -> None:
    # Given a server at second 1400, and transactions of the seconds 300 and 320
    lag = Lag()
    lag.looked(5000, 1400.0, 400.0)
    assert lag.seconds(10, 10, 400.0, streaming=True) is None
    lag.read([begin(100, 300), Commit(110)], 401.0)
    lag.read([begin(200, 320), Commit(210)], 402.0)

    lag.confirmed(110)
    assert lag.seconds(110, 210, 402.0, streaming=True) == 1402 - 300
    # A commit's own LSN confirms what was before it only
    lag.confirmed(200)
    assert lag.seconds(200, 210, 402.0, streaming=True) == 1402 - 300
    lag.confirmed(210)
    assert lag.seconds(210, 210, 402.0, streaming=True) == 1402 - 320


def test_a_transaction_is_noted_four_times_a_second_and_messages_of_others_are_none() -> None:
    lag = Lag()
    lag.looked(5000, AHEAD, 0.0)
    lag.read([begin(100, 300), Commit(110)], 1.0)
    lag.read([begin(200, 320), Commit(210)], 1.1)
    lag.confirmed(210)
    assert lag.seconds(210, 210, 2.0, streaming=True) == AHEAD + 2 - 300

    lag.read([begin(300, 330), Commit(310), LogicalMessage("other", b"", transactional=False)], 1.3)
    lag.confirmed(310)
    assert lag.seconds(310, 310, 2.0, streaming=True) == AHEAD + 2 - 330


def test_while_nothing_streams_or_the_look_is_old_nobody_says_that_all_is_delivered() -> None:
    lag = Lag()
    lag.looked(100, AHEAD, 0.0)
    lag.confirmed(100)

    assert lag.seconds(100, 100, 5.0, streaming=False) == 5
    assert lag.seconds(100, 100, 60.0, streaming=True) == 60


def test_a_day_without_a_confirmation_takes_little_memory() -> None:
    lag = Lag()
    for second in range(86_400):
        lag.looked(100 + second, AHEAD + second, float(second))

    assert len(lag._looks) <= 513
    lag.confirmed(100 + 40_000)
    late = lag.seconds(100 + 40_000, 0, 86_400.0, streaming=True)
    assert late is not None
    assert 46_400 <= late < 50_000


def test_the_rate_is_that_of_the_last_minute() -> None:
    health = Health()
    start = health.started_at
    for second in range(1, 121):
        health.events["public", "book"] += 10 if second > 60 else 1000
        health.count(start + second)

    assert 9 < health.events_per_second < 30


def test_an_acknowledgement_is_seen_when_less_is_in_flight_than_was_handed_over() -> None:
    health = Health()
    health.events["public", "book"] = 3
    health.in_flight.events = 3
    health.count(1.0)
    assert health.acknowledged_at is None

    health.events["public", "book"] = 5  # as many new ones as were acknowledged
    health.count(2.0)
    assert health.acknowledged_at == 2.0
    health.count(3.0)
    assert health.acknowledged_at == 2.0
