"""The chain: stages named by a short text, such as ``clip(1)|feedback|rotate(256)|quantise(1)``.

The offer carries the text; device and aggregator both refuse one that does not fit this grammar:

::

    chain  = [clip "|"] [feedback "|"] [rotate "|"] [topk or randk "|"] ending
    clip   = "clip(" norm ")"           norm: decimal, above 0, at most 1000000
    rotate = "rotate(" block ")"        block: a power of two, 2 to 65536
    topk   = "topk(" fraction ")"       fraction: decimal, above 0, at most 1; randk alike
    ending = "quantise(" bits ["," block] ")" | "float32" | "float16"
                                        bits: 1, 2, 4 or 8; block: 8 to 65536

A decimal is digits with at most one point between them; there are no spaces. The payload of an encoded
vector is the bytes that each stage adds, in the order of the chain; their number follows from the chain
and the vector's length alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from marram.errors import WireError
from marram.wire import reasons
from marram.wire.codec.clip import Clip
from marram.wire.codec.plain import Plain
from marram.wire.codec.quantise import Quantise
from marram.wire.codec.rotate import Rotate
from marram.wire.codec.sparse import RandK, TopK
from marram.wire.codec.stage import NOTHING, Feedback, Stage, Vector

MAX_SPEC: Final = 200
MAX_BLOCK: Final = 65536
_STAGE = re.compile(r"([a-z0-9]+)(?:\(([0-9.,]*)\))?", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", re.ASCII)
_WHOLE = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)


class Encoded(NamedTuple):
    """payload: the bytes to send. residual: float32[n] to keep for the next vector; None without feedback."""

    payload: bytes
    residual: Vector | None


@dataclass(frozen=True, slots=True)
class Chain:
    """A parsed chain. spec: its text. Decoding gives the same bits on every machine."""

    spec: str
    stages: tuple[Stage, ...]

    @classmethod
    def parse(cls, spec: str) -> Chain:
        """The chain that the text names. Raises WireError(WRONG_CHAIN), which says what is wrong with it."""
        if len(spec) > MAX_SPEC:
            raise _wrong(spec, f"longer than {MAX_SPEC} letters")
        stages: list[Stage] = []
        last = -1
        for text in spec.split("|"):
            place, stage = _stage(spec, text)
            if place <= last:
                raise _wrong(
                    spec, f"{text:.60} may not stand there; the order is {_ORDER}, each at most once"
                )
            last = place
            stages.append(stage)
        if not stages[-1].ending:
            raise _wrong(spec, "it must end in quantise, float32 or float16")
        return cls(spec, tuple(stages))

    @property
    def feedback(self) -> bool:
        """Whether a residual is kept from one vector to the next."""
        return any(isinstance(stage, Feedback) for stage in self.stages)

    def size(self, n: int) -> int:
        """The bytes of the payload of a vector of ``n`` values."""
        total = 0
        for stage in self.stages:
            total += stage.size(n)
            n = stage.length(n)
        return total

    def encode(self, vector: Vector, seed: int, residual: Vector | None = None) -> Encoded:
        """float32[n] -> the payload, and the new residual float32[n] if the chain has feedback.

        seed: 0 to 2^64 - 1, known to the decoder. residual: what the last ``encode``
        gave; None to begin with.
        The new residual is vector (clipped) + residual - what ``decode`` will give.
        Raises WireError(BAD_VALUES) for a vector that is empty or not finite, ValueError for a residual
        of another length or for a chain without feedback.
        """
        values = np.ascontiguousarray(vector, np.float32)
        n = len(values)
        if n == 0 or not np.isfinite(values).all():
            raise WireError(
                reasons.BAD_VALUES, "the vector is empty, or holds NaN or infinity: it cannot be encoded"
            )
        if residual is not None and (not self.feedback or residual.shape != (n,)):
            raise ValueError("the residual is not this chain's: it has no feedback, or the length differs")
        intended = values
        pieces = []
        for stage in self.stages:
            if isinstance(stage, Feedback):
                intended = values = values if residual is None else values + residual
            values, data = stage.encode(values, seed)
            pieces.append(data)
        payload = b"".join(pieces)
        return Encoded(payload, intended - self.decode(payload, n, seed) if self.feedback else None)

    def decode(self, payload: bytes, n: int, seed: int) -> Vector:
        """The payload of a vector of ``n`` values -> float32[n], finite.

        Needs memory in proportion to n, whatever the payload holds.
        Raises WireError(BAD_VALUES).
        """
        if n < 1 or len(payload) != self.size(n):
            raise WireError(
                reasons.BAD_VALUES, f"{len(payload)} bytes are not the encoding of {n} values by {self.spec}"
            )
        calls = []
        at, length = 0, n
        for stage in self.stages:
            end = at + stage.size(length)
            calls.append((stage, payload[at:end], length))
            at, length = end, stage.length(length)
        values = NOTHING
        with np.errstate(all="ignore"):
            for stage, data, length in reversed(calls):
                values = stage.decode(values, data, length, seed)
        if not np.isfinite(values).all():
            raise WireError(reasons.BAD_VALUES, "the payload decodes to NaN or infinity")
        return values


def _stage(spec: str, text: str) -> tuple[int, Stage]:
    """(its place in the order, the stage)."""
    match = _STAGE.fullmatch(text)
    if match is None or match[1] not in _KINDS:
        raise _wrong(spec, f"{text!r:.60} is no stage; there are {', '.join(_KINDS)}")
    place, most, make = _KINDS[match[1]]
    arguments = match[2].split(",") if match[2] is not None else []
    if len(arguments) > most or (most > 0 and not arguments):
        raise _wrong(spec, f"{text:.60} has {len(arguments)} parameters")
    try:
        return place, make(*arguments)
    except ValueError as error:
        raise _wrong(spec, f"{text:.60}: {error!s:.120}") from None


def _wrong(spec: str, what: str) -> WireError:
    return WireError(reasons.WRONG_CHAIN, f"chain {spec[:80]!r}: {what}")


def _decimal(text: str, most: float) -> float:
    value = float(text) if _DECIMAL.fullmatch(text) else 0.0
    if not 0 < value <= most:
        raise ValueError(f"{text!r} is no decimal above 0 and at most {most:.0f}")
    return value


def _whole(text: str, least: int) -> int:
    value = int(text) if _WHOLE.fullmatch(text) else 0
    if not least <= value <= MAX_BLOCK:
        raise ValueError(f"{text!r} is no whole number from {least} to {MAX_BLOCK}")
    return value


def _rotate(block: str) -> Rotate:
    size = _whole(block, 2)
    if size & (size - 1):
        raise ValueError(f"{size} is no power of two")
    return Rotate(size)


def _quantise(bits: str, block: str = "256") -> Quantise:
    if bits not in ("1", "2", "4", "8"):
        raise ValueError(f"{bits!r} bits; there are 1, 2, 4 and 8")
    return Quantise(int(bits), _whole(block, 8))


_ORDER = "clip, feedback, rotate, topk or randk, ending"
# name -> (place in the order, most parameters, maker)
_KINDS: dict[str, tuple[int, int, Callable[..., Stage]]] = {
    "clip": (0, 1, lambda norm: Clip(_decimal(norm, 1e6))),
    "feedback": (1, 0, Feedback),
    "rotate": (2, 1, _rotate),
    "topk": (3, 1, lambda fraction: TopK(_decimal(fraction, 1))),
    "randk": (3, 1, lambda fraction: RandK(_decimal(fraction, 1))),
    "quantise": (4, 2, _quantise),
    "float32": (4, 0, lambda: Plain(4)),
    "float16": (4, 0, lambda: Plain(2)),
}
