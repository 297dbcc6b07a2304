"""A short-lived child of the daemon: given its job, heard in a thread, ended when it takes too long."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO

import msgspec

from marram.children import process
from marram.children.frames import FrameError, read_frame, write_frame
from marram.errors import MarramError

_SAID = 500


class ChildError(MarramError):
    """The child cannot be started, or ended without its last word."""


class Child:
    """One process of ``python -I -m MODULE PARENT``.

    kind: of the frames that it sends. heard: called in a thread with each of them, and at the end with a
    ChildError that says how it ended (also when it ended well, after its last word). timeout: seconds.
    threads: see ``process.start``. Raises ChildError when it cannot be started.
    """

    def __init__(
        self,
        module: str,
        kind: type[msgspec.Struct],
        heard: Callable[[msgspec.Struct | ChildError], None],
        timeout: float,
        threads: int = 0,
    ) -> None:
        self._module, self._kind, self._heard, self._timeout = module, kind, heard, timeout
        self._frames: queue.SimpleQueue[msgspec.Struct | None] = queue.SimpleQueue()
        self._late = False
        try:
            self._process = process.start(module, threads)
        except OSError as error:
            raise ChildError(f"{module} cannot be started: {error.strerror or error}") from error
        self._said = b""
        self._errors_read = threading.Event()
        self._timer = threading.Timer(timeout, self._too_late)
        self._timer.daemon = True
        self._timer.start()
        for target in (self._write, self._listen, self._listen_to_errors):
            threading.Thread(target=target, name=module.rpartition(".")[2], daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, frame: msgspec.Struct) -> None:
        """Have it read a frame; never waits."""
        self._frames.put(frame)

    @property
    def backlog(self) -> int:
        """Frames that it has not taken yet."""
        return self._frames.qsize()

    def close(self) -> None:
        """No more frames come: the child reads to the end and says its last word."""
        self._frames.put(None)

    def kill(self) -> None:
        """End it; what it said before is still heard."""
        if self._process.poll() is None:
            self.pause(False)  # one of a unit's ends itself, for which it must run
            self._process.kill()

    def pause(self, paused: bool) -> None:
        """Have it stand still, or go on. Its time goes on."""
        if self._process.poll() is None:
            with suppress(OSError):
                os.kill(self._process.pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def _write(self) -> None:
        assert self._process.stdin is not None
        # Closing writes what is left to a process that may be gone.
        with suppress(OSError), self._process.stdin as stream:
            while (frame := self._frames.get()) is not None:
                try:
                    write_frame(stream, frame)
                except FrameError:
                    return

    def _listen(self) -> None:
        problem = self._listen_to_frames()
        if problem:
            self.kill()
        status = self._process.wait()
        self._timer.cancel()
        self._frames.put(None)
        self._errors_read.wait(5)
        self._heard(ChildError(problem or self._ending(status)))

    def _listen_to_frames(self) -> str:
        """Until it says no more; what was wrong with what it said, "" for nothing."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            try:
                while (frame := read_frame(stream, self._kind)) is not None:
                    self._heard(frame)
            except FrameError as error:
                return str(error)
        return ""

    def _listen_to_errors(self) -> None:
        assert self._process.stderr is not None
        self._said = _last(self._process.stderr)
        self._errors_read.set()

    def _too_late(self) -> None:
        self._late = True
        self.kill()

    def _ending(self, status: int) -> str:
        if self._late:
            return f"was not done after {self._timeout:.0f} s and was ended"
        if status < 0:
            return f"was ended by signal {-status}"
        said = self._said.decode(errors="replace").strip()[-_SAID:]
        return said or f"ended with status {status}"


def _last(stream: IO[bytes]) -> bytes:
    """The end of what a process says on standard error, however much that is."""
    said = b""
    with stream:
        while data := stream.read1(4096):  # type: ignore[attr-defined]
            said = (said + data)[-4 * _SAID :]
    return said
