"""Two places on the device for releases, and how the file in one becomes a bundle.

A candidate is moved whole into the slot that the committed release does not use. A file is believed only
when its sha256 is that of the release that its keys signed: a bad card or another hand is seen at the start.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from marram.bundle.bare import BareBundle, wrap
from marram.bundle.file import MAX_BYTES, Bundle, parse
from marram.errors import BundleError, StorageError
from marram.releases.state import Slot
from marram.releases.talk import Candidate, Kind, Release
from marram.storage import sync_folder


@dataclass(frozen=True)
class Slots:
    """The slots below ``folder``; ``configured`` is the bundle that the YAML names."""

    folder: Path
    configured: Bundle

    def path(self, slot: Slot) -> Path:
        return self.folder / slot

    def load(self, release: Release, slot: Slot) -> Bundle:
        """The release in a slot. Raises BundleError when its file is not the one that was signed."""
        path = self.path(slot)
        content = _content(path)
        if hashlib.sha256(content).hexdigest() != release.sha256:
            raise BundleError(f"{path}: is not the file that was signed as {release.target}")
        return as_bundle(content, release.kind, release.target, release.version, self.configured)

    def place(self, spooled: Path, slot: Slot) -> None:
        """Move a verified file into a slot. Raises StorageError."""
        try:
            spooled.replace(self.path(slot))
            sync_folder(self.folder)
        except OSError as error:
            raise StorageError(f"{self.path(slot)}: cannot be written: {error.strerror}") from error


def as_bundle(content: bytes, kind: Kind, source: str, version: str, configured: Bundle) -> Bundle:
    """A release's file as what inference runs; a bare model file takes the YAML's description of its model.

    source: what errors call it. Raises BundleError.
    """
    bare = isinstance(configured, BareBundle)
    if kind == "marram":
        if bare:
            raise BundleError(
                f"{source}: is a bundle, but the YAML's model is a bare file; release a bare file"
            )
        return parse(content, source)
    if not isinstance(configured, BareBundle):
        raise BundleError(
            f"{source}: is a bare {kind} file, but the YAML's model is a bundle; release a bundle"
        )
    return wrap(content, kind, configured.description, source, version)


def read_bundle(candidate: Candidate, configured: Bundle) -> Bundle:
    """As ``as_bundle``, in a child."""
    content = _content(Path(candidate.file))
    return as_bundle(content, candidate.kind, candidate.name, candidate.version, configured)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BundleError(f"{path}: is larger than {MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
