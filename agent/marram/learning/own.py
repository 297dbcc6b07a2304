"""What this device learnt by itself, on disk: its parameters, and their int8 form where that is as good.

``own.json`` names two files by their digests: the float32 parameters, which always stay, and the int8 arrays
for ``infer.onnx``. Both are written first, under names of their own: a power cut in between leaves what was
learnt before.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from marram.bundle.file import Bundle
from marram.errors import BundleError, ProgramError
from marram.inference.model import Model, Normal, own_int8_model, own_model, own_name
from marram.learning.int8 import decode_arrays
from marram.learning.trainer import Int8Outcome, NormalFile
from marram.learning.work import Learnt
from marram.programs.program import Array, ProgramOptions
from marram.storage import replace_file
from marram.wire.parameters import Vector, parameters_digest

log = logging.getLogger(__name__)


class OwnFile(msgspec.Struct, frozen=True):
    """``own.json``. family: of the bundle. digest: hex sha256 of the parameters. trained: Unix s.

    int8: how it was judged, None where nobody asked. arrays: hex sha256 of the file of int8 arrays, ""
    without one. program: hex sha256 of the ``infer.onnx`` that they were made for.
    """

    family: str
    digest: str
    trained: float
    normal: NormalFile | None = None
    int8: Int8Outcome | None = None
    arrays: str = ""
    program: str = ""


@dataclass(frozen=True)
class OwnModels:
    """model: what is to run. fallback: takes its place when it fails; None where float32 itself runs."""

    model: Model
    fallback: Model | None


@dataclass
class Own:
    """The parameters that this device trained itself, on disk in ``folder``."""

    folder: Path
    bundle: Bundle

    def load(self) -> tuple[OwnFile, Vector] | None:
        """What was learnt for this bundle's family; None when there is nothing, or it is damaged."""
        try:
            about = msgspec.json.decode((self.folder / "own.json").read_bytes(), type=OwnFile)
            vector = np.fromfile(self.parameters_file(about), "<f4").astype(np.float32)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if about.family != self.bundle.manifest.family or parameters_digest(vector).hex() != about.digest:
            return None
        return about, vector

    def save(self, learnt: Learnt, now: float) -> None:
        """Raises StorageError; what was there before stays then."""
        digest = parameters_digest(learnt.parameters).hex()
        arrays = hashlib.sha256(learnt.int8).hexdigest() if learnt.int8 else ""
        about = OwnFile(
            self.bundle.manifest.family,
            digest,
            now,
            learnt.normal,
            learnt.result.int8,
            arrays,
            self._program(),
        )
        replace_file(self.parameters_file(about), learnt.parameters.astype("<f4").tobytes())
        if learnt.int8:
            replace_file(self.arrays_file(about), learnt.int8)
        self._write(about)

    def refuse_int8(self, reason: str) -> None:
        """Run float32 from now on, until the next training. Raises StorageError."""
        found = self.load()
        if found is not None and found[0].int8 is not None:
            outcome = msgspec.structs.replace(found[0].int8, used=False, reason=reason)
            self._write(msgspec.structs.replace(found[0], int8=outcome, arrays=""))

    def models(self, options: ProgramOptions, int8: bool = True) -> OwnModels | None:
        """What was learnt, ready to run; None when there is nothing. int8: whether that form may run.

        Raises BundleError or ProgramError when not even float32 runs.
        """
        found = self.load()
        if found is None:
            return None
        about, vector = found
        normal = _normal(about.normal)
        bundle = self.bundle

        def exact() -> Model:
            return own_model(bundle, vector, normal, options)

        if int8 and about.int8 is not None and about.int8.used:
            try:
                model = own_int8_model(bundle, self._arrays(about), _normal(about.int8.normal), options)
                return OwnModels(model, _later(model, exact, normal))
            except (BundleError, ProgramError) as error:
                log.error("the device's own parameters run in float32: %s", error)
        return OwnModels(exact(), None)

    def parameters_file(self, about: OwnFile) -> Path:
        return self.folder / f"{about.digest[:16]}.f32"

    def arrays_file(self, about: OwnFile) -> Path:
        return self.folder / f"{about.arrays[:16]}.int8.safetensors"

    def _write(self, about: OwnFile) -> None:
        replace_file(self.folder / "own.json", msgspec.json.encode(about))
        kept = (self.parameters_file(about), self.arrays_file(about))
        for older in (*self.folder.glob("*.f32"), *self.folder.glob("*.safetensors")):
            if older not in kept:
                older.unlink(missing_ok=True)

    def _arrays(self, about: OwnFile) -> dict[str, Array]:
        if about.program != self._program():
            raise BundleError(
                "their int8 form was made for another int8 program; the next training makes it anew"
            )
        try:
            data = self.arrays_file(about).read_bytes()
        except OSError as error:
            raise BundleError(f"their int8 form cannot be read: {error.strerror or error}") from error
        if hashlib.sha256(data).hexdigest() != about.arrays:
            raise BundleError("the file of their int8 form is damaged")
        return decode_arrays(data)

    def _program(self) -> str:
        manifest = self.bundle.manifest
        infer = manifest.programs.get("infer")
        return manifest.members.get(infer.file, "") if infer is not None else ""


def _later(model: Model, load: Callable[[], Model], normal: Normal | None) -> Model:
    """The float32 form, which takes no memory until it is needed."""
    loaded: list[Model] = []

    def run(x: Vector) -> dict[str, Array]:
        try:
            if not loaded:
                loaded.append(load())
        except BundleError as error:
            raise ProgramError(str(error)) from error
        return loaded[0].run(x)

    return Model(model.manifest, own_name(model.manifest), run, normal)


def _normal(file: NormalFile | None) -> Normal | None:
    if file is None:
        return None
    mean = np.array(file.channel_mean, np.float32)
    return Normal(file.threshold, mean, np.array(file.channel_spread, np.float32))
