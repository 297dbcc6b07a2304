"""Which device should run which release: the signed document of a staged roll-out, and how it is read.

``rollout/<model>.json`` is a TUF target of its own, signed by the roll-out key (Uptane's director: what
there is and who should run it are signed by different keys). What it names must also be a target that the
model's offline keys signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Annotated

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One release and the devices that should run it: any of those named in any of the three ways.

    target: path of the TUF target, ``<model>/<version>.<kind>``. sha256: of its file. salt: of the hash that
    orders devices; a larger share holds all devices of a smaller one. share: part of all devices, 0 to 1.
    groups: tags of devices. devices: names. paused: no further device begins; who runs it goes on.
    """

    target: Name
    sha256: Sha256
    salt: str
    share: Share = 0.0
    groups: tuple[Name, ...] = ()
    devices: tuple[Name, ...] = ()
    paused: bool = False

    def includes(self, device: str, tags: Collection[str]) -> bool:
        """Whether this device is one of those that should run the release."""
        return (
            device in self.devices
            or not set(self.groups).isdisjoint(tags)
            or place(self.salt, device) < self.share
        )


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rollout/<model>.json``. plans: newest first. revoked: sha256 of files that may not run any more."""

    model: Name
    plans: tuple[Plan, ...] = ()
    revoked: tuple[Sha256, ...] = ()

    def assigned(self, device: str, tags: Collection[str], running: str) -> Plan | None:
        """The plan that this device should follow; None when the roll-out asks nothing of it.

        running: sha256 of the file that it runs. A paused plan counts for those that run it already, so
        that a pause never sends a device back.
        """
        for plan in self.plans:
            if plan.sha256 in self.revoked or not plan.includes(device, tags):
                continue
            if not plan.paused or plan.sha256 == running:
                return plan
        return None


def place(salt: str, device: str) -> float:
    """A device's place in the order of a roll-out, in [0, 1): the same on every machine, for ever."""
    digest = hashlib.sha256(f"{salt}\n{device}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)
