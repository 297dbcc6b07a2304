"""Children that behave badly: each is ended, its owner hears of it once, and nothing waits for it.

The same for those of the daemon and for those that the service manager starts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from marram.children.child import Child, ChildError
from marram.children.process import SOCKET
from marram.releases import talk
from marram.releases.talk import Bytes, Outcome

from tests.support.children import own, unit
from tests.support.processes import ended
from tests.support.work_socket import WorkSocket


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


@pytest.fixture(params=[own, unit])
def start(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    with ExitStack() as after:

        def started(text: str, timeout: float = 30.0) -> tuple[Child, Heard]:
            after.enter_context(request.param(text, tmp_path, monkeypatch))
            heard = Heard()
            return Child("marram.releases.fetch", talk.TOLD, heard, timeout), heard

        yield started


BAD = {
    "ended well without a word": ("", "status 0"),
    "says why on standard error": ("sys.exit('no such model')", "no such model"),
    "crashes": ("os.kill(os.getpid(), 11)", "signal"),
    "raises": ("1 / 0", "ZeroDivisionError"),
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


def test_where_nobody_listens_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOCKET, str(tmp_path / "work.sock"))
    with pytest.raises(ChildError, match=r"work\.sock: No such file"):
        Child("marram.releases.fetch", talk.TOLD, Heard(), 30.0)


def test_a_worker_that_does_not_start_is_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = WorkSocket(tmp_path / "work.sock", ("/bin/false",))
    monkeypatch.setenv(SOCKET, str(socket.path))
    with pytest.raises(ChildError, match="ends at once; journalctl"):
        Child("marram.releases.fetch", talk.TOLD, Heard(), 30.0)
    socket.close()


def test_the_worker_runs_nothing_but_marrams_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = WorkSocket(tmp_path / "work.sock")
    monkeypatch.setenv(SOCKET, str(socket.path))
    with pytest.raises(ChildError, match="ends at once"):
        Child("http.server", talk.TOLD, Heard(), 30.0)
    socket.close()
