"""A model as TFLite without its weights, and where in the parameters each weight comes from.

A converter lays weights out anew, transposes and folds them. So the workshop converts the model twice, with
parameters that are all different numbers, and sees by them where each number of the file comes from: from the
parameters, or from a weight that onnxruntime folds out of them in ``predict.onnx`` (a convolution with the
normalisation behind it). From then on a file for other parameters is made without PyTorch and without the
converter, and is what the converter would have made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.folding import fold
from marram_cloud.litert import flatfile
from marram_cloud.litert.derived import derived
from marram_cloud.litert.quantise import Wanted

PARAMETERS = "parameters"
_METADATA = "marram.template"
_CLOSE = 3e-6

Floats = NDArray[np.float32]
Sources = Callable[[], Mapping[str, Floats]]


class Piece(msgspec.Struct, frozen=True):
    """Where a buffer's numbers stand in a flat source: at ``offset``, by ``strides`` over ``shape``.

    source: ``PARAMETERS``, or the name of a tensor of the folded predict.onnx. places: little-endian int32,
    in place of strides where there is no such order.
    """

    buffer: int
    source: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    places: bytes = b""

    def take(self, source: Floats) -> Floats:
        flat = source.reshape(-1)
        if self.strides is None:
            places = np.frombuffer(self.places, "<i4").reshape(self.shape)
        else:
            places = _places(self.offset, self.shape, self.strides)
        values: Floats = flat[places]
        return values


class _About(msgspec.Struct, frozen=True):
    """wanted: how what is made of the template is to be quantised."""

    pieces: tuple[Piece, ...]
    wanted: Wanted = "auto"


def probe(count: int, seed: int) -> Floats:
    """Parameters that are all different, near 1, in an order of chance: float32 (count,)."""
    order = np.random.default_rng(seed).permutation(count)
    values: Floats = (1 + (order + 1) / (2 * (count + 1))).astype(np.float32)
    if len(np.unique(values)) < count:
        raise CompressionError(f"{count} parameters are too many to be told apart; LiteRT gets no form")
    return values


def make(
    predict: bytes,
    probes: Sequence[Floats],
    converted: Sequence[bytes],
    names: Mapping[str, Sequence[str]],
    wanted: Wanted = "auto",
) -> bytes:
    """The template. converted: the file of each of two probes. names: of "inputs" and "outputs". wanted: how
    what is made of it is to be quantised.

    Raises CompressionError when a weight's origin is not found.
    """
    models = [flatfile.read(content) for content in converted]
    first, second = models
    known: list[Mapping[str, Floats]] = [{PARAMETERS: values} for values in probes]
    pieces: dict[int, Piece] = {}
    for tensor, other in zip(first.subgraphs[0].tensors, second.subgraphs[0].tensors, strict=True):
        values = [flatfile.floats(first, tensor), flatfile.floats(second, other)]
        if values[0] is None or values[1] is None or np.array_equal(values[0], values[1]):
            continue
        pair = (values[0], values[1])
        piece = _find(tensor.buffer, pair, known)
        if piece is None and len(known[0]) == 1:
            known = [{PARAMETERS: one, **_folded(predict, one)} for one in probes]
            piece = _find(tensor.buffer, pair, known)
        if piece is None:
            raise CompressionError(
                f"a weight of shape {pair[0].shape} of the TFLite form is calculated from the parameters in "
                "a way that is not known here; LiteRT gets no form of this model"
            )
        pieces[tensor.buffer] = piece
    for piece in pieces.values():
        first.buffers[piece.buffer].data = None
    _rename(first, names)
    flatfile.set_metadata(first, _METADATA, msgspec.msgpack.encode(_About(tuple(pieces.values()), wanted)))
    return flatfile.write(first)


def filled(template: bytes, predict: bytes, parameters: Floats) -> bytes:
    """The float TFLite program with these parameters, float32 (P,) in the manifest's order."""
    model = flatfile.read(template)
    pieces = _about(model).pieces
    sources: Mapping[str, Floats] = {PARAMETERS: parameters}
    if any(piece.source != PARAMETERS for piece in pieces):
        sources = {**_folded(predict, parameters), **sources}
    for piece in pieces:
        flatfile.fill(model, piece.buffer, piece.take(sources[piece.source]))
    model.metadata = []
    model.buffers.pop()
    return flatfile.write(model)


def wanted(template: bytes) -> Wanted:
    """How what is made of the template is to be quantised."""
    return _about(flatfile.read(template)).wanted


def _about(model: object) -> _About:
    about = flatfile.metadata(model, _METADATA)
    if about is None:
        raise CompressionError("this TFLite file is no template: it does not say where its weights come from")
    return msgspec.msgpack.decode(about, type=_About)


def _folded(predict: bytes, parameters: Floats) -> dict[str, Floats]:
    """What is calculated from the parameters only: by the names of the folded program, and ``derived``."""
    tensors = fold(predict, parameters).graph.initializer
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in tensors}
    floats = {name: array for name, array in arrays.items() if array.dtype == np.float32}
    return {**floats, **derived(predict, parameters)}


def _find(buffer: int, values: tuple[Floats, Floats], known: Sequence[Mapping[str, Floats]]) -> Piece | None:
    for name, source in known[0].items():
        for places in _exact(source, values[0]) if name == PARAMETERS else _turned(source, values[0]):
            if all(
                _same(one[name].reshape(-1)[places], value, exact=name == PARAMETERS)
                for one, value in zip(known, values, strict=True)
            ):
                return _piece(buffer, name, places)
    return None


def _exact(source: Floats, wanted: Floats) -> Iterator[NDArray[np.intp]]:
    """Where numbers that are all different stand."""
    order = np.argsort(source)
    found = np.searchsorted(source[order], wanted)
    yield order[np.minimum(found, source.size - 1)]


def _turned(source: Floats, wanted: Floats) -> Iterator[NDArray[np.intp]]:
    """The ways to lay out a tensor of which two numbers may be equal: its axes in another order."""
    if source.size != wanted.size:
        return
    places = np.arange(source.size).reshape(source.shape)
    for axes in permutations(range(source.ndim)):
        yield places.transpose(axes).reshape(wanted.shape)


def _same(found: Floats, wanted: Floats, exact: bool) -> bool:
    if exact:
        return bool(np.array_equal(found, wanted))
    return bool(np.allclose(found, wanted, rtol=_CLOSE, atol=_CLOSE * float(np.abs(wanted).max(initial=0.0))))


def _piece(buffer: int, source: str, places: NDArray[np.intp]) -> Piece:
    offset = int(places.reshape(-1)[0])
    strides = tuple(
        int(np.take(places, 1, axis).reshape(-1)[0]) - offset if size > 1 else 0
        for axis, size in enumerate(places.shape)
    )
    if np.array_equal(_places(offset, places.shape, strides), places):
        return Piece(buffer, source, offset, places.shape, strides)
    return Piece(buffer, source, offset, places.shape, None, places.astype("<i4").tobytes())


def _places(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[np.int64]:
    places = np.full(shape, offset, np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        places += (np.arange(size, dtype=np.int64) * stride).reshape(
            [size if one == axis else 1 for one in range(len(shape))]
        )
    return places


def _rename(model: object, names: Mapping[str, Sequence[str]]) -> None:
    """Short names for tensors, ours for inputs and outputs: the converter writes its modules' paths."""
    graph = model.subgraphs[0]  # type: ignore[attr-defined]
    for number, tensor in enumerate(graph.tensors):
        tensor.name = f"t{number}".encode()
    (signature,) = model.signatureDefs  # type: ignore[attr-defined]
    # The converter sorts by its own names, which say the order in which they were given.
    for side, entries in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        ordered = sorted(entries, key=lambda entry: int(entry.name.rpartition(b"_")[2]))
        for name, entry in zip(names[side], ordered, strict=True):
            entry.name = name.encode()
            graph.tensors[entry.tensorIndex].name = name.encode()
