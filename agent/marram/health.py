"""Between the daemon's parts and the watch: what they see of degraded modes, and what they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marram.assembly import Parts
    from marram.device.watch import Orders

_RARELY = 20.0  # times learning.store.commit_every, when too much was written today


def observed(parts: Parts, clock_behind: bool, damaged: str) -> dict[str, str]:
    """Reasons by name of the modes (``device.modes``) that the parts see now.

    damaged: why a copy of the configured bundle runs, "" when it is the bundle itself.
    """
    pipeline, found = parts.pipeline, {}
    # A release that runs has healed what was wrong with the configured bundle.
    broken = pipeline.broken or (damaged if parts.installation.machine.running is None else "")
    if broken:
        found["broken-model"] = broken
    if pipeline.store_error:
        found["disk-full"] = pipeline.store_error
    if clock_behind:
        found["no-clock"] = "the clock says less than what has surely passed"
    if parts.link is not None and not parts.link.connected:
        found["no-network"] = "no connection to the broker"
    if parts.sensor_errors:
        found["no-sensor"] = "; ".join(
            f"{name}: {error}" for name, error in sorted(dict(parts.sensor_errors).items())
        )
    return found


def obey(parts: Parts, orders: Orders) -> None:
    """Have the parts keep to the orders."""
    parts.pipeline.duty = orders.duty
    if parts.workshop is not None and parts.workshop.paused != orders.training:
        parts.workshop.pause(orders.training)
    if parts.pipeline.store is not None:
        parts.pipeline.store.paused = not orders.store
        parts.pipeline.store.stretch = _RARELY if orders.rarely else 1.0
