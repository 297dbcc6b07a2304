"""The broker as it is met in the field: behind TLS, gone, restarted, small, silent."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from tests.support.fleet import Device, Fleet
from tests.support.mosquitto import Client, Mosquitto, free_port
from tests.support.processes import NotifySocket, eventually
from tests.support.proxy import Proxy
from tests.support.sampled import drawn


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mosquitto, Fleet]]:
    """A fleet whose broker asks for client certificates, with the files that ``marram-cloud init`` made."""
    folder = tmp_path_factory.mktemp("secured")
    files = folder / "fleet" / "broker"
    port = free_port()
    with Fleet(folder, f"mqtts://localhost:{port}", host="localhost") as fleet:
        listener = (
            f"cafile {files / 'ca.crt'}",
            f"certfile {files / 'server.crt'}",
            f"keyfile {files / 'server.key'}",
            "require_certificate true",
            "use_identity_as_username true",
        )
        with Mosquitto(folder / "mosquitto", listener=listener, port=port) as broker:
            fleet.start()
            yield broker, fleet


def test_a_fleet_learns_over_tls_with_client_certificates(secured: tuple[Mosquitto, Fleet]) -> None:
    _, fleet = secured
    fleet.goes_on(2)
    fleet.aggregator.counted_once()
    assert fleet.aggregator.refused() == {}


def test_the_broker_knows_a_device_by_the_name_in_its_certificate(secured: tuple[Mosquitto, Fleet]) -> None:
    broker, _ = secured
    eventually("a named client", lambda: "u'device-1'" in broker.log.read_text())


def arrives(device: Device) -> None:
    """A release is here and verified. Its trial needs windows, and the recordings have ended by now."""
    stages = ("verified", "preflighted", "trial", "committed")
    device.until("the release", lambda status: status["release"]["stage"] in stages)


def test_a_release_reaches_the_devices_over_tls(secured: tuple[Mosquitto, Fleet]) -> None:
    _, fleet = secured
    fleet.closed(1)
    fleet.release()
    for device in fleet.devices:
        arrives(device)


def test_a_client_without_a_certificate_is_refused(secured: tuple[Mosquitto, Fleet]) -> None:
    broker, fleet = secured
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.tls_set_context(ssl.create_default_context(cafile=str(fleet.folder / "fleet" / "ca.crt")))
    connected: list[object] = []
    client.on_connect = lambda *_: connected.append(1)
    with pytest.raises(OSError, match=r"certificate required|EOF|reset"):
        client.connect("localhost", broker.port)
        while client.loop(1.0) == paho.MQTT_ERR_SUCCESS:
            pass
        raise ConnectionResetError("reset by the broker")
    assert connected == []


def test_a_device_does_not_talk_to_a_broker_of_another_authority(
    secured: tuple[Mosquitto, Fleet], tmp_path: Path
) -> None:
    _, fleet = secured
    with Fleet(tmp_path, fleet.broker, devices=1) as stranger:
        device = stranger.devices[0]
        device.start()
        eventually("the reason in its log", lambda: device.process.said("CERTIFICATE_VERIFY_FAILED"))
        assert device.status()["link"]["connected"] is False


@pytest.mark.parametrize("persistence", drawn(["without", "with"], 1))
def test_a_broker_killed_in_mid_round_loses_nothing_with_or_without_persistence(
    tmp_path: Path, persistence: str
) -> None:
    rounds = {"epochs": 6, "limit": 4}
    with (
        Mosquitto(tmp_path / "mosquitto", persistence=persistence == "with") as broker,
        Fleet(tmp_path, broker.url, rounds=rounds) as fleet,
    ):
        fleet.start().closed(1)
        fleet.devices[0].until("a training", lambda status: status["training"]["running"])
        broker.kill()
        fleet.devices[0].until("a lost link", lambda status: not status["link"]["connected"])
        broker.start()
        # A round needs both devices, and no device trains a round twice: a lost delta would stop them all.
        fleet.closed(4)
        fleet.settled()
        fleet.aggregator.counted_once()
        assert len(fleet.aggregator.deltas()) == 8
        assert [device.status()["rounds"]["deltas"] for device in fleet.devices] == [4, 4]


def test_what_the_broker_forgot_is_there_for_a_device_that_comes_later(tmp_path: Path) -> None:
    rounds = {"every": "1s", "snapshot_every": 100}
    with Mosquitto(tmp_path / "mosquitto") as broker, Fleet(tmp_path, broker.url, 3, rounds) as fleet:
        late = fleet.devices.pop()
        fleet.start().closed(2)
        broker.kill()
        broker.start()
        fleet.devices.append(late)
        late.start()
        # Its way to the parameters begins with the snapshot of version 0, which the broker had lost.
        late.until("its part in a round", lambda status: status["rounds"]["deltas"] > 0)


def test_a_device_boots_without_network_and_joins_when_the_broker_appears(tmp_path: Path) -> None:
    port = free_port()
    with Fleet(tmp_path, f"mqtt://127.0.0.1:{port}", devices=1, rounds={"minimum_devices": 1}) as fleet:
        device = fleet.devices[0]
        with NotifySocket(tmp_path / "notify") as systemd:
            device.start(systemd)
            eventually("READY", lambda: systemd.said("READY=1"))
            device.has_windows()
            assert device.status()["link"]["connected"] is False
            assert device.status()["windows"]["predicted"] > 0
            fleet.aggregator.start()
            with Mosquitto(tmp_path / "mosquitto", port=port):
                device.until("its part in a round", lambda status: status["rounds"]["deltas"] > 0)
                fleet.closed(1)
                assert device.process.stop() == 0
            eventually("STOPPING", lambda: systemd.said("STOPPING=1"))


def test_parts_shrink_to_what_the_broker_takes(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "mosquitto", lines=("max_packet_size 8192",)) as broker,
        Client(broker, "marram/#") as client,
        Fleet(tmp_path, broker.url, rounds={"chain": "float32"}) as fleet,
    ):
        fleet.start().closed(2)
        fleet.release()
        for device in fleet.devices:
            arrives(device)
        fleet.aggregator.counted_once()
        assert max(len(payload) for _, payload, _ in client.messages) <= 8192
        # Parameters of 9,751 float32 and deltas of as many go in several parts.
        for what in ("/parameters/0/snapshot/4", "/up/delta", "/down/block"):
            assert any(what in topic for topic, _, _ in client.messages), what


def test_a_broker_that_takes_less_than_a_message_needs_is_named_in_the_log(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "mosquitto", lines=("max_packet_size 1024",)) as broker,
        Fleet(tmp_path, broker.url, devices=1) as fleet,
    ):
        device = fleet.devices[0]
        device.start()
        eventually("the reason in its log", lambda: device.process.said("packets of at most 1024 bytes"))


def test_a_quiet_connection_carries_nothing_but_signs_of_life(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Proxy(broker.port) as proxy,
        Fleet(tmp_path, proxy.url, 1, device={"cloud": {"keepalive": "1s"}}) as fleet,
    ):
        device = fleet.devices[0]
        device.start()
        device.has_windows()
        eventually("a sign of life", lambda: "PINGRESP" in proxy.connections[0].down.packets())
        connection = proxy.connections[0]
        up, down = len(connection.up.data), len(connection.down.data)
        before = connection.up.packets()
        eventually("six signs of life", lambda: len(connection.up.packets()) >= len(before) + 6)
        assert set(connection.up.packets()[len(before) :]) == {"PINGREQ"}
        # Two bytes a sign of life each way: at one a minute 5.8 kB a day.
        assert set(connection.up.data[up:]) == {0xC0, 0}
        assert set(connection.down.data[down:]) <= {0xD0, 0}
        assert len(proxy.connections) == 1
