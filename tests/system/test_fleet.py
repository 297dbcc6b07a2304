"""A fleet of one inside a machine, as its packages bring it up: aggregator, agent, a broker with TLS and
client certificates; each in its own hardened unit."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.processes import eventually
from tests.system.agent import configure, goes_on, recording, status
from tests.system.machine import Machine
from tests.system.marks import full
from tests.system.packages import installed
from tests.system.roots import ROOT

FOLDER, NAME = "/var/lib/marram-cloud", "press-7"
OPERATOR = ("runuser", "-u", "marram-cloud", "--")
LEARNING = {"store": {"commit_every": 1}, "governor": {"max_cpu": 100, "min_free_memory": 0}}
ROUNDS = {"minimum_devices": 1, "deadline": "20s", "every": "1s", "epochs": 1}


@pytest.fixture
def cloud(release: int, boot: Callable[[Path], Machine]) -> Machine:
    """The steps of docs/operating.md, by hand of the operator."""
    machine = boot(installed(release, "marram", "marram-aggregator"))
    fleet = f"{FOLDER}/fleet"
    machine.file(FOLDER).mkdir()
    machine.run("chown", "marram-cloud:", FOLDER)
    machine.run(*OPERATOR, "marram-cloud", "init", fleet, "--fleet", "plant", "--broker", "localhost")
    machine.run("cp", "-r", f"{fleet}/broker", "/etc/mosquitto/marram")
    machine.run("chown", "-R", "mosquitto", "/etc/mosquitto/marram")
    machine.run("mv", "/etc/mosquitto/marram/marram.conf", "/etc/mosquitto/conf.d/")
    machine.run("systemctl", "unmask", "mosquitto")
    machine.run("systemctl", "start", "mosquitto")
    bundle = machine.put(ROOT / "examples/shoulder/shoulder.marram", "/etc/marram-cloud/shoulder.marram")
    aggregator = {
        "bundle": bundle,
        "state": f"{FOLDER}/state",
        "broker": {"url": "mqtts://localhost:8883", "identity": f"{fleet}/aggregator"},
        "crl": f"{fleet}/ca.crl",
        "rounds": ROUNDS,
    }
    machine.file("/etc/marram-cloud/aggregator.yaml").write_text(yaml.safe_dump(aggregator))
    machine.run(*OPERATOR, "marram-cloud", "enrol", fleet, NAME, "-c", "/etc/marram-cloud/aggregator.yaml")
    shutil.copytree(machine.file(f"{fleet}/devices/{NAME}"), machine.file("/var/lib/marram/identity"))
    machine.run("chown", "-R", "marram:", "/var/lib/marram")
    machine.run("systemctl", "start", "marram-aggregator")
    return machine


@full
def test_a_device_enrols_by_itself_with_a_token(cloud: Machine) -> None:
    cloud.run("systemctl", "enable", "--now", "marram-enrolment")
    assert cloud.active("marram-enrolment.service")
    token = cloud.run(
        *OPERATOR, "marram-cloud", "enrolment", "token", f"{FOLDER}/fleet", "--device", "press-8"
    ).strip()
    enrol = ["marram", "enrol", "--url", "https://localhost:8443", "--token", "-", "--name", "press-8"]
    identity = "/var/lib/marram/press-8"
    said = cloud.run("runuser", "-u", "marram", "--", *enrol, "--identity", identity, text=f"{token}\n")
    assert "press-8: enrolled in fleet 'plant'" in said
    device = {"identity": identity, "broker": "mqtts://localhost:8883"}
    configure(cloud, recording(cloud, 100, learning=LEARNING, cloud=device))
    eventually("a round is closed with the device's delta", lambda: closed(cloud) >= 1)
    for unit in ("marram-aggregator.service", "marram-enrolment.service"):
        seen = cloud.run("systemd-analyze", "security", unit)
        assert float(re.search(r"exposure level for .*?: ([0-9.]+)", seen)[1]) <= 1.5, seen[-200:]


def closed(machine: Machine) -> int:
    """Rounds that the aggregator has closed."""
    shown = json.loads(
        machine.run(
            *OPERATOR,
            "marram-cloud",
            "rounds",
            "--json",
            "--last",
            "1000",
            "-c",
            "/etc/marram-cloud/aggregator.yaml",
        )
    )
    return sum(one["closed"] is not None for one in shown["rounds"])


@full
def test_rounds_run_over_tls_and_go_on_after_the_broker_was_away(cloud: Machine) -> None:
    device = {"identity": "/var/lib/marram/identity", "broker": "mqtts://localhost:8883"}
    configure(cloud, recording(cloud, 100, learning=LEARNING, cloud=device))
    eventually("a round is closed with the device's delta", lambda: closed(cloud) >= 1)
    assert status(cloud)["rounds"]["deltas"] >= 1
    for unit in ("marram", "marram-aggregator", "mosquitto"):
        assert cloud.active(f"{unit}.service")
    cloud.run("systemctl", "stop", "mosquitto")
    eventually("the agent notices", lambda: not status(cloud)["link"]["connected"])
    goes_on(cloud, 100)
    assert cloud.run("systemctl", "restart", "marram") == "", "it is READY without its broker"
    goes_on(cloud, 100)
    before = closed(cloud)
    cloud.run("systemctl", "start", "mosquitto")
    eventually("rounds go on", lambda: closed(cloud) > before)
    cloud.kill("marram-aggregator.service")
    before = closed(cloud)
    eventually("rounds go on after the aggregator was killed", lambda: closed(cloud) > before)
    assert cloud.restarts("marram-aggregator.service") == 1
