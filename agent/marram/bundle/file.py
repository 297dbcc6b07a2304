"""Reading and writing a bundle: a zip of stored members, each checked against its sha256.

A reader accepts nothing that the manifest does not name: no other member, no folder, no compression
(so no zip bomb), no member twice. All of a bundle's content is checked before any of it is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from marram.bundle import manifest as manifests
from marram.bundle.backbone import Chained, Features
from marram.bundle.manifest import Manifest, ProgramFile, Role
from marram.errors import BundleError, ProgramError
from marram.programs.program import Array, Program, ProgramOptions, load

MANIFEST = "manifest.json"
PARAMETERS = "parameters.safetensors"
MAX_BYTES = 256 << 20
_MAX_MANIFEST = 4 << 20
_MOST_MEMBERS = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every member agreed with its hash.

    digest: sha256 (hex) of the whole file. members: content by name, without the manifest.
    """

    manifest: Manifest
    members: dict[str, bytes]
    digest: str
    source: str

    def program(
        self,
        role: Role,
        options: ProgramOptions | None = None,
        initialisers: Mapping[str, Array] | None = None,
    ) -> Program:
        """Load one program that takes windows. initialisers: in place of its own.

        Raises BundleError when the bundle has no such program or the file says otherwise than the
        manifest, ProgramError when the runtime cannot load it.
        """
        program = self.head(role, options, initialisers)
        if role == "backbone" or self.manifest.backbone is None:
            return program
        features = Features(self.head("backbone", options), self.manifest.backbone)
        return Chained(features, len(self.manifest.channels), self.manifest.length, program)

    def features(
        self, windows: NDArray[np.float32], options: ProgramOptions | None = None
    ) -> NDArray[np.float32]:
        """What the programs alone take for windows (n, channels, length): they themselves, or the backbone's
        features float32 (n, ...) of them. Raises BundleError or ProgramError."""
        layout = self.manifest.backbone
        if layout is None:
            return windows
        return Features(self.head("backbone", options), layout)(windows)

    def head(
        self,
        role: Role,
        options: ProgramOptions | None = None,
        initialisers: Mapping[str, Array] | None = None,
    ) -> Program:
        """One program alone, its tensors checked against the manifest: behind a backbone it takes features.

        Raises as ``program`` does.
        """
        entry = self.manifest.programs.get(role)
        if entry is None:
            has = ", ".join(sorted(self.manifest.programs))
            raise BundleError(f"{self.source}: has no {role!r} program; it has: {has}")
        try:
            program = load(self.members[entry.file], entry.runtime, options, initialisers)
        except ProgramError as error:
            raise ProgramError(f"{self.source}: {entry.file}: {error}") from error
        _check_tensors(self.source, entry, program)
        return program

    def parameters(self) -> NDArray[np.float32]:
        """The master parameters as one flat float32 vector in the manifest's order."""
        try:
            tensors = safetensors.numpy.load(self.members[PARAMETERS])
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
            # Not only its own error: a header may name a dtype that numpy lacks.
            raise BundleError(f"{self.source}: {PARAMETERS} cannot be read: {error}") from error
        parts: list[NDArray[np.float32]] = []
        for spec in self.manifest.parameters:
            tensor = tensors.get(spec.name)
            if tensor is None or tensor.dtype != np.float32 or tensor.shape != spec.shape:
                found = "nothing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
                raise BundleError(
                    f"{self.source}: {PARAMETERS}: {spec.name} should be float32 {spec.shape}, is {found}"
                )
            parts.append(tensor.reshape(-1))
        flat = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        if not np.isfinite(flat).all():
            raise BundleError(f"{self.source}: {PARAMETERS} holds values that are not finite")
        return flat


def split(manifest: Manifest, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The flat vector as named tensors (views), in the manifest's order. Raises BundleError."""
    if flat.shape != (manifest.parameter_count,):
        raise BundleError(
            f"{manifest.name} has {manifest.parameter_count} parameters, {flat.shape[0]} values were given"
        )
    tensors: dict[str, NDArray[np.float32]] = {}
    offset = 0
    for spec in manifest.parameters:
        shape = tuple(int(size) for size in spec.shape)
        size = int(np.prod(shape, dtype=np.int64))
        tensors[spec.name] = flat[offset : offset + size].reshape(shape)
        offset += size
    return tensors


def read(source: Path) -> Bundle:
    """Read and check a whole bundle file. Raises BundleError with the reason."""
    return parse(read_content(source), str(source))


def read_content(source: Path) -> bytes:
    """The bytes of a bundle or model file. Raises BundleError."""
    try:
        size = source.stat().st_size
        if size > MAX_BYTES:
            raise BundleError(f"{source}: is {size} bytes; a bundle has at most {MAX_BYTES}")
        return source.read_bytes()
    except OSError as error:
        raise BundleError(f"{source}: cannot be read: {error.strerror or error}") from error


def parse(data: bytes, source: str = "bundle") -> Bundle:
    """Check a bundle held in memory; ``source`` names it in errors."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive, source, len(data))
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        OverflowError,
        ValueError,
        struct.error,
    ) as error:
        raise BundleError(f"{source}: is not a whole bundle (damaged or cut short): {error}") from error
    text = members.pop(MANIFEST, None)
    if text is None:
        raise BundleError(f"{source}: holds no {MANIFEST}; it is not a bundle")
    try:
        manifest = manifests.parse(text)
    except BundleError as error:
        raise BundleError(f"{source}: {error}") from error
    _check_members(manifest, members, source)
    return Bundle(manifest, members, hashlib.sha256(data).hexdigest(), source)


def encode(manifest: Manifest, members: dict[str, bytes]) -> bytes:
    """The bytes of a bundle; the same input always gives the same bytes. Hashes are filled in here."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(members.items())}
    manifest = msgspec.structs.replace(manifest, members=hashes)
    text = json.dumps(msgspec.to_builtins(manifest), indent=1, sort_keys=True).encode() + b"\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [(MANIFEST, text), *sorted(members.items())]:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return out.getvalue()


def encode_parameters(manifest: Manifest, flat: NDArray[np.float32]) -> bytes:
    """The bytes of parameters.safetensors for a flat vector."""
    # Not np.ascontiguousarray: it makes a vector of a scalar.
    tensors = {name: np.array(part, np.float32) for name, part in split(manifest, flat).items()}
    data: bytes = safetensors.numpy.save(tensors)
    return data


def _members(archive: zipfile.ZipFile, source: str, size: int) -> dict[str, bytes]:
    infos = archive.infolist()
    if len(infos) > _MOST_MEMBERS:
        raise BundleError(f"{source}: has {len(infos)} members; a bundle has at most {_MOST_MEMBERS}")
    seen = set()
    for info in infos:
        name = info.filename
        if "/" in name or "\\" in name or name.startswith(".") or "\0" in name:
            raise BundleError(f"{source}: member {name!r}: a bundle holds plain file names only")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise BundleError(f"{source}: member {name!r} is compressed or encrypted; bundles are stored")
        if name in seen:
            raise BundleError(f"{source}: member {name!r} is there twice")
        if name == MANIFEST and info.file_size > _MAX_MANIFEST:
            raise BundleError(f"{source}: member {name!r} claims {info.file_size} bytes")
        seen.add(name)
    if sum(info.file_size for info in infos) > size:
        # Members may overlap in the file: read out one by one they could fill the memory.
        raise BundleError(f"{source}: its members claim more bytes than the file has")
    return {info.filename: archive.read(info) for info in infos}


def _check_members(manifest: Manifest, members: dict[str, bytes], source: str) -> None:
    extra = sorted(members.keys() - manifest.members.keys())
    missing = sorted(manifest.members.keys() - members.keys())
    if extra or missing:
        raise BundleError(
            f"{source}: members missing: {missing or 'none'}; not in the manifest: {extra or 'none'}"
        )
    for name, content in members.items():
        if hashlib.sha256(content).hexdigest() != manifest.members[name]:
            raise BundleError(f"{source}: member {name!r} does not have the sha256 that the manifest names")
    for role, entry in manifest.programs.items():
        if entry.file not in members:
            raise BundleError(f"{source}: program {role!r} names {entry.file!r}, which is not in the bundle")
    if manifest.parameters and PARAMETERS not in members:
        raise BundleError(f"{source}: the manifest lists parameters, but {PARAMETERS} is not in the bundle")


def _check_tensors(source: str, entry: ProgramFile, program: Program) -> None:
    pairs = (("input", entry.inputs, program.inputs), ("output", entry.outputs, program.outputs))
    for kind, wanted, found in pairs:
        have = {tensor.name: tensor for tensor in found}
        for tensor in wanted:
            real = have.get(tensor.name)
            if real is None or real.dtype != tensor.dtype or len(real.shape) != len(tensor.shape):
                is_ = "is not there" if real is None else f"is {real.dtype} {real.shape}"
                raise BundleError(
                    f"{source}: {entry.file}: {kind} {tensor.name!r} should be {tensor.dtype} "
                    f"{tensor.shape}, but {is_}"
                )
            for want, is_size in zip(tensor.shape, real.shape, strict=True):
                if isinstance(want, int) and isinstance(is_size, int) and want != is_size:
                    raise BundleError(
                        f"{source}: {entry.file}: {kind} {tensor.name!r} should have shape "
                        f"{tensor.shape}, has {real.shape}"
                    )
