"""How long a release takes to reach a simulated fleet."""

from __future__ import annotations

from marram_cloud.releases.rollout.audience import Audience
from marram_cloud.releases.rollout.document import Document

from tests.simulation.network import Weather
from tests.simulation.rollout import HOUR, NEW, OLD, Device, World

_DEVICES, _SHARE, _LONGEST = 1000, 0.99, 96 * HOUR
_SPREAD, _SOAK = 60.0, 600


class _AlwaysOn(World):
    """Devices that stay once they came."""

    def lives(self, device: Device) -> None:
        device.comes()


def seconds_to_all(seed: int, staged: bool, lossy: bool, sleeps: bool) -> float:
    """From the publication of a good release until 99 % of the devices run it.

    Devices have been there for hours. lossy: 30 % of the reports are lost, 30 % come twice, up to 5 min late.
    """
    kind = World if sleeps else _AlwaysOn
    world = kind(seed, failing=0.0, devices=_DEVICES, away=0.0)
    world.weather = Weather(0.3, 0.3, 300.0) if lossy else Weather(0.0, 0.0, 1.0)
    old = world.document = Document.empty("m").promoted(OLD, Audience.parse("all"), world.clock.now)
    world.run(3)
    began = world.clock.now
    if staged:
        world.document = old.promoted(NEW, Audience.parse("5%"), began, then=("25%", "all"), soak=_SOAK)
    else:
        world.document = old.promoted(NEW, Audience.parse("all"), began)
    for name in sorted(world.online):
        world.clock.at(world.after(0, _SPREAD), world.devices[name].looks)
    world.clock.run(began + _LONGEST, lambda: len(world.runs(NEW)) >= _SHARE * _DEVICES)
    return world.clock.now - began
