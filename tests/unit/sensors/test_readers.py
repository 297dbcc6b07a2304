"""Threads of sensors: each is read in its own, stopped for good, or replaced while the others go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from marram.errors import SensorEndedError
from marram.sensors import readers
from marram.sensors.readers import Readers
from marram.stream.blocks import Samples

from tests.support.processes import eventually

ONE = Samples(np.zeros(1), np.zeros((1, 1), np.float32), None)


@dataclass
class Stub:
    """A sensor that gives one block at once, and one when it ends or is told to stop."""

    name: str
    deaf: bool = False
    error: Exception | None = None
    end: threading.Event = field(default_factory=threading.Event)
    channels: tuple[str, ...] = ("a",)
    live: bool = True
    counters: dict[str, int] = field(default_factory=dict)

    def read(self, stop: threading.Event) -> Iterator[Samples]:
        yield ONE
        while not self.end.wait(0.01) and (self.deaf or not stop.is_set()):
            pass
        if self.error is not None:
            raise self.error
        yield ONE


class Sink:
    def __init__(self) -> None:
        self.fed: list[str] = []
        self.over: list[str] = []

    def feed(self, sensor: str, samples: Samples, live: bool, stop: threading.Event) -> None:
        self.fed.append(sensor)

    def ended(self, sensor: str) -> None:
        self.over.append(sensor)


@pytest.fixture
def made():
    sink, errors, ended = Sink(), {}, threading.Event()
    reading = Readers(sink, errors, ended.set)
    yield reading, sink, errors, ended
    reading.stop()


def test_all_are_read_to_their_end_and_the_end_of_the_last_is_told(made):
    reading, sink, _, ended = made
    one, two = Stub("one"), Stub("two")
    reading.start({"one": one, "two": two})
    eventually("both", lambda: sorted(sink.fed) == ["one", "two"])
    one.end.set()
    eventually("one's end", lambda: sink.over == ["one"])
    assert not ended.is_set()
    two.end.set()
    eventually("the end of all", ended.is_set)
    assert (sorted(sink.fed), sink.over) == (["one", "one", "two", "two"], ["one", "two"])


def test_one_is_replaced_without_its_end_being_told_and_what_it_gives_at_last_is_taken(made):
    reading, sink, _, ended = made
    reading.start({"one": Stub("one"), "two": Stub("two")})
    eventually("both", lambda: len(sink.fed) == 2)
    reading.replace(["one"])
    assert (sink.fed.count("one"), sink.over, ended.is_set()) == (2, [], False)
    after = Stub("one")
    reading.start({"one": after})
    eventually("the new one", lambda: sink.fed.count("one") == 3)
    after.end.set()
    eventually("its end", lambda: sink.over == ["one"])
    assert not ended.is_set()


def test_when_only_ended_ones_are_left_that_is_the_end_of_all(made):
    reading, sink, _, ended = made
    one = Stub("one")
    reading.start({"one": one, "two": Stub("two")})
    one.end.set()
    eventually("one's end", lambda: sink.over == ["one"])
    reading.replace(["two"])
    assert not ended.is_set()
    reading.start({})
    assert ended.is_set()


def test_stopping_all_is_no_end_by_themselves(made):
    reading, sink, _, ended = made
    reading.start({"one": Stub("one"), "two": Stub("two")})
    eventually("both", lambda: len(sink.fed) == 2)
    reading.stop()
    assert (sorted(sink.over), ended.is_set()) == (["one", "two"], False)


def test_what_one_gives_that_does_not_end_is_passed_over(made, monkeypatch, caplog):
    monkeypatch.setattr(readers, "_PATIENCE", 0.1)
    reading, sink, _, _ = made
    one = Stub("one", deaf=True)
    reading.start({"one": one})
    eventually("its first block", lambda: sink.fed == ["one"])
    reading.replace(["one"])
    assert "sensor one does not end" in caplog.text
    before = set(threading.enumerate())
    one.end.set()
    eventually("its thread's end", lambda: not any(t.name == "sensor-one" for t in before if t.is_alive()))
    assert sink.fed == ["one"]


def test_the_error_of_one_that_is_replaced_is_forgotten(made):
    reading, sink, errors, _ = made
    one = Stub("one", error=SensorEndedError("no more"))
    reading.start({"one": one, "two": Stub("two")})
    one.end.set()
    eventually("its end", lambda: sink.over == ["one"])
    assert errors == {"one": "no more"}
    reading.replace(["one"])
    assert errors == {}
