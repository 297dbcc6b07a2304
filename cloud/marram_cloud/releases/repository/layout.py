"""The repository's files: where they are, how they are read and written, and its lock.

``metadata/`` and ``targets/`` are served to devices. ``staged/`` holds metadata that is not published yet,
perhaps with signatures still missing. What is published is what ``timestamp.json`` leads to: a file that was
written before a crash and that nothing names yet is written again.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from marram.storage import replace_file
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from marram_cloud.releases.repository.errors import RepositoryError

ROOT, TARGETS, SNAPSHOT, TIMESTAMP, ROLLOUT = "root", "targets", "snapshot", "timestamp", "rollout"
_PATIENCE, _LOOK = 30.0, 0.02
_KINDS: dict[str, type[Signed]] = {ROOT: Root, SNAPSHOT: Snapshot, TIMESTAMP: Timestamp}

AnyMetadata: TypeAlias = Metadata[Any]
Kind = TypeVar("Kind", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class State:
    """What is published. roles: "targets", "rollout" and one a model."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    roles: Mapping[str, Metadata[Targets]]

    @property
    def models(self) -> list[str]:
        """Names, sorted."""
        return sorted(name for name in self.roles if name not in (TARGETS, ROLLOUT))


@dataclass(frozen=True)
class Layout:
    """A repository's folder."""

    path: Path

    @property
    def timestamp(self) -> Path:
        return self.path / "metadata" / "timestamp.json"

    def metadata(self, role: str, version: int) -> Path:
        return self.path / "metadata" / f"{version}.{role}.json"

    def target(self, file: TargetFile) -> Path:
        """Where a target is served: its sha256 before its base name (consistent snapshots)."""
        folder, _, name = file.path.rpartition("/")
        return self.path / "targets" / folder / f"{file.hashes['sha256']}.{name}"

    def staged(self, role: str) -> Path:
        return self.path / "staged" / f"{role}.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that changes the repository. Raises RepositoryError when another stays in."""
        if not self.path.is_dir():
            raise RepositoryError(f"{self.path}: is no repository; `marram-cloud release init` makes one")
        try:
            file = (self.path / "lock").open("ab")
        except OSError as error:
            raise RepositoryError(f"{self.path / 'lock'}: cannot be written: {error.strerror}") from error
        with file:
            until = time.monotonic() + _PATIENCE
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise RepositoryError(
                            f"{self.path}: another process has been changing it for {_PATIENCE:.0f} s"
                        ) from None
                time.sleep(_LOOK)
            yield

    def load(self) -> State:
        """What is published. Raises RepositoryError: there is nothing, or a file is damaged."""
        if not self.timestamp.exists():
            raise RepositoryError(
                f"{self.path}: holds no published metadata; `marram-cloud release init` makes a repository "
                "(remove the folder first if one was begun there)"
            )
        timestamp = _read(self.timestamp, Timestamp)
        named = timestamp.signed.snapshot_meta
        snapshot = _read(self.metadata(SNAPSHOT, named.version), Snapshot, named)
        roles = {
            file.removesuffix(".json"): _read(
                self.metadata(file.removesuffix(".json"), meta.version), Targets, meta
            )
            for file, meta in snapshot.signed.meta.items()
        }
        version = 1
        while self.metadata(ROOT, version + 1).exists():
            version += 1
        return State(_read(self.metadata(ROOT, version), Root), timestamp, snapshot, roles)

    def load_staged(self) -> dict[str, AnyMetadata]:
        """By role: what waits to be published."""
        return {
            path.stem: _read(path, _KINDS.get(path.stem, Targets))
            for path in sorted((self.path / "staged").glob("[!.]*.json"))
        }

    def read_target(self, file: TargetFile) -> bytes:
        """Raises RepositoryError when it is missing or damaged."""
        path = self.target(file)
        try:
            content = path.read_bytes()
            file.verify_length_and_hashes(content)
        except OSError as error:
            raise RepositoryError(f"{path}: {error.strerror}; bring it back from a copy") from error
        except LengthOrHashMismatchError as error:
            raise RepositoryError(f"{path}: is damaged; bring it back from a copy") from error
        return content

    def write_target(self, file: TargetFile, content: bytes) -> None:
        replace_file(self.target(file), content)

    def stage(self, role: str, metadata: AnyMetadata) -> None:
        replace_file(self.staged(role), encode(metadata))

    def discard(self, role: str) -> None:
        """Forget what is staged for a role."""
        self.staged(role).unlink(missing_ok=True)

    def write(self, path: Path, content: bytes) -> None:
        """Publish one file."""
        replace_file(path, content)


def encode(metadata: AnyMetadata) -> bytes:
    """As it is written and served."""
    return metadata.to_bytes(JSONSerializer(compact=True))


def copy(metadata: Metadata[Kind]) -> Metadata[Kind]:
    """To be changed without changing the original."""
    return Metadata.from_bytes(encode(metadata))


def _read(path: Path, kind: type[Kind], meta: object = None) -> Metadata[Kind]:
    try:
        content = path.read_bytes()
        if meta is not None:
            meta.verify_length_and_hashes(content)  # type: ignore[attr-defined]
        found = Metadata.from_bytes(content)
    except OSError as error:
        raise RepositoryError(f"{path}: {error.strerror}; bring it back from a copy") from error
    except (TufError, ValueError) as error:
        raise RepositoryError(f"{path}: is damaged ({error}); bring it back from a copy") from error
    if not isinstance(found.signed, kind):
        raise RepositoryError(f"{path}: holds {found.signed.type} metadata, expected {kind.type}")
    return found
