"""What an agent costs a machine, at rest and at work: memory, processor, wake-ups, disk, network."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import psutil
from marram.bundle.manifest import Channel
from marram.programs.program import Tensor

from benchmarks import flower
from benchmarks.costs import Costs, observe
from benchmarks.report import Figure, Result, at_most
from tests.support import models
from tests.support.fleet import Device, Fleet
from tests.support.mosquitto import Mosquitto
from tests.support.processes import NotifySocket
from tests.support.proxy import Proxy

_STARTS = 5
_SECONDS = 60.0
_SETTLE = 10.0
_KEEPALIVE = 60
_DAY = 86400
_MIB = float(1 << 20)
_FAST = 25_600.0


def measure() -> Result:
    with tempfile.TemporaryDirectory() as name, Mosquitto(Path(name)) as broker, Proxy(broker.port) as proxy:
        folder = Path(name)
        with Fleet(folder, proxy.url, devices=2) as fleet:
            device, fast_device = fleet.devices
            # At rest: its model is loaded, its link is up, its sensor has nothing to say.
            axes = ["ax", "ay", "az", "wx", "wy", "wz"]
            silent = {
                "type": "mqtt",
                "name": "watch",
                "broker": broker.url,
                "topic": "nothing",
                "channels": axes,
            }
            watch = {**device.settings["sensors"][0], "speed": "realtime", "repeat": True}
            device.write(sensors=[silent])
            ready = statistics.median(_seconds_to_ready(device, folder / f"n{n}") for n in range(_STARTS))
            idle = _costs(device, proxy, {})
            day = _traffic(device, proxy)
            slow = _costs(device, proxy, {"sensors": [watch]})
            schedule = {"after": 1, "every": "1s", "epochs": 1_000_000}
            training = _costs(device, proxy, {"learning": {"schedule": schedule}}, "a training")
            fast = _costs(fast_device, proxy, _vibration(folder))
        rival_size = flower.installed()
        packed, unpacked = _package()
        with flower.node(folder) as node:
            time.sleep(_SETTLE)
            rival = observe(node.processes, _SECONDS, lambda: _sent(node.proxy))
    return Result(
        "Footprint of an agent",
        "python -m benchmarks footprint",
        "A real `marram run` with the demo's model and a link to Mosquitto, its children included; each "
        f"state for {_SECONDS:.0f} s after {_SETTLE:.0f} s to settle. At 50 Hz x 6 a recording is played "
        f"(a window a second); at {_FAST / 1000:g} kHz x 3 a CSV recording, its parsing included (20 "
        "windows of 2,560 samples a second, a model of one node: what is measured is the way there). "
        "That recording repeats after 10 s, and the sample store keeps a window once: real vibration fills "
        "its 64 MiB first (20 windows of 31 kB a second). "
        "While training a child trains without pause and the model runs at 50 Hz. PSS at the end; "
        "wake-ups are voluntary context switches of all threads; written is what the kernel sent to disk for "
        "these processes (predictions and the sample store); sent is MQTT that a proxy counted. Flower "
        f"{flower.VERSION}: a `flower-supernode` with its children, connected to a SuperLink over "
        "loopback without TLS, waiting, with no application; it neither reads sensors nor runs a model, "
        "so only the idle row compares. Telegraf is in neither Debian nor PyPI, so it is not here.",
        (
            at_most("idle daemon, PSS", idle.pss / _MIB, 75, " MiB"),
            at_most("start to READY, median", ready, 1, " s"),
            at_most("idle processor, of one core", idle.processor * 100, 0.3, " %"),
            at_most("idle traffic a day, both ways", day / 1000, 10, " kB"),
            Figure("idle", str(idle)),
            Figure("inferring, 50 Hz x 6 channels", str(slow)),
            Figure("inferring, 25.6 kHz x 3 channels", str(fast)),
            Figure("inferring at 50 Hz x 6 and training", str(training)),
            at_most("agent's package for Debian 12, amd64, packed", packed, 50, " MB"),
            at_most("the same, installed, with bytecode", unpacked, 140, " MB"),
            Figure("Flower node, idle", str(rival)),
            Figure("Flower node, its packages on disk", f"{rival_size / 1e6:.0f} MB"),
            at_most("PSS idle / Flower node's", idle.pss / rival.pss, 1),
            at_most("idle wake-ups / Flower node's", idle.wakeups / rival.wakeups, 1),
        ),
    )


def _costs(device: Device, proxy: Proxy, changes: dict[str, object], until: str = "") -> Costs:
    """Of the device with these changes. until: wait for "a training" first."""
    device.write(**changes)
    device.write(learning={"store": {"commit_every": "30s"}})  # as it is by default
    device.start()
    device.until("a link", lambda status: status["link"]["connected"])
    if until:
        device.until(until, lambda status: status["training"]["running"])
    time.sleep(_SETTLE)
    costs = observe(lambda: _family(device), _SECONDS, lambda: _sent(proxy))
    device.process.stop()
    return costs


def _package() -> tuple[float, float]:
    """(packed, installed) of the agent's package, MB, as ``make deb-size`` tells."""
    command = [sys.executable, "packaging/deb/build.py", "--package", "marram"]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    size = [sys.executable, "packaging/deb/size.py", built]
    told = subprocess.run(size, capture_output=True, text=True, check=True).stdout
    installed = re.search(r"^installed ([\d.]+) MB", told, re.MULTILINE)
    assert installed is not None, told
    return Path(built).stat().st_size / 1e6, float(installed[1])


def _family(device: Device) -> Sequence[int]:
    process = psutil.Process(device.process.pid)
    return [process.pid, *(child.pid for child in process.children(recursive=True))]


def _sent(proxy: Proxy) -> int:
    return sum(len(connection.up.data) for connection in proxy.connections)


def _vibration(folder: Path) -> dict[str, object]:
    """A device with three channels at 25.6 kHz: a recording of ten seconds, and a model of its shape."""
    axes = ("ax", "ay", "az")
    rows = np.random.default_rng(7).normal(size=(int(10 * _FAST), 3))
    recording, model = folder / "vibration.csv", folder / "vibration.marram"
    np.savetxt(recording, rows, fmt="%.4f", delimiter=",", header=",".join(axes), comments="")
    channels = tuple(Channel(axis) for axis in axes)
    shape = ("batch", 3, 2560)
    infer = msgspec.structs.replace(
        models.manifest().programs["infer"], inputs=(Tensor("x", "float32", shape),)
    )
    model.write_bytes(
        models.bundle(
            models.classifier(shape=shape),
            channels=channels, rate=_FAST, length=2560, stride=1280, programs={"infer": infer},
        )
    )  # fmt: skip
    sensor = {"type": "csv", "name": "bearing", "path": str(recording), "rate": _FAST, "repeat": True}
    return {"sensors": [sensor], "model": {"bundle": str(model)}}


def _seconds_to_ready(device: Device, path: Path) -> float:
    with NotifySocket(path) as notify:
        began = time.monotonic()
        device.process.start(NOTIFY_SOCKET=str(path))
        while not notify.said("READY=1"):
            assert device.process.running, device.process.tail()
            time.sleep(0.002)
        seconds = time.monotonic() - began
    device.process.stop()
    return seconds


def _traffic(device: Device, proxy: Proxy) -> float:
    """MQTT bytes a day, both ways, from what passes in two keep-alive periods at rest."""
    device.start()
    device.until("a link", lambda status: status["link"]["connected"])
    time.sleep(_SETTLE)
    flows = [flow for connection in proxy.connections for flow in (connection.up, connection.down)]
    before = sum(len(flow.data) for flow in flows)
    time.sleep(2 * _KEEPALIVE)
    passed = sum(len(flow.data) for flow in flows) - before
    device.process.stop()
    return passed * _DAY / (2 * _KEEPALIVE)
