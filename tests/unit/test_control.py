"""The local socket: questions, answers, and askers who know nothing of either."""

import contextlib
import json
import socket
import stat
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram import control
from marram.control import ControlError, ControlServer, ask
from marram.errors import MarramError


def fail(request):
    raise {
        "known": MarramError("the reason"),
        "value": ValueError("a bad value"),
        "bug": ZeroDivisionError("oh"),
    }[request["how"]]


HANDLERS = {"echo": lambda request: {"heard": request}, "fail": fail}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("control") / "new" / "marram.sock"
    server = ControlServer(path, HANDLERS)
    server.start()
    yield path
    server.stop()


def raw(path, data):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return json.loads(connection.makefile().read())


def test_a_question_is_answered(path):
    assert ask(path, {"command": "echo", "what": "größe"}) == {"heard": {"command": "echo", "what": "größe"}}


def test_only_owner_and_group_may_ask(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("known", "the reason"),
        ("value", "a bad value"),
        ("bug", "the agent could not answer: oh"),
        ("x", "'x'"),
    ],
)
def test_what_goes_wrong_in_a_handler_is_the_answer_and_the_next_question_is_answered(path, how, words):
    with pytest.raises(ControlError) as caught:
        ask(path, {"command": "fail", "how": how})
    assert str(caught.value) == words
    assert ask(path, {"command": "echo"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{\n",
        b"5\n",
        b"[]\n",
        b"{}\n",
        b'{"command": "what"}\n',
        b'{"command": []}\n',
        b"\xff\n",
        b"[" * 60_000 + b"\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_request_is_told_which_there_are(path, data):
    assert raw(path, data) == {"error": "not a request; commands are: echo, fail"}


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(path, data):
    assert "error" in raw(path, data) or "heard" in raw(path, data)


def test_a_request_without_end_is_cut_off(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            for _ in range(10_000):
                connection.sendall(b"x" * 10_000)
    assert ask(path, {"command": "echo"})


class Slow:
    """Somebody who asks byte by byte, without an end."""

    def __init__(self, path):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(path))
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.ask)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.enough.set()
        self.thread.join()
        self.connection.close()

    def ask(self):
        with contextlib.suppress(OSError):
            while not self.enough.wait(0.05):
                self.connection.sendall(b"x")


def test_who_asks_slowly_keeps_nobody_else_waiting(path):
    with Slow(path), Slow(path):
        assert ask(path, {"command": "echo"})


def test_a_request_that_does_not_come_to_its_end_is_given_up(path, monkeypatch):
    monkeypatch.setattr(control, "_TIMEOUT", 0.5)
    with Slow(path) as slow:
        slow.connection.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert slow.connection.recv(10) == b""


def test_an_asker_who_goes_away_harms_nobody(path):
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b'{"command": "echo"}\n')
    assert ask(path, {"command": "echo"})


def test_a_second_agent_on_the_same_socket_is_refused_and_the_first_one_answers_on(path):
    with pytest.raises(ControlError, match="an agent answers here already; only one may use a state folder"):
        ControlServer(path, {})
    assert ask(path, {"command": "echo"})


def test_the_socket_of_an_agent_that_was_killed_is_taken_over(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = ControlServer(path, HANDLERS)
    server.start()
    assert ask(path, {"command": "echo"})
    server.stop()
    assert not path.exists()


@pytest.mark.parametrize("make", ["folder", "below a file", "too long"])
def test_a_place_where_no_socket_can_be_is_refused_with_what_to_do(tmp_path, make):
    (tmp_path / "file").touch()
    path = {"folder": tmp_path, "below a file": tmp_path / "file" / "s", "too long": tmp_path / ("x" * 120)}[
        make
    ]
    with pytest.raises(ControlError, match=r"cannot be made: .*; set control.socket to another path"):
        ControlServer(path, {})


def test_nobody_who_answers_is_said(tmp_path):
    with pytest.raises(ControlError, match=r"no daemon answers here .*; is `marram run` running"):
        ask(tmp_path / "s", {"command": "echo"})
