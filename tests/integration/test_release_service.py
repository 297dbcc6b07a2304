"""Releases from the command line to what devices are given, with a real aggregator, broker and processes."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from marram.wire import cbor
from marram.wire.messages import Block, Fetch, Report
from marram_cloud.cli import main
from marram_cloud.releases.repository.layout import Layout

from tests.support.fleet import MODEL, TOPICS, Fleet
from tests.support.mosquitto import Client, Mosquitto
from tests.support.processes import eventually
from tests.support.releases import released
from tests.support.repository import Client as TufClient
from tests.support.repository import served


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mosquitto, Fleet]]:
    """An aggregator that runs, and two devices that are enrolled; no device runs."""
    folder = tmp_path_factory.mktemp("scene")
    with Mosquitto(folder / "mosquitto") as broker, Fleet(folder, broker.url) as fleet:
        fleet.aggregator.start()
        yield broker, fleet


def cloud(*arguments: object) -> tuple[int, str, str]:
    """A command below ``marram-cloud release``, in this process; its status and what it wrote."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        status = main(["release", *map(str, arguments)])
    return status, out.getvalue(), error.getvalue()


def command(fleet: Fleet, *arguments: object) -> str:
    status, out, error = cloud(*arguments, "-c", fleet.aggregator.config)
    assert status == 0, error
    return out


def refused(fleet: Fleet, *arguments: object) -> str:
    status, out, error = cloud(*arguments, "-c", fleet.aggregator.config)
    assert (status, out) == (1, "")
    return error


def signed(fleet: Fleet, version: str) -> Path:
    file = fleet.folder / f"{version}.marram"
    file.write_bytes(released(version))
    return file


@dataclass
class Fetcher:
    """A device that fetches a file as the wire says, asking again for what did not come."""

    client: Client
    device: str
    number: int = field(default_factory=lambda: time.time_ns() >> 20)

    def get(self, file: str) -> bytes | None:
        self.number += 1
        request = Fetch(self.number, file, 1024, 0, b"\xff" * 64, 8192)
        self.client.publish(TOPICS.up(self.device, "fetch"), cbor.pack(request))
        self.client.wait_for(lambda _: self._whole())
        blocks = self._blocks()
        return None if blocks[0].missing else b"".join(block.data for block in sorted(blocks, key=_offset))

    def _blocks(self) -> list[Block]:
        topic = TOPICS.down(self.device, "block")
        found = [cbor.unpack(payload, Block) for where, payload, _ in self.client.messages if where == topic]
        return [block for block in found if block.id == self.number]

    def _whole(self) -> bool:
        blocks = self._blocks()
        return bool(blocks) and (blocks[0].missing or sum(len(one.data) for one in blocks) == blocks[0].size)


def _offset(block: Block) -> int:
    return block.offset


def test_a_release_is_signed_published_promoted_watched_and_stopped(scene: tuple[Mosquitto, Fleet]) -> None:
    broker, fleet = scene
    down = TOPICS.down("device-1", "block")
    with Client(broker, TOPICS.timestamp, down) as client:
        introduce(fleet, client, "device-1", 1, "idle")
        fetcher = Fetcher(client, "device-1")
        fleet.publish(signed(fleet, "5"), "5")
        assert "to 50%, then all" in command(
            fleet, "promote", MODEL, "5", "--to", "50%", "--then", "all", "--soak", "1h"
        )
        layout = Layout(fleet.folder / "fleet" / "repository")
        on_disk = layout.timestamp.read_bytes()
        client.wait_for(lambda messages: (TOPICS.timestamp, on_disk) in [one[:2] for one in messages])
        assert fetcher.get("metadata/timestamp.json") == on_disk
        assert fetcher.get("metadata/9.root.json") is None
        assert fetcher.get("staged/shoulder.json") is None
        file = layout.load().roles[MODEL].signed.targets["shoulder/5.marram"]
        path = layout.target(file).relative_to(layout.path)
        assert fetcher.get(str(path)) == released("5")
        assert fleet.aggregator.refused() == {}

        for number, name in enumerate(("device-1", "device-2"), start=2):
            introduce(fleet, client, name, number, "rolled_back", "the trial was worse")
        eventually("the roll-out is paused", lambda: "PAUSED" in command(fleet, "status"))
        status = json.loads(command(fleet, "status", "--json"))
        (release,) = status["models"][MODEL]
        assert release["rolled_back"] == 2
        assert release["reasons"] == {"the trial was worse": 2}
        assert "2 x the trial was worse" in release["paused"]
        assert fleet.aggregator.process.said("the roll-out of shoulder/5.marram is paused")
        assert "PAUSED" not in command(fleet, "resume", MODEL, "5")
        assert "REVOKED" in command(fleet, "revoke", MODEL, "5")
        assert "was revoked" in refused(fleet, "promote", MODEL, "5", "--to", "all")


def introduce(fleet: Fleet, client: Client, name: str, counter: int, stage: str, reason: str = "") -> None:
    """The device's sealed report, as it publishes it."""
    device = next(one for one in fleet.devices if one.name == name)
    target = "shoulder/5.marram" if stage != "idle" else ""
    report = Report("0", MODEL, "", "0", b"d" * 32, stage, target, reason)  # type: ignore[arg-type]
    topic = TOPICS.report(name)
    client.publish(topic, device.author.seal(report, topic, counter, introduce=True), retain=True)
    client.publish(TOPICS.state(name), json.dumps({"online": True}), retain=True)


def test_a_stranger_fetches_nothing(scene: tuple[Mosquitto, Fleet]) -> None:
    broker, fleet = scene
    with Client(broker, TOPICS.down("nobody", "block")) as client:
        for payload in (b"garbage", cbor.pack(Fetch(1, "metadata/timestamp.json", 1024, 0, b"\xff", 8192))):
            client.publish(TOPICS.up("nobody", "fetch"), payload)
        eventually("it is refused", lambda: fleet.aggregator.refused().get("unknown_device", 0) >= 2)
        assert client.messages == []


def test_what_somebody_else_writes_on_the_timestamp_topic_is_put_right(
    scene: tuple[Mosquitto, Fleet],
) -> None:
    broker, fleet = scene
    content = Layout(fleet.folder / "fleet" / "repository").timestamp.read_bytes()
    with Client(broker) as liar:
        liar.publish(TOPICS.timestamp, b"forged", retain=True)

    def right() -> bool:
        with Client(broker, TOPICS.timestamp) as client:
            client.wait_for(lambda messages: len(messages) > 0)
            return client.messages[0][1] == content

    eventually("the right one stands there again", right)


def test_commands_refuse_what_cannot_be_done(scene: tuple[Mosquitto, Fleet], tmp_path: Path) -> None:
    _, fleet = scene
    offline = fleet.folder / "fleet" / "offline"
    sign = ("sign", signed(fleet, "7"), "--model", MODEL, "--version")
    assert "7 by its own manifest" in refused(fleet, *sign, "8", "--keys", offline)
    assert "is a key of shoulder" in refused(fleet, *sign, "7", "--key", offline / "root-1.pem")
    assert "holds no keys" in refused(fleet, *sign, "7", "--keys", tmp_path)
    assert "nothing.marram: cannot be read" in refused(
        fleet, "sign", "nothing.marram", "--model", MODEL, "--version", "1", "--keys", offline
    )
    assert "knee" in refused(fleet, "promote", "knee", "1", "--to", "all")
    assert "7 is not published" in refused(fleet, "promote", MODEL, "7", "--to", "all")
    assert "expected 5%" in refused(fleet, "promote", MODEL, "7", "--to", "everybody")
    assert "nothing is staged" in refused(fleet, "cosign", "root", "--keys", offline)


def test_another_key_signs_from_the_next_command_on_beside_the_running_aggregator(
    scene: tuple[Mosquitto, Fleet], tmp_path: Path
) -> None:
    broker, fleet = scene
    folder = fleet.folder / "fleet"
    client = TufClient(tmp_path / "client", "", (folder / "root.json").read_bytes())
    with served(folder / "repository") as client.url:
        for role in ("root", "online"):
            command(fleet, "rotate", role, "--keys", folder / "offline")
            assert "needs" not in command(fleet, "status")
            command(fleet, "publish")
            client.look()
        command(fleet, "refresh")
        client.look()
    content = Layout(folder / "repository").timestamp.read_bytes()
    with Client(broker, TOPICS.timestamp) as listener:
        listener.wait_for(lambda messages: content in [one[1] for one in messages])


def test_two_people_sign_one_after_the_other(tmp_path: Path) -> None:
    def must(*arguments: object) -> str:
        status, out, error = cloud(*arguments)
        assert status == 0, error
        return out

    place = ("-r", tmp_path / "r", "--online", tmp_path / "on")
    must(
        "init", tmp_path / "r", "--keys", tmp_path / "off", "--online", tmp_path / "on", "--models", MODEL,
        "--release-keys", 2, "--release-threshold", 2,
    )  # fmt: skip
    sign = ("sign", tmp_path / "m.onnx", "--model", MODEL, "--version", "1", *place, "--key")
    (tmp_path / "m.onnx").write_bytes(b"a model of somebody else")
    said = must(*sign, tmp_path / "off" / "release-1.pem")
    assert "needs 1 more of these keys to sign it: release-2" in said
    assert "release-2" in must("status", *place)
    status, out, _ = cloud("publish", *place)
    assert (status, out.splitlines()[0]) == (1, "published: nothing")
    assert "signed" in must(*sign, tmp_path / "off" / "release-2.pem")
    assert "published: shoulder" in must("publish", *place)
    assert "to 5%" in must("promote", MODEL, "1", "--to", "5%", *place)
    shown = must("status", *place)
    assert re.search(r"shoulder/1\.onnx: to 5%\n", shown)
    assert "staged" not in shown
    take_out = ("revoke", MODEL, "1", "--take-out", "--keys", tmp_path / "off", *place)
    assert "signed" in must(*take_out)
    assert "published: shoulder" in must("publish", *place)
    assert "shoulder: no releases" in must("status", *place)
