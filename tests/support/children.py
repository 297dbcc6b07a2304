"""Scripts in place of a child's module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from marram.children import process

from tests.support.work_socket import WorkSocket

FRAMES = """
import os, sys, time
from marram.children.frames import frame_pipes, read_frame, write_frame
from marram.releases.gates import Measured
from marram.releases.talk import *
into, out = frame_pipes()
"""

IN_A_UNIT = """
from types import SimpleNamespace
from marram.children import worker
text = open(__file__ + ".text").read()
worker.runpy = SimpleNamespace(run_module=lambda *_, **__: exec(compile(text, "child", "exec"), {}))
worker.sys.exit(worker.main())
"""


@contextmanager
def own(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every child be this script, a process of the daemon's own."""
    path = folder / "child"
    path.write_text(f"#!{sys.executable}\n{FRAMES}{text}\n")
    path.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(process, "sys", SimpleNamespace(executable=str(path)))
        yield


@contextmanager
def unit(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every child be this script, started through the socket."""
    path = folder / "worker.py"
    path.write_text(IN_A_UNIT)
    path.with_name("worker.py.text").write_text(FRAMES + text)
    socket = WorkSocket(folder / "work.sock", (sys.executable, str(path)))
    with monkeypatch.context() as patch:
        patch.setenv(process.SOCKET, str(socket.path))
        yield
    socket.close()
