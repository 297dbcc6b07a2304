"""What systemd is told, and that nobody needs to listen."""

import socket

import pytest
from marram.notify import notify, watchdog_period

from tests.support.processes import NotifySocket, eventually


def test_fields_go_to_the_socket_that_the_service_manager_names(tmp_path, monkeypatch):
    with NotifySocket(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        notify(READY="1", STATUS="all is well")
        eventually("both fields", lambda: manager.said("READY=1\nSTATUS=all is well"))


def test_an_abstract_socket_is_written_with_an_at_sign(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0marram-test-{tmp_path.name}-{id(manager)}")
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        notify(WATCHDOG="1")
        assert manager.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "/" + "x" * 500, "@nobody-listens-here"])
def test_nobody_who_listens_is_no_error(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify(READY="1") is None


@pytest.mark.parametrize(
    ("micros", "seconds"),
    [("30000000", 15.0), ("0", None), ("", None), ("soon", None), ("-5", None), ("²", None)],
)
def test_the_watchdog_is_fed_twice_in_its_period(monkeypatch, micros, seconds):
    monkeypatch.setenv("WATCHDOG_USEC", micros)
    assert watchdog_period() == seconds


def test_without_a_watchdog_there_is_no_period(monkeypatch):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert watchdog_period() is None
