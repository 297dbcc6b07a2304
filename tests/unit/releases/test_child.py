"""Children that behave badly: each is ended, its owner hears of it once, and nothing waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from marram.loop import Loop
from marram.releases import child as children
from marram.releases import talk
from marram.releases.child import Child, ChildError
from marram.releases.gates import Limits
from marram.releases.looking import Look
from marram.releases.talk import Bytes, Outcome
from marram.releases.talk import Candidate as Trial
from marram.releases.trying import Trying
from marram.stream.blocks import Windows
from marram.wire.topics import Topics

from tests.support.processes import ended, eventually
from tests.support.updates import FakeLink

FRAMES = """
import sys, time
from marram.releases.frames import frame_pipes, read_frame, write_frame
from marram.releases.gates import Measured
from marram.releases.talk import *
into, out = frame_pipes()
"""


class Heard:
    """What the owner of a child hears."""

    def __init__(self) -> None:
        self.frames: list[object] = []
        self.end = threading.Event()
        self.error = ""

    def __call__(self, frame: object) -> None:
        assert not self.end.is_set(), "something was heard after the end"
        if isinstance(frame, ChildError):
            self.error = str(frame)
            self.end.set()
        else:
            self.frames.append(frame)


Start = Callable[..., tuple[Child, Heard]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have every child be this script."""

    def script(text: str) -> None:
        path = tmp_path / "child"
        path.write_text(f"#!{children.sys.executable}\n{FRAMES}{text}\n")
        path.chmod(0o700)
        monkeypatch.setattr(children, "sys", SimpleNamespace(executable=str(path)))

    return script


@pytest.fixture
def start(play: Callable[[str], None]) -> Start:
    def started(text: str, timeout: float = 30.0) -> tuple[Child, Heard]:
        play(text)
        heard = Heard()
        return Child("marram.releases.fetch", talk.TOLD, heard, timeout), heard

    return started


BAD = {
    "ended well without a word": ("", "status 0"),
    "says why on standard error": ("sys.exit('no such model')", "no such model"),
    "crashes": ("import os; os.kill(os.getpid(), 11)", "signal 11"),
    "no frame": ("out.write(bytes((0, 0, 0, 2)) + b'xy'); out.flush(); time.sleep(9)", "cannot be read"),
    "a frame of the other side": ("write_frame(out, End()); time.sleep(60)", "cannot be read"),
    "a frame of 4 GiB": ("out.write(b'\\xff' * 4); out.flush(); time.sleep(60)", "cut short"),
    "half a frame": ("out.write(bytes((0, 0, 0, 9)) + b'x')", "cut short"),
    "half a length": ("out.write(b'xy')", "cut short"),
    "goes on when nobody listens": ("into.read(); time.sleep(60)", "after 1 s"),
    "closes its pipe and stays": ("out.close(); time.sleep(60)", "after 1 s"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "why"), BAD.values(), ids=BAD)
def test_a_child_that_does_not_do_its_work_is_ended_and_it_is_said_why(
    start: Start, text: str, why: str
) -> None:
    child, heard = start(text, timeout=1.0 if "after" in why else 30.0)
    child.close()
    assert heard.end.wait(20)
    assert why in heard.error
    assert not heard.frames
    assert ended(child.pid)


def test_what_it_said_before_it_failed_is_heard(start: Start) -> None:
    child, heard = start("write_frame(out, Outcome(fetched=7)); out.write(b'x'); out.flush()")
    assert heard.end.wait(20)
    assert heard.frames == [Outcome(fetched=7)]
    assert ended(child.pid)


def test_what_a_library_prints_is_not_taken_for_a_frame(start: Start) -> None:
    _, heard = start("print('a banner', flush=True); write_frame(out, Outcome(fetched=7))")
    assert heard.end.wait(20)
    assert heard.frames == [Outcome(fetched=7)]


def test_endless_words_on_standard_error_hold_nothing_up_and_the_last_are_kept(start: Start) -> None:
    child, heard = start("sys.stderr.write('noise ' * 2_000_000 + 'the last words'); sys.exit(3)")
    assert heard.end.wait(20)
    assert heard.error.endswith("the last words")
    assert len(heard.error) <= 500
    assert ended(child.pid)


def test_one_that_does_not_read_is_sent_to_without_waiting_and_ends_when_it_is_killed(start: Start) -> None:
    child, heard = start("time.sleep(60)")
    for _ in range(100):
        child.send(Bytes(0, bytes(100_000)))
    assert child.backlog > 50
    child.kill()
    assert heard.end.wait(20)
    assert "signal 9" in heard.error
    child.send(Bytes(0, b"too late"))


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
