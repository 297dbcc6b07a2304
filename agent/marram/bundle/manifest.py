"""The manifest of a model bundle: what the model takes, gives, and how it is trained.

``manifest.json`` is plain JSON of these structs. ``schema`` is raised when a reader of an older schema
would misread the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from marram.bundle.int8 import Int8Layout
from marram.errors import BundleError
from marram.programs.program import Tensor

SCHEMA = 1
_LONGEST = 1_000_000
_MOST_PARAMETERS = 1 << 26

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)")]
Task = Literal["classify", "reconstruct", "forecast", "regress"]
Role = Literal["infer", "infer_tflite", "train", "evaluate", "predict", "calibrate", "features"]
InferRole = Literal["infer", "infer_tflite"]


class Channel(msgspec.Struct, frozen=True):
    """One input channel of the model, with the unit that its values must have ("g", "deg/s", "%")."""

    name: str
    unit: str = ""


class ProgramFile(msgspec.Struct, frozen=True):
    """One program of the bundle: its member's name, the runtime it needs, its tensors."""

    file: str
    runtime: Literal["onnx", "tflite"]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Training(msgspec.Struct, frozen=True):
    """Training defaults; a round's offer may override all but the optimiser, which is in the graph.

    learning_rate: step size. batch: windows a step (the graph's batch is dynamic; this many are given).
    epochs: passes over the windows in a round. state: length of the optimiser state vector.
    """

    optimiser: str = "sgd-momentum"
    learning_rate: float = 0.05
    batch: int = 16
    epochs: int = 1
    state: int = 0


class ModelCard(msgspec.Struct, frozen=True):
    """For people: where the model comes from and what was measured on it."""

    description: str = ""
    data: str = ""
    licence: str = ""
    metrics: dict[str, float] = {}


class Manifest(msgspec.Struct, frozen=True):
    """A bundle's manifest. ``parameters`` gives the order of the flat vector; shapes are fixed sizes.

    rate: samples a second on the model's clock. length, stride: window length and step in samples.
    labels: the classes, in the order of the scores. horizon: samples that a forecast is of; such a model
    foretells the end of each window from its beginning, and what comes after it. threshold: a reconstruct or
    forecast model's limit of normal, None where each device finds its own.

    int8: where in ``infer.onnx`` the arrays stand that depend on parameters, for a bundle with
    ``calibrate.onnx``. members: sha256 (hex) of every other file in the bundle.
    """

    name: Name
    version: str
    task: Task
    channels: tuple[Channel, ...]
    rate: Annotated[float, msgspec.Meta(gt=0)]
    length: Annotated[int, msgspec.Meta(gt=0, le=_LONGEST)]
    stride: Annotated[int, msgspec.Meta(gt=0, le=_LONGEST)]
    programs: dict[Role, ProgramFile]
    parameters: tuple[Tensor, ...]
    members: dict[str, str]
    labels: tuple[str, ...] = ()
    horizon: int = 0
    threshold: float | None = None
    training: Training = Training()
    int8: Int8Layout | None = None
    card: ModelCard = ModelCard()
    schema: int = SCHEMA

    @property
    def parameter_count(self) -> int:
        """Length of the flat parameter vector."""
        return sum(math.prod(_fixed(tensor)) for tensor in self.parameters)

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(channel.name for channel in self.channels)

    @property
    def trainable(self) -> bool:
        """Whether a device can train it: by its training program, or by growing trees on its features."""
        return "train" in self.programs or self.forest

    @property
    def forest(self) -> bool:
        """Whether its parameters are a forest (``marram.bundle.forest``)."""
        return "features" in self.programs

    @property
    def family(self) -> str:
        """The sha256 of what must be equal for deltas of two bundles to be added up.

        That is: name, window, channels, labels, parameter layout and the training program, or a forest's
        features. Versions, int8 programs and parameter values may differ.
        """
        import hashlib

        train = self.programs.get("train") or self.programs.get("features")
        parts = (
            self.name,
            self.task,
            self.channel_names,
            self.rate,
            self.length,
            self.labels,
            self.parameters,
            self.members[train.file] if train else "",
        )
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _fixed(tensor: Tensor) -> tuple[int, ...]:
    sizes = tuple(size for size in tensor.shape if isinstance(size, int))
    if len(sizes) != len(tensor.shape):
        raise BundleError(f"parameter {tensor.name!r} has a shape that is not fixed: {tensor.shape}")
    return sizes


def parse(text: bytes) -> Manifest:
    """Read manifest.json. Raises BundleError naming the field that is wrong."""
    try:
        schema = msgspec.json.decode(text, type=_SchemaOnly).schema
        if schema > SCHEMA:
            raise BundleError(
                f"manifest.json has schema {schema}, this version reads up to {SCHEMA}: upgrade marram"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"manifest.json is not valid: {error}") from error
    for problem in _problems(manifest):
        raise BundleError(f"manifest.json is not valid: {problem}")
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    """What no single field can tell."""
    channels, labels = manifest.channel_names, manifest.labels
    if not channels or len(set(channels)) < len(channels):
        yield "a model has at least one channel, and each has a name of its own"
    if len(set(labels)) < len(labels):
        yield "a label stands twice in `labels`"
    if manifest.task == "classify" and len(labels) < 2:
        yield "a classify model needs at least two labels"
    for tensor in manifest.parameters:
        if any(size < 0 for size in _fixed(tensor)):
            yield f"parameter {tensor.name!r} has the shape {tensor.shape}"
    if manifest.parameter_count > _MOST_PARAMETERS:
        yield f"it lists {manifest.parameter_count} parameters; a device takes at most {_MOST_PARAMETERS}"
    if ("calibrate" in manifest.programs) != (manifest.int8 is not None):
        yield "a bundle has a `calibrate` program and the section `int8`, or neither"
    window = (len(channels), manifest.length)
    for role, entry in manifest.programs.items():
        for tensor in entry.inputs:
            if tensor.name == "x" and not _takes(tensor.shape, window):
                yield (
                    f"program {role!r} takes x of shape {tensor.shape}, but a window has "
                    f"{window[0]} channels and {window[1]} samples"
                )


def _takes(shape: tuple[int | str, ...], window: tuple[int, int]) -> bool:
    sizes = zip(shape[1:], window, strict=False)
    return len(shape) == 3 and all(isinstance(size, str) or size == want for size, want in sizes)


class _SchemaOnly(msgspec.Struct):
    schema: int = SCHEMA
