"""The MQTT topics of a region (at most seven slashes and 256 bytes, the tightest broker's limits).

``<root>`` is ``marram/<fleet>/<region>``. Who may write where is written in docs/protocol.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")


def check_name(kind: str, name: str) -> str:
    """A fleet, region, device or release name as it may stand in a topic and a certificate."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{kind} name {name!r} is not usable: 1 to 48 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics of one region."""

    fleet: str
    region: str

    @property
    def root(self) -> str:
        return f"marram/{self.fleet}/{self.region}"

    @property
    def round(self) -> str:
        """Retained; the aggregator's current offer."""
        return f"{self.root}/round"

    def parameters(self, version: int, kind: str, part: int) -> str:
        """Retained; one part of the sealed parameters of a version. kind: "snapshot" or "update"."""
        return f"{self.root}/parameters/{version}/{kind}/{part}"

    def state(self, device: str) -> str:
        """Retained, with a will; what a device says of itself."""
        return f"{self.root}/device/{device}/state"

    def report(self, device: str) -> str:
        """Retained; a device's sealed report, with its certificate."""
        return f"{self.root}/device/{device}/report"

    @property
    def timestamp(self) -> str:
        """Retained; the release repository's newest timestamp metadata: a hint that there is news."""
        return f"{self.root}/release/timestamp"

    @property
    def revoked(self) -> str:
        """Retained; the authority's list of revoked certificates (DER, RFC 5280)."""
        return f"{self.root}/revoked"

    def up(self, device: str, kind: str) -> str:
        """From a device: chunks of a message of that kind ("delta")."""
        return f"{self.root}/device/{device}/up/{kind}"

    def down(self, device: str, kind: str) -> str:
        """To a device: one sealed message ("receipt", "refusal")."""
        return f"{self.root}/device/{device}/down/{kind}"

    def aggregators(self) -> tuple[str, ...]:
        """Filters of all retained topics that only the aggregator may write."""
        return (self.round, self.revoked, f"{self.root}/parameters/#", f"{self.root}/release/#")

    def device_of(self, topic: str) -> str | None:
        """The device below whose topics ``topic`` stands, or None."""
        head = f"{self.root}/device/"
        if not topic.startswith(head):
            return None
        return topic[len(head) :].split("/", 1)[0] or None
