"""Releases from ``marram-cloud release`` to inference on the devices, and what must not get there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from marram.wire.certificates import Subject
from marram.wire.messages import Release
from marram.wire.signed import Author
from marram_cloud.releases.make import read_release_key

from tests.support.fleet import FLEET, REGION, ROOT, SHOULDER, TOPICS, Device, Fleet
from tests.support.mosquitto import Client, Mosquitto
from tests.support.processes import eventually
from tests.support.proxy import Proxy

MODEL = "shoulder"


def offsets(device: Device) -> list[float]:
    """When its windows began, from the first one on."""
    starts = [line["start"] for line in device.predicted()]
    return [round(start - starts[0], 2) for start in starts]


def test_no_window_is_lost_in_a_swap(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto") as broker, Fleet(tmp_path, broker.url) as fleet:
        sensor = {**fleet.devices[0].settings["sensors"][0], "speed": 40}
        alone = Device(tmp_path / "alone", "alone", tmp_path, "", 1, {"cloud": None, "learning": None})
        alone.process.start()
        assert alone.process.wait() == 0
        device = fleet.devices[0]
        device.write(sensors=[sensor])
        fleet.start().closed(1)
        for number in (1, 2):
            fleet.release()
            device.until(
                "the release",
                lambda status, version=f"{number}+": status["model"]["name"].startswith(f"{MODEL} {version}"),
            )
        windows = len(offsets(alone))
        device.until("all windows", lambda status: status["windows"]["predicted"] == windows)
        counts = device.status()["windows"]
        assert counts["received"] == windows
        assert (counts["waiting"], counts["dropped"], counts["failed"]) == (0, 0, 0)
        assert device.process.stop() == 0
        assert offsets(device) == offsets(alone)
        models = [line["model"] for line in device.predicted()]
        changes = [
            models[0],
            *(after for before, after in pairwise(models) if before != after),
        ]
        assert [name.partition("+")[0] for name in changes] == [f"{MODEL} 0", f"{MODEL} 1", f"{MODEL} 2"]

        # What was installed is what runs after a restart, before there is any network.
        broker.stop()
        device.start()
        assert device.status()["model"]["name"].startswith(f"{MODEL} 2+")
        broker.start()


def test_a_download_goes_on_where_a_power_cut_stopped_it(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "mosquitto", lines=("max_packet_size 4608",)) as broker,
        Proxy(broker.port) as proxy,
        Fleet(tmp_path, broker.url, rounds={"limit": 1}) as fleet,
    ):
        device = fleet.devices[0]
        device.write(cloud={"broker": proxy.url})
        fleet.start().closed(1)
        fleet.settled()
        proxy.stall_after(40_000)
        fleet.release("--version", 1)
        other = fleet.devices[1]
        other.until("the release", lambda status: status["release"]["state"].startswith("installed"))

        def parts() -> set[str]:
            return {path.name for path in (device.state / "spool").glob("*/*") if path.name.isdigit()}

        eventually("some parts on disk", lambda: len(parts()) >= 4)
        device.process.kill()
        here = parts()
        proxy.flow()
        device.start()
        device.until("the release", lambda status: status["release"]["state"].startswith("installed"))
        assert device.process.said(f"{len(here)} of ")
        fetched = bytes(proxy.connections[-1].down.data)
        digest = hashlib.sha256((device.state / "slots" / "a.marram").read_bytes()).hexdigest()[:16]
        for part in range(20):
            topic = TOPICS.release_part(MODEL, digest, part).encode()
            # The byte behind a topic is the length of the properties.
            assert (topic + b"\0" in fetched) == (str(part) not in here), part


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Client]]:
    """One device, and somebody who may publish below its release topic."""
    folder = tmp_path_factory.mktemp("spoilt")
    with (
        Mosquitto(folder / "mosquitto") as broker,
        Client(broker) as client,
        Fleet(folder, broker.url, devices=1) as fleet,
    ):
        fleet.devices[0].start()
        eventually("a connection", lambda: fleet.devices[0].status()["link"]["connected"])
        yield fleet, client


def publish(client: Client, author: Author, content: bytes, sequence: int, sent: bytes | None = None) -> None:
    """A release of this content, whose parts hold ``sent``."""
    digest = hashlib.sha256(content).digest()
    release = Release(MODEL, f"bad-{sequence}", sequence, digest, len(content), 90_000)
    body = content if sent is None else sent
    for part in range(-(-len(body) // 90_000)):
        topic = TOPICS.release_part(MODEL, digest.hex()[:16], part)
        client.publish(topic, body[part * 90_000 : (part + 1) * 90_000], retain=True)
    client.publish(TOPICS.release(MODEL), author.seal(release, TOPICS.release(MODEL), sequence), retain=True)


def release_author(fleet: Fleet) -> Author:
    key = read_release_key(fleet.folder / "fleet" / "release.key")
    return Author(Subject(FLEET, REGION, "aggregator", "release"), key)


def still_runs(device: Device) -> None:
    assert device.answers()
    assert device.status()["model"]["name"] == f"{MODEL} 0"


def test_a_release_signed_by_a_device_is_refused(spoilt: tuple[Fleet, Client]) -> None:
    fleet, client = spoilt
    device = fleet.devices[0]
    publish(client, device.author, (SHOULDER / "shoulder.marram").read_bytes(), 1)
    eventually("the refusal", lambda: device.process.said("refused a release: bad_signature"))
    still_runs(device)


def test_a_damaged_release_is_refused(spoilt: tuple[Fleet, Client]) -> None:
    fleet, client = spoilt
    device = fleet.devices[0]
    content = (SHOULDER / "shoulder.marram").read_bytes()
    damaged = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    publish(client, release_author(fleet), content, 2, sent=damaged)
    device.until("the refusal", lambda status: "not the bundle that was signed" in status["release"]["state"])
    still_runs(device)


@pytest.mark.parametrize(
    ("sequence", "make", "reason"),
    [
        (3, lambda content: content[: len(content) // 2], "not a whole bundle"),
        (4, lambda content: (ROOT / "examples" / "host" / "host.marram").read_bytes(), "another family"),
        (5, lambda content: b"PK\x05\x06" + bytes(18), "no manifest.json"),
        (6, lambda content: b"not a bundle at all", "not a whole bundle"),
    ],
    ids=["cut", "another-family", "empty", "no-zip"],
)
def test_a_release_that_is_signed_but_cannot_run_is_refused(
    spoilt: tuple[Fleet, Client], sequence: int, make: object, reason: str
) -> None:
    fleet, client = spoilt
    device = fleet.devices[0]
    content = make((SHOULDER / "shoulder.marram").read_bytes())  # type: ignore[operator]
    publish(client, release_author(fleet), content, sequence)
    device.until("the refusal", lambda status: f"refused bad-{sequence}" in status["release"]["state"])
    assert reason in device.status()["release"]["state"]
    still_runs(device)


def test_a_good_release_after_bad_ones_is_installed(spoilt: tuple[Fleet, Client]) -> None:
    fleet, client = spoilt
    device = fleet.devices[0]
    publish(client, release_author(fleet), (SHOULDER / "shoulder.marram").read_bytes(), 7)
    device.until("the release", lambda status: status["release"]["state"] == "installed bad-7")
    assert device.status()["model"]["swaps"] == 1


def test_parts_of_an_older_release_that_a_kill_left_on_the_broker_are_taken_off(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Fleet(tmp_path, broker.url, rounds={"limit": 1}) as fleet,
    ):
        fleet.start().closed(1)
        for _ in range(2):
            fleet.release("--version", 1)
        fleet.aggregator.process.kill()
        [(digest, bundle)] = fleet.aggregator.query("SELECT digest, bundle FROM releases WHERE sequence = 1")
        left = TOPICS.release_part(MODEL, digest.hex()[:16], 0)
        with Client(broker, left) as client:
            client.publish(left, bundle[: 96 * 1024], retain=True)
            fleet.aggregator.start()
            client.wait_for(lambda heard: (left, b"", False) in heard)
