"""A real release repository on disk, with all of its keys at hand."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from marram_cloud.releases.repository import keys
from marram_cloud.releases.repository.create import Quorums, create
from marram_cloud.releases.repository.layout import Layout
from marram_cloud.releases.repository.offline import OfflineRepository
from marram_cloud.releases.repository.online import OnlineRepository
from marram_cloud.releases.rollout.audience import Audience
from marram_cloud.releases.rollout.store import RolloutStore

MODEL = "shoulder"


@dataclass(frozen=True)
class Repository:
    """``folder`` holds repository/, offline/ and online/ keys, and root.json."""

    folder: Path

    @staticmethod
    def create(folder: Path, models: tuple[str, ...] = (MODEL,), now: datetime | None = None) -> Repository:
        made = Repository(folder)
        root = create(
            folder / "repository", folder / "offline", folder / "online", models, Quorums(), now or _now()
        )
        (folder / "root.json").write_bytes(root)
        return made

    @property
    def path(self) -> Path:
        return self.folder / "repository"

    @property
    def root(self) -> Path:
        return self.folder / "root.json"

    @property
    def layout(self) -> Layout:
        return Layout(self.path)

    @property
    def online(self) -> OnlineRepository:
        return OnlineRepository(self.layout, self.folder / "online")

    @property
    def rollouts(self) -> RolloutStore:
        return RolloutStore(self.online)

    def sign(self, content: bytes, version: str, kind: str = "marram", model: str = MODEL) -> None:
        """Sign a release with the offline keys, and publish it."""
        signers = keys.read_folder(self.folder / "offline")
        offline = OfflineRepository(self.layout)
        offline.sign(model, version, kind, content, signers, _now())  # type: ignore[arg-type]
        self.online.publish(_now())

    def promote(self, version: str, to: str = "all", model: str = MODEL) -> None:
        self._change(version, model, lambda old, found: old.promoted(found, Audience.parse(to), time.time()))

    def pause(self, version: str, model: str = MODEL) -> None:
        self._change(version, model, lambda old, found: old.paused(found.path, "by a test"))

    def revoke(self, version: str, model: str = MODEL) -> None:
        self._change(version, model, lambda old, found: old.revoked(found.sha256))

    def release(self, content: bytes, version: str, to: str = "all") -> None:
        """Sign, publish and promote."""
        self.sign(content, version)
        self.promote(version, to)

    def _change(self, version: str, model: str, change: Any) -> None:
        self.rollouts.change(model, version, None, time.time(), change)

    @contextmanager
    def served(self, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
        """Over HTTP or HTTPS on this machine, with ranges."""
        server = Server(self.path, tls)
        try:
            yield server
        finally:
            server.stop()


class Server:
    """A web server as any other. asked: the paths and ranges that were asked for."""

    def __init__(self, folder: Path, tls: ssl.SSLContext | None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.sent = 0
        handler = partial(_Handler, self, directory=str(folder))
        self._server = _WebServer(("127.0.0.1", 0), handler)
        self._scheme = "http"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _WebServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A device that went away: nothing to print."""


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, owner: Server, *arguments: Any, **options: Any) -> None:
        self._owner = owner
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self._owner.asked.append((self.path, wanted))
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        status, size = 200, len(data)
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            data, status = data[int(first) : int(last) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        self.wfile.write(data)
        self._owner.sent += len(data)

    def log_message(self, *_: object) -> None: ...


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
