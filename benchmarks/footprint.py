"""What an agent costs a machine: memory, idle processor and traffic, time to READY; what training costs."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.processes import cpu_seconds, pss
from benchmarks.report import Figure, Result, at_most
from tests.support.fleet import Device, Fleet
from tests.support.mosquitto import Mosquitto
from tests.support.processes import NotifySocket, eventually
from tests.support.proxy import Proxy

_STARTS = 5
_IDLE_SECONDS = 60.0
_KEEPALIVE = 60
_DAY = 86400
_MIB = float(1 << 20)


def measure() -> Result:
    with tempfile.TemporaryDirectory() as name, Mosquitto(Path(name)) as broker, Proxy(broker.port) as proxy:
        folder = Path(name)
        # An idle device: its model is loaded, its link is up, its sensor has nothing to say.
        axes = ["ax", "ay", "az", "wx", "wy", "wz"]
        silent = {"type": "mqtt", "name": "watch", "broker": broker.url, "topic": "nothing", "channels": axes}
        with Fleet(folder, proxy.url, devices=2) as fleet:
            device, trainer = fleet.devices
            device.write(sensors=[silent])
            ready = statistics.median(_seconds_to_ready(device, folder / f"n{n}") for n in range(_STARTS))
            device.start()
            device.until("a link", lambda status: status["link"]["connected"])
            time.sleep(5)
            memory, processor = pss(device.process.pid), _idle_processor(device.process.pid)
            up, down = _traffic(proxy)
            peak = _trainer_peak(fleet, trainer)
    return Result(
        "Footprint of an agent",
        "python -m benchmarks footprint",
        "A real `marram run` with the demo's model, a sensor that is silent and a link to Mosquitto. PSS is "
        f"read with nothing else of Marram running. Idle over {_IDLE_SECONDS:.0f} s. Traffic: MQTT "
        f"bytes that a proxy counted at rest, keep-alive {_KEEPALIVE} s, made up to a day (TCP and IP headers come on "
        "top). The trainer's PSS is what it says of itself when its training is done.",
        (
            at_most("idle daemon, PSS", memory / _MIB, 75, " MiB"),
            Figure("trainer child, PSS at its end", f"{peak / _MIB:.1f} MiB"),
            at_most("start to READY, median", ready, 1, " s"),
            at_most("idle processor, of one core", processor * 100, 0.3, " %"),
            at_most("idle traffic a day, both ways", (up + down) / 1000, 10, " kB"),
        ),
    )


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


def _idle_processor(pid: int) -> float:
    """Share of one core over a minute."""
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began)


def _traffic(proxy: Proxy) -> tuple[float, float]:
    """MQTT bytes a day (up, down), from what passes in two keep-alive periods at rest."""
    flows = [(connection.up, connection.down) for connection in proxy.connections]
    before = [(len(up.data), len(down.data)) for up, down in flows]
    time.sleep(2 * _KEEPALIVE)
    day = _DAY / (2 * _KEEPALIVE)
    up = sum(len(flow[0].data) - was[0] for flow, was in zip(flows, before, strict=True))
    down = sum(len(flow[1].data) - was[1] for flow, was in zip(flows, before, strict=True))
    return up * day, down * day


def _trainer_peak(fleet: Fleet, device: Device) -> float:
    device.start()
    device.has_windows()
    fleet.aggregator.write(rounds={"minimum_devices": 1})
    fleet.aggregator.start()
    eventually("a training", lambda: device.status()["training"]["last"] is not None)
    return float(device.status()["training"]["last"]["pss"])
