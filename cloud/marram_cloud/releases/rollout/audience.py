"""Whom a release is promoted to, as operators write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from marram.config.values import read_duration
from marram.errors import MarramError
from marram.wire.rollout import Plan

_PERCENT = re.compile(r"(\d{1,3}(?:\.\d+)?)%")


class RolloutError(MarramError):
    """The roll-out cannot be changed as asked; it is left as it was."""


@dataclass(frozen=True)
class Audience:
    """A part of all devices (0 to 1), the devices of a group, or one device."""

    share: float = 0.0
    group: str = ""
    device: str = ""

    @staticmethod
    def parse(text: str) -> Audience:
        """``5%``, ``all``, ``group:NAME`` or ``device:NAME``. Raises RolloutError."""
        if text == "all":
            return Audience(share=1.0)
        percent = _PERCENT.fullmatch(text)
        if percent and 0 < float(percent[1]) <= 100:
            return Audience(share=float(percent[1]) / 100)
        kind, _, name = text.partition(":")
        if name and kind == "group":
            return Audience(group=name)
        if name and kind == "device":
            return Audience(device=name)
        raise RolloutError(
            f"{text!r} names no devices: expected 5% (or so), all, group:NAME (a tag) or device:NAME"
        )


def read_soak(text: str) -> int:
    """Whole seconds out of ``1h`` and so on. Raises RolloutError."""
    try:
        return round(read_duration(text))
    except ValueError as error:
        raise RolloutError(f"{text!r} is no duration: expected such as 30m, 1h or 2d") from error


def describe(plan: Plan) -> str:
    """A plan's devices, for people."""
    share = [] if not plan.share else ["all" if plan.share == 1 else f"{plan.share * 100:g}%"]
    groups = [f"group:{name}" for name in plan.groups]
    devices = [f"device:{name}" for name in plan.devices]
    return ", ".join((*share, *groups, *devices)) or "nobody"
