"""From float tensors and activation ranges to the int8 arrays inside ``infer.onnx``, in numpy alone.

The arithmetic is that of onnxruntime's static quantiser (QDQ, activations uint8 or int8 and asymmetric,
weights int8, symmetric and per channel, biases int32), to the last bit: what a device makes of its own
parameters is what a release of the same parameters and ranges would hold. The scheme is that of Jacob et al.,
arXiv 1712.05877.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from marram.errors import BundleError

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
Integers = NDArray[np.integer[Any]]
_TINY = float(np.finfo(np.float32).tiny)
_STEPS = 255.0  # of an asymmetric range
_SYMMETRIC_STEPS = 254.0  # -127 to 127
_INT32 = np.iinfo(np.int32)
_ROOM = 1.0001  # that rounding may not push a bias beyond int32


Stored = Literal["int8", "uint8"]


class Int8Weight(msgspec.Struct, frozen=True):
    """A weight: ``<tensor>_quantized``, ``_scale`` and ``_zero_point``.

    axis: each place along it has a scale of its own; None for one scale in all. symmetric: int8 with the zero
    point 0; else stored like an activation (a constant that is added to one).
    """

    tensor: str
    axis: int | None = None
    symmetric: bool = True


class Int8Bias(msgspec.Struct, frozen=True):
    """A bias: ``<tensor>_quantized`` is int32, its scale the product of an activation's and a weight's.

    input: the activation that its layer takes, after whose range the weight's scale makes room for the bias;
    activation: the one whose scale that has, which is another where the values were only moved.
    """

    tensor: str
    input: str
    activation: str
    weight: str


class Int8Layout(msgspec.Struct, frozen=True):
    """Where the arrays that depend on parameters stand in ``infer.onnx``, by the names of its initialisers.

    activations: in the order of ``minimum`` and ``maximum`` of ``calibrate.onnx``. scales: those of them
    that have ``_scale`` and ``_zero_point`` of their own. stored: the type of activations. floats: tensors
    that stay float32, by their own names.
    """

    activations: tuple[str, ...]
    scales: tuple[str, ...]
    stored: Stored = "uint8"
    weights: tuple[Int8Weight, ...] = ()
    biases: tuple[Int8Bias, ...] = ()
    floats: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """All that ``calibrate.onnx`` gives besides the ranges."""
        parts = (*(one.tensor for one in self.weights), *(one.tensor for one in self.biases), *self.floats)
        return tuple(sorted(set(parts)))


def int8_arrays(
    layout: Int8Layout, tensors: Mapping[str, Array], minimum: Floats, maximum: Floats
) -> dict[str, Array]:
    """Initialisers of ``infer.onnx`` by name.

    tensors: float32, by the names in ``layout``. minimum, maximum: (A,), of the activations. Raises
    BundleError when a range or a tensor has no int8 form, and for a layout that does not fit them.
    """
    try:
        return _arrays(layout, tensors, minimum, maximum)
    except (LookupError, ValueError, TypeError) as error:
        raise BundleError(f"the manifest's int8 does not fit calibrate.onnx: {error}") from error


def _arrays(
    layout: Int8Layout, tensors: Mapping[str, Array], minimum: Floats, maximum: Floats
) -> dict[str, Array]:
    arrays: dict[str, Array] = {name: _finite(name, tensors[name]) for name in layout.floats}
    scales: dict[str, Floats] = {}
    for name, low, high in zip(layout.activations, minimum, maximum, strict=True):
        scales[name], zero = asymmetric_scale(float(low), float(high), layout.stored, name)
        if name in layout.scales:
            arrays[f"{name}_scale"], arrays[f"{name}_zero_point"] = scales[name], zero
    biases = {one.tensor: _finite(one.tensor, tensors[one.tensor]) for one in layout.biases}
    weights = {one.tensor: _finite(one.tensor, tensors[one.tensor]) for one in layout.weights}
    symmetric = {
        one.tensor: _symmetric_scale(weights[one.tensor], one.axis) for one in layout.weights if one.symmetric
    }
    for bias in layout.biases:
        scale = symmetric[bias.weight]
        symmetric[bias.weight] = _widened(scale, scales[bias.input], biases[bias.tensor])
    for one in layout.weights:
        weight = weights[one.tensor]
        if one.symmetric:
            scale = symmetric[one.tensor]
            zero = np.zeros(scale.shape, np.int8)
        else:
            low, high = float(weight.min(initial=0.0)), float(weight.max(initial=0.0))
            scale, zero = asymmetric_scale(low, high, layout.stored, one.tensor)
        arrays[f"{one.tensor}_quantized"] = _stored(weight, scale, zero, one.axis)
        arrays[f"{one.tensor}_scale"], arrays[f"{one.tensor}_zero_point"] = scale, zero
    for bias in layout.biases:
        scale = scales[bias.activation] * symmetric[bias.weight]
        arrays.update(_bias(bias.tensor, biases[bias.tensor], scale))
    return arrays


def asymmetric_scale(low: float, high: float, stored: Stored, name: str) -> tuple[Floats, Integers]:
    """(scale, zero point), both without axes, of values between ``low`` and ``high``. name: for errors."""
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise BundleError(f"{name}: {low:g} to {high:g} is no range that int8 could stand for")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / _STEPS
    if scale < _TINY:
        return np.array(1.0, np.float32), np.array(0, stored)
    return np.array(scale, np.float32), np.array(np.round(np.iinfo(stored).min - low / scale), stored)


def _symmetric_scale(weight: Floats, axis: int | None) -> Floats:
    others = None if axis is None else tuple(one for one in range(weight.ndim) if one != axis)
    largest = np.abs(weight).max(axis=others, initial=0.0).astype(np.float64)
    scale = np.asarray(2.0 * largest / _SYMMETRIC_STEPS)
    return np.where(scale < _TINY, 1.0, scale).astype(np.float32)


def _widened(scale: Floats, activation: Floats, bias: Floats) -> Floats:
    """The weight's scale, larger where the bias would not fit into int32."""
    # In float32 for each channel and in float64 for all, as onnxruntime does.
    sizes = np.abs(bias) if scale.ndim else np.abs(bias).astype(np.float64).max(initial=0.0)
    with np.errstate(over="ignore"):
        needed = (_ROOM * (2.0 * sizes)).astype(np.float64) / (2.0 * _INT32.max)
    wide = scale.astype(np.float64)
    product = np.float64(activation) * wide
    short = (product < needed) & (product > 0.0)
    ratio = np.divide(needed, product, out=np.ones_like(product), where=short)
    return np.where(short, (wide * ratio).astype(np.float32), scale)


def _stored(weight: Floats, scale: Floats, zero: Integers, axis: int | None) -> Array:
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    steps = np.rint(weight / scale.reshape(shape)) + zero.reshape(shape)
    limits = np.iinfo(zero.dtype)
    whole: Array = np.clip(steps, limits.min, limits.max).astype(zero.dtype)
    return whole


def _bias(name: str, bias: Floats, scale: Floats) -> dict[str, Array]:
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise BundleError(f"{name}: its scale in int8 is not a float32 number above 0")
    steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    return {
        f"{name}_quantized": np.clip(steps, _INT32.min, _INT32.max).astype(np.int32),
        f"{name}_quantized_scale": scale.reshape(-1),
        f"{name}_quantized_zero_point": np.zeros(scale.shape if scale.size > 1 else (), np.int32),
    }


def _finite(name: str, tensor: Array) -> Floats:
    floats = np.asarray(tensor, np.float32)
    if not np.isfinite(floats).all():
        raise BundleError(f"{name}: holds NaN or infinity")
    return floats
