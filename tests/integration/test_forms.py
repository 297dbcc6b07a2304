"""A model in two forms, from what the fleet has learnt to what runs: by real processes over a real broker."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
from marram.bundle.file import Bundle, encode, parse
from marram_cloud.litert.forms import FILE, TEMPLATE
from marram_cloud.litert.quantise import difference

from tests.integration.test_releases import confirmed, send_out
from tests.support.fleet import SHOULDER, Device, Fleet
from tests.support.mosquitto import Mosquitto
from tests.support.sampled import every_fourth_day
from tests.support.windows import bundle, shoulder_windows

_RUNTIMES = {"LiteRT": "tflite", "onnxruntime": "onnx"}
_FILES = {"tflite": FILE, "onnx": "infer.onnx"}
TEMPLATE_FILE = Path(__file__).parents[1] / "support" / "shoulder.template.tflite"


def with_template(folder: Path) -> Path:
    """The shoulder bundle as `workshop build --tflite` makes it, but for its own form for LiteRT."""
    source = bundle(SHOULDER / "shoulder.marram")
    made = folder / "shoulder.marram"
    made.write_bytes(encode(source.manifest, {**source.members, TEMPLATE: TEMPLATE_FILE.read_bytes()}))
    shutil.copy(SHOULDER / "calibration.npz", folder / "calibration.npz")
    return made


def damaged(release: Bundle, version: str, file: str) -> bytes:
    """The release again, with one file cut off."""
    members = {**release.members, file: release.members[file][:500]}
    return encode(msgspec.structs.replace(release.manifest, version=version), members)


def runtime(device: Device) -> tuple[str, str]:
    """(of what runs, why that one)."""
    model = device.status()["model"]
    return model["runtime"], model["why"]


@every_fourth_day(0)
def test_the_aggregator_releases_both_forms_and_the_device_runs_the_better(tmp_path: Path) -> None:
    made = with_template(tmp_path)
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Fleet(
            tmp_path, broker.url, devices=1, rounds={"limit": 1, "minimum_devices": 1}, bundle=made
        ) as fleet,
    ):
        (device,) = fleet.devices
        sensor = {**device.settings["sensors"][0], "speed": 100, "repeat": True}
        trial = {"windows": 10, "confirm": 10, "agreement": 0.0, "accuracy": 1.0, "stored": 20}
        device.write(sensors=[sensor], releases={"spread": "0s", "trial": trial})
        fleet.start()
        fleet.closed(1)
        version = fleet.release("--parameters", 1)
        release = parse((tmp_path / "built.marram").read_bytes())
        assert {"infer", "infer_tflite"} <= set(release.manifest.programs) and TEMPLATE not in release.members
        exact, windows = release.program("predict"), shoulder_windows(1).values[:50]
        learnt = release.parameters()
        assert not np.array_equal(learnt, bundle(made).parameters())
        far = difference(lambda x: exact(parameters=learnt, x=x), release.program("infer_tflite"), windows)
        assert far < 0.05

        confirmed(device, version)
        runs, why = runtime(device)
        first = re.match(r"measured here: (LiteRT|onnxruntime) \d+ us a window.*; (LiteRT|onnxruntime) ", why)
        assert first is not None and runs == _RUNTIMES[first[1]] and first[1] != first[2]

        # Of the same release with that form damaged, the other one runs.
        send_out(fleet, "9", damaged(release, "9", _FILES[runs]))
        confirmed(device, "9")
        other, why = runtime(device)
        assert other != runs and why.startswith(f"{first[1]}: ")
