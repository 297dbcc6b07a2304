"""A Flower node (https://flower.ai), in an environment of its own, to measure beside a device of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.support.mosquitto import free_port
from tests.support.processes import eventually
from tests.support.proxy import Proxy

VERSION = "1.42.0"
_ENVIRONMENT = Path(__file__).parents[1] / "build" / "flower"


class Node:
    """A ``flower-supernode`` that is connected and waits for work. proxy: counts its bytes."""

    def __init__(self, process: subprocess.Popen[bytes], proxy: Proxy) -> None:
        self._process, self.proxy = process, proxy

    def processes(self) -> list[int]:
        """It and its children."""
        node = psutil.Process(self._process.pid)
        return [node.pid, *(child.pid for child in node.children(recursive=True))]


def installed() -> int:
    """Bytes of its packages on disk; installs them first where they are not."""
    if not (_ENVIRONMENT / "bin" / "flower-supernode").exists():
        subprocess.run([sys.executable, "-m", "venv", _ENVIRONMENT], check=True)
        pip = [_ENVIRONMENT / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"flwr=={VERSION}"], check=True)
    own = ("pip", "setuptools", "_distutils_hack")
    packages = next((_ENVIRONMENT / "lib").iterdir()) / "site-packages"
    return sum(
        path.lstat().st_size
        for path in packages.rglob("*")
        if path.is_file()
        and path.suffix != ".pyc"
        and not path.relative_to(packages).parts[0].startswith(own)
    )


@contextmanager
def node(folder: Path) -> Iterator[Node]:
    """Start a server and one node on loopback; the server takes no part in what is measured."""
    server, own = free_port(), free_port()
    binaries = _ENVIRONMENT / "bin"
    path = f"{binaries}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "FLWR_HOME": str(folder)}
    with ExitStack() as leaving:

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            with (folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [binaries / name, "--insecure", *arguments],
                    stdout=log, stderr=log, env=environment, start_new_session=True,
                )  # fmt: skip
            leaving.callback(_end, process)
            return process

        start("flower-superlink", "--host", "127.0.0.1", "--port", str(server))
        proxy = leaving.enter_context(Proxy(server))
        process = start(
            "flower-supernode",
            "--superlink", f"127.0.0.1:{proxy.port}",
            "--host", "127.0.0.1", "--port", str(own),
        )  # fmt: skip
        log = folder / "flower-superlink.log"
        eventually("a Flower node that is connected", lambda: _connected(proxy, process, log), 90)
        yield Node(process, proxy)


def _connected(proxy: Proxy, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.with_name("flower-supernode.log").read_text()[-2000:]
    return any(len(connection.down.data) > 100 for connection in proxy.connections)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
    process.wait()
