"""A release repository with the fleet's names and other keys than the fleet's."""

from __future__ import annotations

from pathlib import Path

from marram.wire.messages import Block, Fetch
from marram_cloud.releases.online.blocks import BlockServer
from marram_cloud.releases.repository.layout import Layout

from examples.shoulder.demo.process import call

_MAX_PAYLOAD = 96 << 10


class Forger:
    """Makes the repository in ``folder``: ``file`` as version ``version`` of ``model``, for all devices."""

    def __init__(self, folder: Path, model: str, version: str, file: Path) -> None:
        repository, keys, online = (str(folder / name) for name in ("repository", "offline", "online"))
        release, place = ("marram-cloud", "release"), ("--repository", repository, "--online", online)
        call(*release, "init", repository, "--keys", keys, "--online", online, "--models", model)
        call(*release, "sign", str(file), "--model", model, "--version", version, "--keys", keys, *place)
        call(*release, "publish", *place)
        call(*release, "promote", model, version, "--to", "all", *place)
        self.timestamp = Layout(Path(repository)).timestamp.read_bytes()
        self._server = BlockServer(Path(repository))

    def answer(self, device: str, request: Fetch) -> list[Block]:
        """Every block that a device asks for, out of this repository.

        Nothing for a file that only the real one has: to say that it is missing would just stop the look.
        """
        if self._server.ask(device, request, _MAX_PAYLOAD) is not None:
            return []
        blocks = []
        while (following := self._server.next()) is not None:
            blocks.append(following[1])
        return blocks
