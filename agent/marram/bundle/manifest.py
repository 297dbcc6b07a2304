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
from marram.bundle.layout import WINDOW, Axis, problem, sizes
from marram.errors import BundleError
from marram.programs.program import Tensor

SCHEMA = 1
_LONGEST = 1_000_000
MOST_PARAMETERS = 1 << 26

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)")]
Task = Literal["classify", "reconstruct", "forecast", "regress"]
Role = Literal[
    "infer", "infer_tflite", "train", "evaluate", "predict", "calibrate", "backbone", "features"
]  # fmt: skip
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


class BackboneLayout(msgspec.Struct, frozen=True):
    """The axes of the backbone's input. width: of an image whose rows a window holds one after the other."""

    axes: tuple[Axis, ...] = WINDOW
    width: Annotated[int, msgspec.Meta(gt=0, le=_LONGEST)] | None = None


class Manifest(msgspec.Struct, frozen=True):
    """A bundle's manifest. ``parameters`` gives the order of the flat vector; shapes are fixed sizes.

    rate: samples a second on the model's clock. length, stride: window length and step in samples.
    labels: the classes, in the order of the scores. horizon: samples that a forecast is of; such a model
    foretells the end of each window from its beginning, and what comes after it. threshold: a reconstruct or
    forecast model's limit of normal, None where each device finds its own.

    backbone: for a bundle with a program of that role, which makes features of windows and never changes. The
    ``x`` of all other programs are these features then.

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
    backbone: BackboneLayout | None = None
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

        That is: name, window, channels, labels, parameter layout, the training program (or a forest's
        features), and the backbone where there is one. Versions, int8 programs and parameter values may
        differ.
        """
        import hashlib

        train = self.programs.get("train") or self.programs.get("features")
        backbone = self.programs.get("backbone")
        parts: tuple[object, ...] = (
            self.name,
            self.task,
            self.channel_names,
            self.rate,
            self.length,
            self.labels,
            self.parameters,
            self.members[train.file] if train else "",
        )
        if backbone is not None:
            parts = (*parts, self.members[backbone.file], self.backbone)
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
    for wrong in _problems(manifest):
        raise BundleError(f"manifest.json is not valid: {wrong}")
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
    if manifest.parameter_count > MOST_PARAMETERS:
        yield f"it lists {manifest.parameter_count} parameters; a device takes at most {MOST_PARAMETERS}"
    if ("calibrate" in manifest.programs) != (manifest.int8 is not None):
        yield "a bundle has a `calibrate` program and the section `int8`, or neither"
    if ("backbone" in manifest.programs) != (manifest.backbone is not None):
        yield "a bundle has a `backbone` program and the section `backbone`, or neither"
    wanted: tuple[int | str, ...] = ("batch", len(channels), manifest.length)
    named = f"a window has {len(channels)} channels and {manifest.length} samples"
    if "backbone" in manifest.programs and manifest.backbone is not None:
        yield from _backbone_problems(manifest, manifest.programs["backbone"], manifest.backbone)
        wanted = manifest.programs["backbone"].outputs[0].shape
        named = f"the backbone gives features of shape {wanted}"
    for role, entry in manifest.programs.items():
        for tensor in entry.inputs:
            if role != "backbone" and tensor.name == "x" and not _takes(tensor.shape, wanted):
                yield f"program {role!r} takes x of shape {tensor.shape}, but {named}"


def _backbone_problems(manifest: Manifest, entry: ProgramFile, layout: BackboneLayout) -> Iterator[str]:
    if manifest.task != "classify":
        yield f"a {manifest.task} model has no backbone: only a classify model may"
    for role in ("infer_tflite", "features"):
        if role in manifest.programs:
            yield f"a bundle with a `backbone` program has no `{role}`"
    if wrong := problem(layout.axes, layout.width, len(manifest.channels)):
        yield f"backbone.axes: {wrong}"
    elif layout.width is not None and manifest.length % layout.width:
        yield f"backbone.width: expected a divisor of length, {manifest.length}, found {layout.width}"
    tensors = (*entry.inputs, *entry.outputs)
    if len(entry.inputs) != 1 or len(entry.outputs) != 1 or any(one.dtype != "float32" for one in tensors):
        yield "program 'backbone' should have one float32 input and one float32 output"
    taken = sizes(layout.axes, layout.width, len(manifest.channels), manifest.length)
    if not _takes(entry.inputs[0].shape, taken):
        yield f"program 'backbone' takes {entry.inputs[0].shape}, but windows are laid out as {taken}"


def _takes(shape: tuple[int | str, ...], wanted: tuple[int | str, ...]) -> bool:
    """Whether a tensor of this shape takes such a block: sizes are equal where both are known."""
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or isinstance(want, str) or size == want
        for size, want in zip(shape, wanted, strict=True)
    )


class _SchemaOnly(msgspec.Struct):
    schema: int = SCHEMA
