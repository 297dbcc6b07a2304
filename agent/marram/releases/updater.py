"""Releases over MQTT: fetch in parts that survive a restart, check, preflight in a child, swap.

The release message and its parts are retained by the broker, so that a release is published once for all
devices. Only a message signed by the fleet's release key is followed; the bundle must have the sha256 that
it names. Parts that together are another file are fetched again a few times. States: idle, fetching,
checking, installed, refused (with the reason).
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from marram.bundle.file import MAX_BYTES, Bundle
from marram.errors import BundleError, MarramError, ProgramError, StorageError, WireError
from marram.learning.shell import Link
from marram.loop import Loop
from marram.releases.preflight import preflight
from marram.releases.slots import Slots
from marram.storage import replace_file
from marram.wire import envelope, reasons
from marram.wire.certificates import PublicKey
from marram.wire.messages import Release
from marram.wire.signed import read
from marram.wire.topics import Topics

log = logging.getLogger(__name__)

_MAX_MESSAGE = 16 << 10
_MAX_PARTS = 1 << 16
_PATIENCE = 60.0
_FETCHES = 5


@dataclass
class Updater:
    """A member of the daemon's loop. swap: puts a loaded bundle in front of inference; raises MarramError.
    installed: called when a release has become the current one.

    memory: bytes that the preflight may take. spool: folder for parts on their way.
    """

    topics: Topics
    model: str
    release_key: PublicKey
    link: Link
    slots: Slots
    spool: Path
    memory: int
    loop: Loop
    swap: Callable[[Bundle], None]
    installed: Callable[[], None]
    state: str = "idle"
    wake_at: float | None = None
    _release: Release | None = None
    _topics: dict[str, int] = field(default_factory=dict)
    _seen: int = -1
    _fetches: int = 0

    def __post_init__(self) -> None:
        self._seen = self.slots.sequence

    def connected(self) -> None:
        """The link is up: ask for the newest release, and go on where a download stopped."""
        self.link.subscribe((self.topics.release(self.model),))
        if self._topics:
            self.link.subscribe(tuple(self._missing()))

    def arrived(self, topic: str, payload: bytes, now: float) -> bool:
        """Take a message; False when it is not one of a release."""
        if topic in self._topics:
            self._part(topic, payload, now)
        elif topic == self.topics.release(self.model):
            self._announced(topic, payload, now)
        else:
            return False
        return True

    def wake(self, now: float) -> None:
        """Parts did not come for a while: subscribing again makes the broker send them again."""
        missing = tuple(self._missing())
        self.wake_at = now + _PATIENCE if self._topics else None
        if missing:
            self.link.unsubscribe(missing)
            self.link.subscribe(missing)
        else:
            self._perhaps_check(now)

    def _announced(self, topic: str, payload: bytes, now: float) -> None:
        if not payload:
            return  # the release was taken off the broker; what runs goes on running
        try:
            sealed = envelope.parse(payload, _MAX_MESSAGE)
            if sealed.header.fleet != self.topics.fleet:
                raise WireError(reasons.WRONG_FLEET, f"signed for fleet {sealed.header.fleet!r}")
            envelope.verify(sealed, topic, self.release_key)
            release = read(sealed, Release)
            parts = -(-release.size // release.part_size)
            if release.model != self.model or release.size > MAX_BYTES or parts > _MAX_PARTS:
                text = f"a release of {release.model}, {release.size} bytes in {parts} parts"
                raise WireError(reasons.BAD_VALUES, text)
        except WireError as error:
            self.state = f"refused a release: {error.reason}"
            log.warning("refused a release: %s: %s", error.reason, error)
            return
        if release.sequence <= self._seen or release == self._release:
            return
        self._abandon()
        refusal = self.slots.refusal(release.digest.hex())
        if refusal is not None:
            self._seen = release.sequence
            self.state = f"refused {release.version}: {refusal}"
            log.warning("release %s was refused before: %s", release.version, refusal)
            return
        self._release, self._fetches = release, 1
        count = max(1, -(-release.size // release.part_size))
        digest = release.digest.hex()[:16]
        self._topics = {self.topics.release_part(self.model, digest, part): part for part in range(count)}
        folder = self._folder(release)
        for other in self.spool.glob("*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        self.state = f"fetching {release.version}"
        here = count - len(self._missing())
        log.info("release %s: %d bytes, %d of %d parts are here", release.version, release.size, here, count)
        self.wake_at = now + _PATIENCE
        self.link.subscribe(tuple(self._missing()))
        self._perhaps_check(now)

    def _part(self, topic: str, payload: bytes, now: float) -> None:
        release = self._release
        part = self._topics[topic]
        if release is None or len(payload) != min(release.part_size, release.size - part * release.part_size):
            return  # taken off the broker, or not a part of this release at all
        path = self._folder(release) / str(part)
        if not path.exists():
            replace_file(path, payload)
        self.wake_at = now + _PATIENCE
        self._perhaps_check(now)

    def _perhaps_check(self, now: float) -> None:
        release = self._release
        if release is None or not self._topics or self._missing():
            return
        folder = self._folder(release)
        content = b"".join((folder / str(part)).read_bytes() for part in range(len(self._topics)))
        candidate = self.spool / "candidate.marram"
        replace_file(candidate, content)
        self.link.unsubscribe(tuple(self._topics))
        if hashlib.sha256(content).digest() != release.digest:
            self._damaged(release, now)
            return
        self._topics, self.wake_at = {}, None
        self.state = f"checking {release.version}"
        _, running = self.slots.bundle()

        def check() -> None:
            reason = preflight(candidate, running, self.memory)
            self.loop.post(lambda now: self._checked(release, content, reason))

        threading.Thread(target=check, name="preflight", daemon=True).start()

    def _damaged(self, release: Release, now: float) -> None:
        """One of the parts is not what was signed, nobody can say which: fetch all of them again, later."""
        text = "the parts together are not the bundle that was signed"
        if self._fetches >= _FETCHES:
            self._refuse(release, f"{text}, {_FETCHES} times")
            return
        pause = _PATIENCE * 2 ** (self._fetches - 1)
        self._fetches += 1
        log.warning("release %s: %s; fetching them again in %.0f s", release.version, text, pause)
        self.state = f"fetching {release.version} again: {text}"
        shutil.rmtree(self.spool, ignore_errors=True)
        self.wake_at = now + pause

    def _checked(self, release: Release, content: bytes, reason: str) -> None:
        if release != self._release:
            return
        if reason:
            self._refuse(release, reason, for_good=True)
            return
        before, _ = self.slots.bundle()
        try:
            slot, bundle = self.slots.write(content)
            self.swap(bundle)
        except MarramError as error:
            self._refuse(release, str(error), for_good=isinstance(error, BundleError | ProgramError))
            return
        try:
            # Only what inference has loaded is what a restart begins with.
            self.slots.make_current(slot, bundle, release.version, release.sequence)
        except StorageError as error:
            self.swap(before)
            self._refuse(release, str(error))
            return
        self._seen, self._release = release.sequence, None
        self.state = f"installed {release.version}"
        self.installed()
        shutil.rmtree(self.spool, ignore_errors=True)

    def _refuse(self, release: Release, reason: str, for_good: bool = False) -> None:
        """for_good: because of the bundle itself, so that it need not be fetched again after a restart."""
        log.error("release %s is refused: %s", release.version, reason)
        if for_good:
            self.slots.refuse(release.digest.hex(), reason)
        self.state = f"refused {release.version}: {reason}"
        self._seen, self._release = release.sequence, None
        self._topics, self.wake_at = {}, None
        shutil.rmtree(self.spool, ignore_errors=True)

    def _abandon(self) -> None:
        if self._topics:
            self.link.unsubscribe(tuple(self._topics))
        self._topics, self._release = {}, None

    def _folder(self, release: Release) -> Path:
        return self.spool / release.digest.hex()[:16]

    def _missing(self) -> list[str]:
        release = self._release
        if release is None:
            return []
        folder = self._folder(release)
        return [topic for topic, part in self._topics.items() if not (folder / str(part)).exists()]
