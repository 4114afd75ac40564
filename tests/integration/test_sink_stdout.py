"""The stdout sink on real pipes and files."""

import fcntl
import json
import os
import pathlib
from collections.abc import Iterator

import pytest

from bridge.errors import SinkRefused
from bridge.sinks.stdout import StdoutSink
from tests.integration.sinks import Driver, an_event

PIPE_BYTES = 65536


class Pipes:
    """The sink's two outputs, and a reader's ends of them."""

    def __init__(self) -> None:
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        self._open = {self.out, out, self.err, err}
        self.written_to = (out, err)
        fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(self.out, False)
        os.set_blocking(self.err, False)
        self.driver = Driver(StdoutSink(out, err))

    def read(self, descriptor: int, most: int = 1 << 20) -> bytes:
        try:
            return os.read(descriptor, most)
        except BlockingIOError:
            return b""

    def close(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        os.close(descriptor)

    def close_all(self) -> None:
        for descriptor in list(self._open):
            self.close(descriptor)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.driver.sink.close()
    made.close_all()


def test_each_event_is_a_line_and_counts_once_written(pipes: Pipes) -> None:
    driver = pipes.driver

    driver.send(an_event(1), an_event(2))
    assert driver.in_flight == 2
    driver.poll()

    assert driver.in_flight == 0
    assert pipes.read(pipes.out) == an_event(1).value + b"\n" + an_event(2).value + b"\n"
    assert pipes.read(pipes.err) == b""


def test_dead_letters_go_to_stderr(pipes: Pipes) -> None:
    letter = an_event(dead_letter=True, value=b'{"dead_letter":{"reason":"x"}}')

    pipes.driver.send(letter)
    pipes.driver.poll()

    assert pipes.read(pipes.out) == b""
    assert json.loads(pipes.read(pipes.err)) == {"dead_letter": {"reason": "x"}}
    assert pipes.driver.in_flight == 0


def test_a_reader_that_stalls_stops_the_sink_and_what_was_not_written_does_not_count(pipes: Pipes) -> None:
    driver = pipes.driver
    line = b"x" * 9_999

    taken = driver.send_while_it_takes(an_event(number, value=line) for number in range(1000))

    assert 100 < taken < 120, "a buffer of 1 MiB, and the pipe"
    assert not driver.sink.send(an_event(), driver.checkpoint.current)
    assert taken - driver.in_flight == pipes.read(pipes.out).count(b"\n") > 0


def test_it_goes_on_when_the_reader_does(pipes: Pipes) -> None:
    driver = pipes.driver
    taken = driver.send_while_it_takes(an_event(number, value=b"%d:" % number + b"x" * 5000) for number in range(1000))
    got = b""

    while driver.in_flight:
        got += pipes.read(pipes.out, 7_000)
        driver.poll(0.001)
    while piece := pipes.read(pipes.out):
        got += piece

    assert [int(line.split(b":")[0]) for line in got.splitlines()] == list(range(taken))
    assert got.endswith(b"x\n")


def test_a_line_larger_than_the_pipe_counts_when_its_last_byte_is_written(pipes: Pipes) -> None:
    driver = pipes.driver
    driver.send(an_event(value=b"x" * (2 * PIPE_BYTES)))
    driver.poll()
    pipes.read(pipes.out)
    driver.poll()
    assert driver.in_flight == 1

    pipes.read(pipes.out)
    driver.poll()
    assert driver.in_flight == 0


def test_a_reader_that_has_gone_ends_it(pipes: Pipes) -> None:
    pipes.close(pipes.out)
    pipes.driver.send(an_event())

    with pytest.raises(SinkRefused, match="stdout is closed"):
        pipes.driver.poll()

    assert pipes.driver.in_flight == 1


def test_a_full_disk_ends_it_and_is_told() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # it is no file
        driver = Driver(StdoutSink(full.fileno(), full.fileno()))
        driver.send(an_event())

        with pytest.raises(SinkRefused, match="stdout cannot be written to: No space left"):
            driver.poll()

    assert driver.in_flight == 1


def test_waiting_for_a_reader_takes_as_long_as_it_may_and_no_longer(pipes: Pipes) -> None:
    pipes.driver.send_while_it_takes(an_event(number, value=b"x" * 10_000) for number in range(200))

    pipes.driver.poll_for(0.2)

    assert pipes.driver.in_flight > 0


def test_the_descriptors_stay_as_they_were(pipes: Pipes) -> None:
    pipes.driver.send_while_it_takes(an_event(number, value=b"x" * 10_000) for number in range(20))
    pipes.driver.sink.close()

    assert all(os.get_blocking(descriptor) for descriptor in pipes.written_to)


def test_it_may_be_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "events"
    with path.open("wb") as file:
        driver = Driver(StdoutSink(file.fileno(), file.fileno()))
        driver.send(*(an_event(number) for number in range(1000)))
        driver.drain()

    assert path.read_bytes().splitlines() == [an_event(number).value for number in range(1000)]
