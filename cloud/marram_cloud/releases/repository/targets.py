"""What a model's role says of its releases, and the rule that a version is for ever.

A release that was taken out again leaves its digest and number behind in the role's metadata, so that neither
is ever given to other bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import msgspec
from marram.bundle.file import parse
from marram.wire import patch, pieces
from tuf.api.metadata import TargetFile, Targets

from marram_cloud.releases.repository.errors import RepositoryError

FileKind = Literal["marram", "onnx", "tflite"]
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_WITHDRAWN = "marram_withdrawn"
_WORTH = 0.9


class Custom(msgspec.Struct, frozen=True):
    """``custom`` of a release's target."""

    model: str
    version: str
    kind: str
    sequence: int


@dataclass(frozen=True)
class Release:
    """A release as its model's role names it. path: of its target."""

    path: str
    version: str
    kind: str
    sequence: int
    sha256: str
    size: int


def releases(targets: Targets) -> list[Release]:
    """Of one model, newest first."""
    found = []
    for path, file in targets.targets.items():
        if file.custom is not None:
            custom = msgspec.convert(file.custom, Custom)
            digest = file.hashes["sha256"]
            found.append(Release(path, custom.version, custom.kind, custom.sequence, digest, file.length))
    return sorted(found, key=lambda one: one.sequence, reverse=True)


def find(targets: Targets, model: str, version: str, kind: str | None) -> Release:
    """The release of this version. Raises RepositoryError when there is none, or more than one kind."""
    named = [one for one in releases(targets) if one.version == version and kind in (None, one.kind)]
    if not named:
        known = ", ".join(one.version for one in releases(targets)) or "none"
        raise RepositoryError(f"{model} {version} is not published; published: {known}")
    if len(named) > 1:
        kinds = ", ".join(one.kind for one in named)
        raise RepositoryError(f"{model} {version} is there as {kinds}: say which with --kind")
    return named[0]


def kind_of(path: Path) -> FileKind:
    """By the file's name. Raises RepositoryError."""
    suffix = path.suffix.removeprefix(".")
    if suffix in get_args(FileKind):
        return cast(FileKind, suffix)
    raise RepositoryError(f"{path}: expected a name that ends in .marram, .onnx or .tflite")


def read_file(path: Path) -> bytes:
    """A release's content. Raises RepositoryError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RepositoryError(f"{path}: cannot be read: {error.strerror}") from error


def target_files(
    model: str, version: str, kind: FileKind, content: bytes, sequence: int
) -> list[tuple[TargetFile, bytes]]:
    """The targets of a release: the file and the index of its pieces. Raises RepositoryError, BundleError."""
    if not _VERSION.fullmatch(version):
        raise RepositoryError(
            f"version {version!r} is not usable: 1 to 100 letters, digits, '.', '_', '+' or '-', "
            "starting with a letter or digit"
        )
    if kind == "marram":
        _check_bundle(content, model, version)
    path = f"{model}/{version}.{kind}"
    file = TargetFile.from_data(path, content, ["sha256"])
    file.unrecognized_fields["custom"] = msgspec.to_builtins(Custom(model, version, kind, sequence))
    index = pieces.index(content)
    return [(file, content), (TargetFile.from_data(f"{path}.pieces", index, ["sha256"]), index)]


def patches(path: str, content: bytes, bases: Sequence[bytes]) -> list[tuple[TargetFile, bytes]]:
    """Patches to a release from older files, those that are worth it."""
    found = {}
    for base in bases:
        if max(len(base), len(content)) > patch.LARGEST:
            continue
        made = patch.make(base, content)
        if len(made) < _WORTH * len(content):
            name = patch.name(path, hashlib.sha256(base).hexdigest())
            found[name] = TargetFile.from_data(name, made, ["sha256"]), made
    return list(found.values())


def digest_of(targets: Targets, path: str) -> str | None:
    """sha256 that a target has, or had before it was taken out."""
    file = targets.targets.get(path)
    if file is not None:
        return file.hashes["sha256"]
    gone = _withdrawn(targets).get(path)
    return None if gone is None else str(gone["sha256"])


def next_sequence(targets: Targets) -> int:
    """Above that of any release that ever was."""
    numbers = [one.sequence for one in releases(targets)]
    gone = [int(one["sequence"]) for one in _withdrawn(targets).values()]
    return max((*numbers, *gone), default=0) + 1


def add(targets: Targets, files: list[tuple[TargetFile, bytes]]) -> None:
    """Add a release. Patches to older ones go: few devices still need them, and all fetch this metadata."""
    for path in [path for path in targets.targets if patch.MARK in path]:
        del targets.targets[path]
    for file, _ in files:
        targets.targets[file.path] = file


def withdraw(targets: Targets, release: Release) -> None:
    """Take a release out."""
    gone = {"sha256": release.sha256, "sequence": release.sequence}
    targets.unrecognized_fields[_WITHDRAWN] = {**_withdrawn(targets), release.path: gone}
    beside = (f"{release.path}.pieces", f"{release.path}{patch.MARK}")
    for path in [path for path in targets.targets if path == release.path or path.startswith(beside)]:
        del targets.targets[path]


def _withdrawn(targets: Targets) -> dict[str, dict[str, str | int]]:
    found: dict[str, dict[str, str | int]] = targets.unrecognized_fields.get(_WITHDRAWN, {})
    return found


def _check_bundle(content: bytes, model: str, version: str) -> None:
    manifest = parse(content).manifest
    if (manifest.name, manifest.version) != (model, version):
        raise RepositoryError(
            f"the bundle is {manifest.name} {manifest.version} by its own manifest, not {model} {version}"
        )
