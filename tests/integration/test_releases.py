"""Releases from ``marram-cloud release`` to inference, by real processes over a real broker."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from marram.releases.blocks import BLOCK
from marram.wire import cbor
from marram.wire.messages import Block

from tests.support.fleet import MODEL, TOPICS, Device, Fleet, run
from tests.support.mosquitto import Client, Mosquitto
from tests.support.processes import eventually
from tests.support.proxy import Proxy
from tests.support.releases import infer, released, spoilt

QUICK: dict[str, Any] = {"spread": "0s", "trial": {"windows": 30, "confirm": 60, "agreement": 0.0}}


def offsets(device: Device) -> list[float]:
    """When its windows began, from the first one on."""
    starts = [line["start"] for line in device.predicted()]
    return [round(start - starts[0], 2) for start in starts]


def lasting(device: Device, **changes: Any) -> None:
    """Its recording comes slowly enough for releases to be tried on it, again and again."""
    sensor = {**device.settings["sensors"][0], "speed": 40, "repeat": True}
    device.write(sensors=[sensor], releases=QUICK, **changes)


def committed(device: Device, version: str) -> None:
    device.until(
        f"release {version}", lambda status: status["release"]["running"] == f"{MODEL}/{version}.marram"
    )


def confirmed(device: Device, version: str) -> None:
    committed(device, version)
    device.until("confirmed", lambda status: status["release"]["confirmed"])


def test_no_window_is_lost_when_releases_take_over(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto") as broker, Fleet(tmp_path, broker.url, devices=1) as fleet:
        sensor = {**fleet.devices[0].settings["sensors"][0], "speed": 16}
        alone = Device(tmp_path / "alone", "alone", tmp_path, "", 1, {"cloud": None, "learning": None})
        alone.process.start()
        assert alone.process.wait() == 0
        device, windows = fleet.devices[0], len(offsets(alone))
        device.write(sensors=[sensor], releases=QUICK)
        fleet.aggregator.start()
        versions = ["1", "2"]
        for version in versions:
            sign(fleet, version, released(version))
        device.start()
        for version in versions:
            promote(fleet, version)
            confirmed(device, version)
        device.until("all windows", lambda status: status["windows"]["predicted"] == windows)
        counts = device.status()["windows"]
        assert counts["received"] == windows
        assert (counts["waiting"], counts["dropped"], counts["failed"]) == (0, 0, 0)
        assert device.process.stop() == 0
        assert offsets(device) == offsets(alone)
        models = [line["model"] for line in device.predicted()]
        changes = [models[0], *(after for before, after in pairwise(models) if before != after)]
        assert changes == [f"{MODEL} 0", *(f"{MODEL} {version}" for version in versions)]

        # What was committed is what runs after a restart, before there is any network.
        broker.stop()
        device.start()
        assert device.status()["model"]["name"] == f"{MODEL} {versions[-1]}"
        broker.start()


@pytest.fixture
def fleet(tmp_path: Path):
    """One device and its aggregator; a client that hears what the devices are sent."""
    with (
        Mosquitto(tmp_path / "mosquitto", lines=("max_packet_size 4608",)) as broker,
        Proxy(broker.port) as proxy,
        Client(broker, "marram/#") as client,
        Fleet(tmp_path, broker.url, devices=1, rounds={"limit": 1}) as made,
    ):
        lasting(made.devices[0], cloud={"broker": proxy.url}, learning=None)
        made.aggregator.start()
        made.devices[0].start()
        made.client, made.proxy = client, proxy
        yield made


def sign(fleet: Fleet, version: str, content: bytes) -> None:
    file = fleet.folder / f"{version}.marram"
    file.write_bytes(content)
    fleet.publish(file, version)


def promote(fleet: Fleet, version: str) -> None:
    fleet.must("release", "promote", MODEL, version, "--to", "all", "-c", fleet.aggregator.config)


def send_out(fleet: Fleet, version: str, content: bytes) -> None:
    sign(fleet, version, content)
    promote(fleet, version)


def blocks(fleet: Fleet) -> list[Block]:
    """Every block that a device was sent."""
    topic = TOPICS.down("device-1", "block")
    found = [payload for name, payload, _ in list(fleet.client.messages) if name == topic]
    return [cbor.unpack(payload, Block) for payload in found]


def test_a_download_goes_on_where_a_kill_stopped_it(fleet: Fleet) -> None:
    device, content = fleet.devices[0], released("1", infer=spoilt("trap"))
    size = len(content)
    fleet.proxy.stall_after(60_000)
    file = fleet.folder / "1.marram"
    file.write_bytes(content)
    fleet.publish(file, "1", "--base")  # no patches: they are too small to be stopped in the middle
    promote(fleet, "1")
    spool = device.state / "releases" / "spool" / "release"

    def here() -> int:
        data = spool.read_bytes() if spool.exists() else b""
        return sum(
            data[at : at + BLOCK] == content[at : at + BLOCK] and any(content[at : at + BLOCK])
            for at in range(0, size, BLOCK)
        )

    eventually("some of it on disk", lambda: device.process.said("fetching") and here() > 3)
    device.process.kill()
    fleet.proxy.flow()
    device.start()
    committed(device, "1")
    assert (
        hashlib.sha256((device.state / "releases" / "a").read_bytes()).digest()
        == hashlib.sha256(content).digest()
    )
    eventually("the log", lambda: device.process.said("from before"))
    [line] = [line for line in device.process.log.read_text().splitlines() if "from before" in line]
    assert not line.endswith(" 0 from before")


def test_releases_from_elsewhere_are_not_followed_and_real_ones_are(fleet: Fleet) -> None:
    """Anybody may publish on this broker: an intruder announces news and answers in the cloud's place."""
    device = fleet.devices[0]
    for payload in (
        b"",
        b"{}",
        b"x" * 4000,
        json.dumps({"signed": {"meta": {"snapshot.json": {"version": 9}}}}).encode(),
    ):
        fleet.client.publish(TOPICS.timestamp, payload)
    for payload in (
        b"",
        b"x",
        cbor.pack(Block(1, 10, 0, b"0123456789")),
        cbor.pack(Block(0, 0, 0, b"", True)),
    ):
        fleet.client.publish(TOPICS.down("device-1", "block"), payload)
    device.until("a look", lambda status: status["release"]["checked"])
    assert device.status()["release"]["running"] is None
    send_out(fleet, "1", released("1"))
    committed(device, "1")


def test_a_bad_release_is_rolled_back_shown_and_never_tried_again(fleet: Fleet) -> None:
    device = fleet.devices[0]
    send_out(fleet, "1", released("1", infer=infer("nan")))
    device.until("rolled back", lambda status: status["release"]["stage"] == "rolled_back")
    assert "NaN" in device.status()["release"]["reason"]
    assert device.status()["model"]["name"] == f"{MODEL} 0"
    shown = run("marram.cli", "releases", "-c", device.config).stdout
    assert "rolled_back" in shown
    assert "NaN" in shown
    eventually(
        "the fleet's owner sees it",
        lambda: "NaN" in fleet.must("release", "status", "-c", fleet.aggregator.config),
    )
    # The roll-out has paused itself; the operator goes on with it all the same.
    eventually("paused", lambda: "PAUSED" in fleet.must("release", "status", "-c", fleet.aggregator.config))
    fleet.must("release", "resume", MODEL, "1", "-c", fleet.aggregator.config)
    device.process.kill()
    device.start()
    device.until("a look", lambda status: "refused here before" in (status["release"]["problem"] or ""))
    assert device.status()["windows"]["failed"] == 0


def test_an_operator_holds_updates_and_lets_them_go_on(fleet: Fleet) -> None:
    device = fleet.devices[0]
    done = run("marram.cli", "updates", "hold", "stock-taking", "-c", device.config)
    assert done.returncode == 0, done.stderr
    send_out(fleet, "1", released("1"))
    assert run("marram.cli", "updates", "check", "-c", device.config).returncode == 0
    before = device.status()["windows"]["predicted"]
    device.until("more windows", lambda status: status["windows"]["predicted"] > before + 200)
    assert device.status()["release"]["held"] == "stock-taking"
    assert device.status()["release"]["running"] is None
    assert "stock-taking" in run("marram.cli", "releases", "-c", device.config).stdout
    assert run("marram.cli", "updates", "resume", "-c", device.config).returncode == 0
    committed(device, "1")


def test_a_revoked_release_is_left_at_once(fleet: Fleet) -> None:
    device = fleet.devices[0]
    for version in ("1", "2"):
        send_out(fleet, version, released(version))
        confirmed(device, version)
    fleet.must("release", "revoke", MODEL, "2", "-c", fleet.aggregator.config)
    committed(device, "1")
    assert device.status()["windows"]["failed"] == 0
