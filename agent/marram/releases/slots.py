"""Two places on the device for released bundles, and the word which of them inference runs.

A bundle is written whole into the slot that is not in use; then ``current.json`` is replaced. A power cut
leaves the old release or the new one. When a slot's file does not have its digest any more (a bad card), the
configured bundle runs instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import msgspec

from marram.bundle.file import Bundle, parse, read
from marram.errors import BundleError
from marram.storage import replace_file

log = logging.getLogger(__name__)


class Current(msgspec.Struct, frozen=True):
    """``current.json``. configured: digest of the bundle in the YAML when this release was installed."""

    slot: str
    version: str
    sequence: int
    digest: str
    configured: str


@dataclass
class Slots:
    """The slots below ``folder``; ``configured`` is the bundle that the YAML names."""

    folder: Path
    configured: Bundle

    def current(self) -> Current | None:
        """The installed release; None when inference runs the configured bundle."""
        try:
            current = msgspec.json.decode((self.folder / "current.json").read_bytes(), type=Current)
        except (OSError, msgspec.MsgspecError):
            return None
        # Another bundle in the YAML is the operator's word and goes before older releases.
        return current if current.configured == self.configured.digest else None

    def bundle(self) -> tuple[Bundle, Path]:
        """The bundle that inference is to run, and its file."""
        current = self.current()
        if current is not None:
            path = self.folder / f"{current.slot}.marram"
            try:
                bundle = read(path)
                if bundle.digest == current.digest:
                    return bundle, path
                log.error("%s is not the release that was installed; the configured bundle runs", path)
            except BundleError as error:
                log.error("%s; the configured bundle runs", error)
        return self.configured, Path(self.configured.source)

    def install(self, content: bytes, version: str, sequence: int) -> Bundle:
        """Write a checked bundle and make it the current one. Raises StorageError, BundleError."""
        current = self.current()
        slot = "b" if current is not None and current.slot == "a" else "a"
        path = self.folder / f"{slot}.marram"
        bundle = parse(content, str(path))
        replace_file(path, content)
        word = Current(slot, version, sequence, bundle.digest, self.configured.digest)
        replace_file(self.folder / "current.json", msgspec.json.encode(word))
        return bundle
