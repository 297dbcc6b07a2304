"""Looks and trials whose child behaves badly."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from marram.loop import Loop
from marram.releases import talk
from marram.releases.gates import Limits
from marram.releases.looking import Look
from marram.releases.talk import Candidate as Trial
from marram.releases.talk import Outcome
from marram.releases.trying import Trying
from marram.stream.blocks import Windows
from marram.wire.topics import Topics

from tests.support.children import own
from tests.support.processes import eventually
from tests.support.updates import FakeLink


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Have every child be this script."""
    with ExitStack() as after:
        yield lambda text: after.enter_context(own(text, tmp_path, monkeypatch))


@pytest.fixture
def loop():
    made = Loop(lambda: 1000.0)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    yield made
    made.stop()
    thread.join(10)


def test_a_look_is_over_with_its_last_word_though_the_child_stays(
    play: Callable[[str], None], loop: Loop
) -> None:
    play("write_frame(out, Outcome(fetched=7)); time.sleep(60)")
    outcomes: list[Outcome] = []
    topics = Topics("fleet", "region")
    look = Look(
        topics,
        "device",
        FakeLink(topics, Path("timestamp.json")),
        loop,
        lambda *_: None,
        lambda one, _: outcomes.append(one),
    )
    job = talk.Job(
        base="", metadata="", root="", spool="", held=(), now=0.0, clock=0.0, timekeepers=talk.Timekeepers(),
        device="device", tags=(), model="m", running="", running_target="", settled=True, sequence=-1,
        refused=(), authority=None, memory=0, nice=0,
    )  # fmt: skip
    loop.post(lambda now: look.start(job, 3600.0, now))
    eventually("the end of the look", lambda: outcomes, 20)
    assert outcomes == [Outcome(fetched=7)]
    assert look.pid is None


def test_windows_that_wait_for_a_slow_trial_take_little_memory(
    play: Callable[[str], None], loop: Loop
) -> None:
    play("write_frame(out, Tried(Measured(), Measured())); time.sleep(60)")
    trying = Trying(loop, Limits(3, 3, 0.8, 0.05, 30), "", 1, 60.0, 10)
    subject = Trial(
        name="m", version="1", file="m", kind="marram", configured="m", description=None,
        threads=1, providers=(), memory=0, nice=0,
    )  # fmt: skip
    begun = threading.Event()
    loop.post(lambda _: trying.trial(subject, subject, lambda _: begun.set(), lambda *_: None))
    assert begun.wait(20)
    size, count = 1 << 20, 64
    values = np.zeros((count, 1, size // 4), np.float32)
    windows = Windows(
        np.zeros(count), np.zeros(count), values, np.full(count, -1, np.int16), np.zeros(count, bool)
    )
    for _ in range(2):
        trying.shadow(windows)
    assert trying.skipped > 0
    child = trying._child
    assert child is not None
    frames = [frame for _ in range(child.backlog) if (frame := child._frames.get_nowait()) is not None]
    assert sum(len(frame.values) for frame in frames) <= 64 << 20
    assert max(len(frame.values) for frame in frames) == size
    loop.post(lambda _: trying.stop())
