"""The local socket: ``marram status`` and ``marram label`` talk to the running daemon through it.

One request is one line of JSON, ``{"command": "status", ...}``; the answer is one line of JSON, an object
that has ``error`` when the request was refused. Only who may open the socket's file may ask.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marram.errors import MarramError

log = logging.getLogger(__name__)

Handler = Callable[[Mapping[str, Any]], dict[str, Any]]
_MAX_REQUEST = 64 << 10
_TIMEOUT = 10.0  # seconds for a whole request, and for its answer
_AT_ONCE = 8


class ControlError(MarramError):
    """The daemon cannot be asked, or it refused."""


class ControlServer:
    """Answers on a Unix socket from threads of its own; one request a connection, a few connections at once,
    so that who asks slowly keeps nobody else waiting. Handlers are called one at a time."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path, self._handlers = path, handlers
        self._room, self._asking = threading.Semaphore(_AT_ONCE), threading.Lock()
        if _answers(path):
            raise ControlError(f"{path}: an agent answers here already; only one may use a state folder")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            path.chmod(0o660)
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise ControlError(
                f"{path}: the control socket cannot be made: {error}; set control.socket to another path"
            ) from error
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and take its file away."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            self._room.acquire()
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="asker", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                line = _read_line(connection)
                with self._asking:
                    answer = self._answer(line)
                connection.settimeout(_TIMEOUT)
                connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError as error:
            log.debug("a control connection broke: %s", error)
        finally:
            self._room.release()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers[request["command"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"error": f"not a request; commands are: {', '.join(sorted(self._handlers))}"}
        try:
            return handler(request)
        except (MarramError, ValueError, KeyError, TypeError) as error:
            return {"error": str(error)}
        except Exception as error:
            # One question that went wrong must not end the answers to all others.
            log.exception("a control request failed")
            return {"error": f"the agent could not answer: {error}"}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
        return True


class NotRunningError(ControlError):
    """No daemon answers on the socket."""


def ask(path: Path, request: dict[str, Any], timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Ask the daemon. timeout: seconds for the answer.

    Raises NotRunningError when it is not there, ControlError when it refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_read_line(connection, timeout))
    except (OSError, ValueError) as error:
        raise NotRunningError(
            f"{path}: no daemon answers here ({error}); is `marram run` running?"
        ) from error
    if not isinstance(answer, dict) or "error" in answer:
        raise ControlError(str(answer.get("error")) if isinstance(answer, dict) else "not an answer")
    return answer


def _read_line(connection: socket.socket, timeout: float = _TIMEOUT) -> bytes:
    """Raises OSError when the line is not there in time."""
    data, end = b"", time.monotonic() + timeout
    while not data.endswith(b"\n") and len(data) < _MAX_REQUEST * 16:
        connection.settimeout(max(end - time.monotonic(), 0.001))
        piece = connection.recv(_MAX_REQUEST)
        if not piece:
            break
        data += piece
    return data
