"""A fleet as its owner runs it: real processes, real Mosquitto."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.support.fleet import TOPICS, Device, Fleet, read, run
from tests.support.mosquitto import Client, Mosquitto
from tests.support.processes import eventually


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto) -> Iterator[Fleet]:
    """A fleet in the middle of its work; each test leaves it so."""
    folder = tmp_path_factory.mktemp("fleet")
    with Fleet(folder, broker.url, devices=3, rounds={"every": "500ms"}) as running:
        running.start().closed(2)
        yield running


def test_every_delta_is_counted_once(fleet: Fleet) -> None:
    fleet.goes_on()
    fleet.aggregator.counted_once()
    assert fleet.aggregator.refused() == {}


def test_a_release_rests_on_the_ranges_that_devices_told(fleet: Fleet) -> None:
    """Measured in each trainer, signed with its delta, kept by the ledger, taken by the build."""
    aggregator = fleet.aggregator

    def told() -> bool:
        return aggregator.query("SELECT count(DISTINCT device) FROM ranges")[0][0] == 3

    eventually("every device has told its ranges", told)
    fleet.goes_on()
    aggregator.write(releases={"ranges": {"devices": 3}})
    output = aggregator.state.parent / "ranges.marram"
    text = fleet.must("release", "build", "-c", aggregator.config, "-o", output)
    assert "int8 rests on the ranges that 3 devices measured" in text
    assert aggregator.refused() == {}


def test_the_rounds_are_shown_as_text_and_as_json(fleet: Fleet) -> None:
    text = fleet.must("rounds", "-c", fleet.aggregator.config)
    assert "refused: nothing" in text
    report = json.loads(fleet.must("rounds", "--json", "-c", fleet.aggregator.config))
    first = report["rounds"][0]
    assert (first["round"], first["deltas"], first["counted"]) == (0, 3, 3)
    assert report["refused"] == {}


def test_the_status_of_a_device_is_shown_as_text_and_as_json(fleet: Fleet) -> None:
    device = fleet.devices[0]
    text = run("marram.cli", "status", "-c", device.config)
    assert text.returncode == 0
    for word in ("device-1", "shoulder 0", "predicted", "connected", "rounds"):
        assert word in text.stdout
    answer = json.loads(run("marram.cli", "status", "--json", "-c", device.config).stdout)
    windows = answer["windows"]
    assert answer["link"]["connected"] is True
    assert windows["received"] == windows["predicted"] > 0


def test_a_device_takes_other_settings_in_the_middle_of_its_rounds(fleet: Fleet) -> None:
    device = fleet.devices[0]
    pid = device.process.pid
    device.write(device={"tags": ["canary"]}, releases={"every": "2h"}, learning={"holdout": 0.3})
    done = run("marram.cli", "reload", "-c", device.config)
    assert done.stdout == "changed: device.tags, releases.every, learning.holdout\n", done.stderr
    device.write(cloud={"keepalive": "5s"})
    done = run("marram.cli", "reload", "-c", device.config)
    assert (done.returncode, done.stderr) == (1, "nothing was changed: cloud.keepalive needs a restart\n")
    device.write(cloud={"keepalive": "60s"})
    fleet.goes_on()
    fleet.aggregator.counted_once()
    assert device.process.pid == pid
    assert device.status()["link"]["connected"] is True


def test_a_label_reaches_the_stored_windows_of_its_time(fleet: Fleet) -> None:
    device = fleet.devices[0]
    last = device.predicted()[-1]
    span = ("--from", last["start"], "--to", last["end"])
    done = run("marram.cli", "label", "-c", device.config, "TRAP", *span)
    assert done.returncode == 0, done.stderr

    def labels() -> list[str]:
        rows = read(device.state / "windows.db", "SELECT label FROM windows WHERE start = ?", last["start"])
        return [row[0] for row in rows]

    scores = list(last["scores"])
    eventually("the label in the store", lambda: labels() == [scores.index("TRAP")])


def test_an_unknown_label_is_refused_with_those_that_are_known(fleet: Fleet) -> None:
    done = run("marram.cli", "label", "-c", fleet.devices[0].config, "JUMP")
    assert done.returncode == 1
    assert "JUMP" in done.stderr
    assert "TRAP" in done.stderr


def test_checking_the_configuration_of_a_living_device_disturbs_nothing(fleet: Fleet) -> None:
    device = fleet.devices[0]
    assert run("marram.cli", "check", "-c", device.config).stdout.strip().endswith("valid")
    assert device.answers()


def test_a_stopped_device_stores_all_ends_with_0_and_is_not_waited_for(
    fleet: Fleet, broker: Mosquitto
) -> None:
    device = fleet.devices[2]
    with Client(broker, TOPICS.state(device.name)) as client:
        client.wait_for(lambda messages: any(b'"online": true' in payload for _, payload, _ in messages))
        received = device.status()["windows"]["received"]
        assert device.process.stop() == 0
        client.wait_for(lambda messages: messages[-1][1] == b'{"online":false}')
    assert len(device.predicted()) == received
    # A round that waited for it would wait for its deadline, which is beyond the patience here.
    began = fleet.aggregator.closed()
    fleet.closed(began + 3)
    device.start()
    device.until("its part in a round", lambda status: status["rounds"]["deltas"] > 0)


def test_a_restarted_device_goes_on_with_its_parameters_and_round(fleet: Fleet) -> None:
    device = fleet.devices[1]
    fleet.goes_on(1)
    before = device.status()["rounds"]
    assert device.process.stop() == 0
    device.start()
    after = device.status()["rounds"]
    assert after["version"] >= before["version"] > 0
    assert after["done"] >= before["done"]


def test_a_revoked_device_is_refused_with_the_reason_and_the_others_go_on(fleet: Fleet) -> None:
    fleet.enrol("device-4")
    identity = fleet.folder / "fleet" / "devices" / "device-4"
    device = Device(fleet.folder / "device-4", "device-4", identity, fleet.broker, 4, {})
    try:
        device.start()
        device.has_windows()
        device.until("its part in a round", lambda status: status["rounds"]["deltas"] > 0)
        fleet.must("revoke", fleet.folder / "fleet", "device-4", "-c", fleet.aggregator.config)
        device.until("a refusal", lambda status: "revoked" in status["rounds"]["last_refusal"])
        assert fleet.aggregator.refused()["revoked"] >= 1
        assert "REVOKED" in fleet.must("devices", "-c", fleet.aggregator.config)
        began = fleet.aggregator.closed()
        fleet.closed(began + 3)
        fleet.aggregator.counted_once()
    finally:
        device.process.kill()


def test_the_aggregator_ends_with_0_and_goes_on_after_its_restart(fleet: Fleet) -> None:
    assert fleet.aggregator.process.stop() == 0
    fleet.aggregator.start()
    fleet.goes_on(2)
    fleet.aggregator.counted_once()


def test_a_device_without_learning_is_not_waited_for(fleet: Fleet) -> None:
    fleet.enrol("device-5")
    identity = fleet.folder / "fleet" / "devices" / "device-5"
    device = Device(fleet.folder / "device-5", "device-5", identity, fleet.broker, 5, {"learning": None})
    try:
        device.start()
        eventually("a connection", lambda: device.status()["link"]["connected"])
        time.sleep(0.5)
        began = fleet.aggregator.closed()
        fleet.closed(began + 3)
    finally:
        device.process.kill()
