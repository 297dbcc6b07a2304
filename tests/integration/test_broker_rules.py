"""The broker's rules on a real Mosquitto, with the files that ``marram-cloud`` writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from marram.wire.certificates import Subject
from marram.wire.topics import Topics
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder

from tests.support.mosquitto import Mosquitto, free_port
from tests.support.processes import eventually
from tests.support.secured import PATIENCE, Client, broker_of, write_identity

TOPICS = Topics("dunes", "north")


@dataclass
class Scene:
    fleet: FleetFolder
    broker: Mosquitto

    def client(self, identity: Path, name: str = "anything") -> Client:
        return Client(self.broker.port, self.fleet.path / "ca.crt", identity, name)

    def device(self, name: str) -> Client:
        return self.client(self.fleet.path / "devices" / name)

    def aggregator(self) -> Client:
        return self.client(self.fleet.path / "aggregator")

    def identity(self, subject: Subject, folder: Path, days: float) -> Path:
        key = authority.new_key()
        certificate = authority.load(self.fleet.path).issue(subject, key.public_key(), days)
        write_identity(folder, certificate, key)
        return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder, port = tmp_path_factory.mktemp("rules"), free_port()
    fleet = FleetFolder.create(folder / "fleet", "dunes", "north")
    for name in ("a", "b"):
        fleet.enrol(name)
    with broker_of(fleet, folder / "mosquitto", port) as broker:
        yield Scene(fleet, broker)


OWN = [TOPICS.state("a"), TOPICS.report("a"), TOPICS.up("a", "delta"), TOPICS.up("a", "fetch")]
AGGREGATORS = [
    TOPICS.round, TOPICS.parameters(1, "update", 0), TOPICS.timestamp,
    TOPICS.revoked, TOPICS.down("a", "receipt"), TOPICS.down("b", "block"),
]  # fmt: skip
OTHERS = [TOPICS.state("b"), TOPICS.report("b"), TOPICS.up("b", "delta")]
ELSEWHERE = ["x", "marram/dunes/south/round", "marram/other/north/device/a/state", "$SYS/x", "$share/x/y"]


def test_a_device_writes_its_own_topics_and_nothing_else(scene: Scene) -> None:
    with scene.device("a") as client:
        assert [topic for topic in OWN if not client.may_write(topic)] == []
        assert [topic for topic in AGGREGATORS + OTHERS + ELSEWHERE if client.may_write(topic)] == []


def test_the_aggregator_writes_what_is_for_devices_and_nothing_of_theirs(scene: Scene) -> None:
    with scene.aggregator() as client:
        assert [topic for topic in AGGREGATORS if not client.may_write(topic)] == []
        assert [topic for topic in OWN + OTHERS + ELSEWHERE if client.may_write(topic)] == []


def test_a_device_hears_what_is_for_it_and_nothing_of_another(scene: Scene) -> None:
    with scene.device("a") as a, scene.device("b") as b, scene.aggregator() as aggregator:
        for wish in (
            "#",
            f"{TOPICS.root}/#",
            f"{TOPICS.root}/device/+/#",
            TOPICS.down("b", "#"),
            TOPICS.report("b"),
        ):
            a.subscribe(wish)
        for topic in OTHERS:
            assert b.may_write(topic)
        for topic in AGGREGATORS:
            assert aggregator.may_write(topic)
        # Messages of one writer come in order: when the last has come, the others would have.
        wanted = {topic for topic in AGGREGATORS if topic != TOPICS.down("b", "block")}
        eventually("what is for a", lambda: {topic for topic, _ in a.heard} >= wanted, PATIENCE)
        assert {topic for topic, _ in a.heard} == wanted


def test_the_aggregator_hears_its_devices(scene: Scene) -> None:
    with scene.aggregator() as aggregator, scene.device("a") as a:
        for topic in (
            TOPICS.state("+"),
            TOPICS.report("+"),
            TOPICS.up("+", "delta"),
            TOPICS.up("+", "fetch"),
        ):
            aggregator.subscribe(topic)
        for topic in OWN:
            a.may_write(topic)
        eventually("what a wrote", lambda: {topic for topic, _ in aggregator.heard} == set(OWN), PATIENCE)


def test_a_device_cannot_drive_another_off_under_its_client_name(scene: Scene) -> None:
    with scene.client(scene.fleet.path / "devices" / "a", "north-a") as a:
        with scene.client(scene.fleet.path / "devices" / "b", "north-a") as b:
            assert a.may_write(TOPICS.state("a"))
            assert b.may_write(TOPICS.state("b"))
        assert (a.lost, b.lost) == (0, 1)  # b by its own will


def test_only_clients_with_a_certificate_that_is_valid_for_clients_get_in(
    scene: Scene, tmp_path: Path
) -> None:
    subject = Subject("dunes", "north", "device", "c")
    with scene.client(scene.identity(subject, tmp_path / "ended", 1e-9)) as ended:
        assert not ended.accepted
    foreign = FleetFolder.create(tmp_path / "other", "dunes", "north").enrol("a")[0]
    with scene.client(foreign) as other:
        assert not other.accepted
    # The broker's own certificate: a host that is named like the aggregator does not become it.
    key = authority.new_key()
    server = authority.load(scene.fleet.path).issue_server(("aggregator",), key.public_key())
    with scene.client(write_identity(tmp_path / "server", server, key)[0].parent) as broker:
        assert not broker.accepted
    with scene.client(scene.identity(subject, tmp_path / "good", 1.0)) as good:
        assert good.accepted


def test_no_certificate_of_a_device_bears_the_aggregators_name(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(authority.EnrolmentError, match="no name for a certificate of role 'device'"):
        scene.identity(Subject("dunes", "north", "device", "aggregator"), tmp_path / "x", 1.0)
    with pytest.raises(authority.EnrolmentError, match="no name for a certificate of role 'aggregator'"):
        scene.identity(Subject("dunes", "north", "aggregator", "a"), tmp_path / "x", 1.0)


def test_a_revoked_device_gets_in_no_more_once_the_broker_was_told_to_reload(scene: Scene) -> None:
    scene.fleet.enrol("lost")
    with scene.device("lost") as before:
        assert before.accepted
        scene.fleet.revoke(["lost"])
        assert scene.broker.pid is not None
        os.kill(scene.broker.pid, signal.SIGHUP)
        # Looked up in its log, for a second client of this name that got in would drive the first one off.
        eventually("the broker reloads", lambda: "Reloading config" in scene.broker.log.read_text(), PATIENCE)
        with scene.device("lost") as after:
            assert not after.accepted
        # What docs/enrolment.md says: who is connected stays so until the broker is restarted.
        assert before.may_write(TOPICS.state("lost"))
    with scene.device("a") as a:
        assert a.accepted
