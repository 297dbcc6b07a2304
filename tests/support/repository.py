"""A release repository in a folder with all its keys, its files over HTTP, and python-tuf's client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from marram_cloud.releases.repository import keys
from marram_cloud.releases.repository.create import Quorums, create
from marram_cloud.releases.repository.layout import Layout
from marram_cloud.releases.repository.offline import OfflineRepository
from marram_cloud.releases.repository.online import OnlineRepository
from tuf.ngclient import Updater

from tests.support.web import Server

MODEL = "shoulder"


@dataclass
class Repository:
    """now: the time that it is used at; the client's is the machine's, so it begins there."""

    folder: Path
    models: tuple[str, ...] = (MODEL,)
    quorums: Quorums = field(default_factory=Quorums)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self.path, self.keys, self.online_keys = (
            self.folder / name for name in ("repository", "offline", "online")
        )
        self.root = create(self.path, self.keys, self.online_keys, self.models, self.quorums, self.now)
        self.layout = Layout(self.path)
        self.offline = OfflineRepository(self.layout)
        self.online = OnlineRepository(self.layout, self.online_keys)

    def signers(self, purpose: str = "") -> list[keys.CryptoSigner]:
        return keys.read_folder(self.keys, purpose)

    def sign(self, version: str, content: bytes = b"a model", kind: str = "onnx", model: str = MODEL) -> None:
        self.offline.sign(model, version, kind, content, self.signers("release"), self.now)  # type: ignore[arg-type]

    def released(self, version: str, content: bytes = b"a model", model: str = MODEL) -> None:
        """Signed and published."""
        self.sign(version, content, model=model)
        publication = self.online.publish(self.now)
        assert not publication.waiting, publication.waiting

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder's files."""
    server = Server(folder)
    try:
        yield server.url
    finally:
        server.stop()


@dataclass
class Client:
    """A device's client: it keeps what it trusts in ``folder`` from one look to the next."""

    folder: Path
    url: str
    root: bytes

    def look(self) -> Updater:
        """Fetch and verify the metadata. Raises what tuf raises."""
        self.folder.mkdir(exist_ok=True, parents=True)
        updater = Updater(
            str(self.folder), f"{self.url}/metadata/", str(self.folder), f"{self.url}/targets/",
            bootstrap=self.root,
        )  # fmt: skip
        updater.refresh()
        return updater

    def fetch(self, path: str) -> bytes | None:
        """A target's bytes as they verify; None when there is none of that name."""
        updater = self.look()
        info = updater.get_targetinfo(path)
        return (
            None
            if info is None
            else Path(updater.download_target(info, str(self.folder / "got"))).read_bytes()
        )
