"""What a device must fetch of a changed model: content-defined pieces against zstd's patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import zstandard
from marram.wire import pieces
from marram_cloud.compression.ranges import measure
from marram_cloud.releases.calibration import read_calibration
from marram_cloud.releases.rebuild import rebuild
from numpy.typing import NDArray

from tests.support.windows import SHOULDER, bundle

_LAYERS, _LAYER = 20, 65_536  # float32 weights: 20 layers of 256 KiB
_LEVEL = 19

Weights = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Change:
    """A file before and after, and the bytes that reach a device that holds the one before."""

    name: str
    old: bytes
    new: bytes

    @property
    def by_pieces(self) -> tuple[int, int]:
        """(index, pieces that the old file does not have), bytes."""
        held = {pieces.short(self.old[at : at + size]) for at, size in pieces.cut(self.old)}
        new = ((self.new[at : at + size]) for at, size in pieces.cut(self.new))
        return len(pieces.index(self.new)), sum(len(one) for one in new if pieces.short(one) not in held)

    @property
    def by_patch(self) -> int:
        """zstd --patch-from: the old file as a raw dictionary, long distance matching."""
        window = max(20, (len(self.old) + len(self.new)).bit_length())
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _LEVEL, window_log=window, enable_ldm=True, source_size=len(self.new)
        )
        known = zstandard.ZstdCompressionDict(self.old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return len(
            zstandard.ZstdCompressor(dict_data=known, compression_params=parameters).compress(self.new)
        )

    @property
    def compressed(self) -> int:
        """zstd without the old file."""
        return len(zstandard.ZstdCompressor(level=_LEVEL).compress(self.new))


def retrained(version: str, seed: int) -> bytes:
    """The shoulder bundle with other parameters, and the int8 program made from them."""
    source = bundle(SHOULDER)
    manifest = source.manifest
    noise = np.random.default_rng(seed).normal(0, 1e-2, manifest.parameter_count)
    windows = read_calibration(
        SHOULDER.with_name("calibration.npz"), len(manifest.channels), manifest.length
    ).windows
    parameters = (source.parameters() + noise).astype(np.float32)
    ranges = measure(source.members[manifest.programs["predict"].file], parameters, windows)
    return rebuild(source, parameters, ranges, None, version, {}).content


def changes() -> list[Change]:
    """The shoulder bundle retrained; 5 MB of made-up weights with one layer changed, and with all."""
    random = np.random.default_rng(0)
    layers = [random.normal(0, 0.05, _LAYER).astype(np.float32) for _ in range(_LAYERS)]

    def changed(layer: Callable[[int, NDArray[np.float32]], NDArray[np.floating]]) -> bytes:
        return _file([layer(place, one).astype(np.float32) for place, one in enumerate(layers)])

    old = _file(layers)
    fresh = random.normal(0, 0.05, _LAYER)
    return [
        Change("shoulder bundle, retrained", retrained("1", 1), retrained("2", 2)),
        Change("5 MB of float32, one layer of 20 new", old, changed(lambda n, one: fresh if n == 9 else one)),
        Change(
            "5 MB of float32, every weight off by 0.1 %",
            old,
            changed(lambda _, one: one * (1 + 1e-3 * random.normal(size=_LAYER))),
        ),
        Change(
            "1.3 MB of int8, one weight of 50 off by 1",
            _int8(layers),
            bytes(
                (np.frombuffer(_int8(layers), np.int8) + (random.random(_LAYERS * _LAYER) < 0.02)).astype(
                    np.int8
                )
            ),
        ),
    ]


def _file(layers: Weights) -> bytes:
    return b"".join(layer.tobytes() for layer in layers)


def _int8(layers: Weights) -> bytes:
    return b"".join(np.clip(layer / 0.2 * 127, -126, 126).astype(np.int8).tobytes() for layer in layers)
