"""Two places on the device for released bundles, and the word which of them inference runs.

A bundle is written whole into the slot that is not in use; then ``current.json`` is replaced. A power cut
leaves the old release or the new one. When a slot's file does not have its digest any more (a bad card), the
configured bundle runs instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from marram import __version__
from marram.bundle.file import Bundle, parse, read
from marram.errors import BundleError, StorageError
from marram.storage import replace_file

Slot = Literal["a", "b"]

log = logging.getLogger(__name__)


class Current(msgspec.Struct, frozen=True):
    """``current.json``. configured: digest of the bundle in the YAML when this release was installed."""

    slot: Slot
    version: str
    sequence: int
    digest: str
    configured: str


class Refused(msgspec.Struct, frozen=True):
    """``refused.json``: a release that may not run here. digest: of its bundle, hex.

    agent, configured: the agent's version and the digest of the YAML's bundle when it was judged; under
    others it is judged again.
    """

    digest: str
    reason: str
    agent: str
    configured: str


@dataclass
class Slots:
    """The slots below ``folder``; ``configured`` is the bundle that the YAML names."""

    folder: Path
    configured: Bundle

    def current(self) -> Current | None:
        """The installed release; None when inference runs the configured bundle."""
        current = self._word()
        # Another bundle in the YAML is the operator's word and goes before older releases.
        return current if current is not None and current.configured == self.configured.digest else None

    @property
    def sequence(self) -> int:
        """Of the newest release that was ever installed here, -1 before the first.

        It outlasts a new bundle in the YAML, so that the releases before that are not taken for news.
        """
        current = self._word()
        return -1 if current is None else current.sequence

    def bundle(self) -> tuple[Bundle, Path]:
        """The bundle that inference is to run, and its file."""
        current = self.current()
        if current is not None:
            path = self._file(current.slot)
            try:
                bundle = read(path)
                if bundle.digest == current.digest:
                    return bundle, path
                log.error("%s is not the release that was installed; the configured bundle runs", path)
            except BundleError as error:
                log.error("%s; the configured bundle runs", error)
        return self.configured, Path(self.configured.source)

    def write(self, content: bytes) -> tuple[Slot, Bundle]:
        """Write a checked bundle into the slot that is not in use: (slot, bundle); it is not current yet.

        Raises StorageError, BundleError.
        """
        current = self.current()
        slot: Slot = "b" if current is not None and current.slot == "a" else "a"
        path = self._file(slot)
        bundle = parse(content, str(path))
        replace_file(path, content)
        return slot, bundle

    def make_current(self, slot: Slot, bundle: Bundle, version: str, sequence: int) -> None:
        """Have the bundle that was written run from now on, also after a restart. Raises StorageError."""
        word = Current(slot, version, sequence, bundle.digest, self.configured.digest)
        replace_file(self.folder / "current.json", msgspec.json.encode(word))

    def refuse(self, digest: str, reason: str) -> None:
        """Remember over a restart that this bundle may not run here; only the last one is kept."""
        word = Refused(digest, reason, __version__, self.configured.digest)
        try:
            replace_file(self.folder / "refused.json", msgspec.json.encode(word))
        except StorageError as error:
            log.error("the refusal will be forgotten at the next start: %s", error)

    def refusal(self, digest: str) -> str | None:
        """Why this bundle was refused before, or None."""
        try:
            word = msgspec.json.decode((self.folder / "refused.json").read_bytes(), type=Refused)
        except (OSError, msgspec.MsgspecError):
            return None
        judged = Refused(digest, word.reason, __version__, self.configured.digest)
        return word.reason if word == judged else None

    def _word(self) -> Current | None:
        try:
            return msgspec.json.decode((self.folder / "current.json").read_bytes(), type=Current)
        except (OSError, msgspec.MsgspecError):
            return None

    def _file(self, slot: Slot) -> Path:
        return self.folder / f"{slot}.marram"
