"""onnxruntime's telemetry: no file and no connection of it, in any process of a fleet at work.

Its Linux wheels from 1.29 on send telemetry by default, and keep a device's id in the home folder.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.configs import SHOULDER_BUNDLE
from tests.support.connections import Recorder
from tests.support.fleet import Fleet
from tests.support.mosquitto import Mosquitto

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
RUN = """
import sys, zipfile
{first}
import onnxruntime
onnxruntime.InferenceSession(zipfile.ZipFile(sys.argv[1]).read("infer.onnx"))
"""
# Where one of these is set it keeps its telemetry off by itself, and there would be nothing to find.
BUILD_SERVERS = (
    "CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL",
    "CODEBUILD_BUILD_ID", "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER",
)  # fmt: skip
CONNECT = "import socket; s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.1', 9))"


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Every process that the test starts is recorded, and is told nothing of telemetry."""
    one = Recorder(tmp_path)
    for name in ("ORT_DISABLE_TELEMETRY", *BUILD_SERVERS):
        monkeypatch.delenv(name, raising=False)
    for name, value in one.environment.items():
        monkeypatch.setenv(name, value)
    return one


def python(code: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, timeout=60)


def test_the_recorder_sees_files_and_connections_where_there_are_some(recorder: Recorder) -> None:
    python(CONNECT)
    assert recorder.addresses() == {"192.0.2.1"}
    python(RUN.format(first=""), SHOULDER_BUNDLE)
    # What the next test would find if the telemetry were on anywhere.
    assert any("onnxruntime" in str(path) for path in recorder.files()), recorder.files()


def test_importing_marram_first_is_enough(recorder: Recorder) -> None:
    python(RUN.format(first="import marram"), SHOULDER_BUNDLE)
    assert (recorder.files(), recorder.addresses()) == ([], set())


def test_a_fleet_that_trains_releases_and_is_examined_leaves_nothing_and_calls_nobody(
    tmp_path: Path, recorder: Recorder
) -> None:
    quick = {"releases": {"spread": "0s", "trial": {"windows": 20, "confirm": 20, "agreement": 0}}}
    rounds = {"minimum_devices": 1}
    with Mosquitto(tmp_path / "mosquitto") as broker, Fleet(tmp_path, broker.url, 1, rounds, quick) as fleet:
        device = fleet.devices[0]
        sensor = {**device.settings["sensors"][0], "speed": 40, "repeat": True}
        device.write(sensors=[sensor])
        fleet.start().closed(1)  # training in a child
        version = fleet.release()  # quantised by the cloud, fetched, tried twice and run by the device
        device.until("the release", lambda status: status["model"]["release"] == version, 90)
        for command in (["doctor"], ["check"], ["status"]):
            subprocess.run(
                [sys.executable, "-m", "marram.cli", *command, "-c", str(device.config)],
                timeout=60, check=False, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        assert device.process.stop() == 0
    assert recorder.files() == []
    assert recorder.addresses() <= LOOPBACK
    assert recorder.addresses()  # the broker's, at least
