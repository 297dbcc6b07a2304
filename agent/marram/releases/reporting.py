"""The device's word to the cloud of what it runs, and how far it is with a release.

The report is retained at the broker and sealed once: a reconnect publishes the same bytes again, and writes
nothing to the disk.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from marram import __version__
from marram.errors import StorageError
from marram.learning.shell import Link
from marram.releases.installation import Installation
from marram.wire.messages import Report
from marram.wire.signed import Author

log = logging.getLogger(__name__)


@dataclass
class Reporter:
    """author: who signs; another one from the next report on, after a renewal."""

    topic: str
    model: str
    author: Author
    link: Link
    installation: Installation
    _connected: bool = False
    _sealed: bytes = b""

    def connected(self, now: float) -> None:
        """The link is up: say it, again if it was said before. now: Unix seconds."""
        self._connected = True
        if self._sealed:
            self._publish()
        else:
            self.tell(now)

    def disconnected(self) -> None:
        """The link is down."""
        self._connected = False

    def tell(self, now: float) -> None:
        """Seal what is so now, and publish it as soon as there is a link."""
        machine = self.installation.machine
        counter = max(machine.state.counter + 1, int(now * 1000))
        machine.state = msgspec.structs.replace(machine.state, counter=counter)
        try:
            self.installation.save()
        except StorageError as error:
            log.error("the state of releases could not be saved: %s", error)
        self._sealed = self.author.seal(self._report(), self.topic, counter, introduce=True)
        self._publish()

    def _report(self) -> Report:
        installation = self.installation
        running, configured = installation.machine.running, installation.slots.configured
        stage, target, reason, since = installation.machine.report()
        return Report(
            agent=__version__,
            model=self.model,
            running=running.release.target if running else "",
            version=running.release.version if running else configured.manifest.version,
            digest=bytes.fromhex(running.release.sha256 if running else configured.digest),
            stage=stage,
            candidate=target[:500],
            reason=reason[:500],
            since=since,
        )

    def _publish(self) -> None:
        if self._connected:
            self.link.publish(self.topic, self._sealed, retain=True)
