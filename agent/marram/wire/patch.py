"""A file as a patch against an older one: zstd with the older file as its dictionary (``zstd --patch-from``).

The cloud signs patches beside a release; a device that holds the older file fetches the patch in place of the
file. It proves nothing: the file that comes out is checked as if it had been fetched.
"""

from __future__ import annotations

from marram.errors import WireError
from marram.wire import reasons

LARGEST = 64 << 20
"""Bytes of a file for which patches are made: both files and zstd's window are in memory at once."""
MARK = ".from-"
_LEVEL = 19


def name(target: str, base: str) -> str:
    """The target path of the patch that leads to ``target`` from the file with sha256 ``base`` (hex)."""
    return f"{target}{MARK}{base[:16]}"


def make(base: bytes, new: bytes) -> bytes:
    """The patch; it may be larger than ``new`` where the two have nothing in common."""
    # Imported here: of the device's processes only the child that fetches a release needs it.
    import zstandard

    window = min(max((len(base) + len(new)).bit_length(), 10), 31)
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, window_log=window, enable_ldm=True)
    known = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=known, compression_params=parameters).compress(new)


def apply(base: bytes, patch: bytes, size: int) -> bytes:
    """The new file, of ``size`` bytes. Raises WireError(MALFORMED)."""
    import zstandard

    try:
        told = zstandard.frame_content_size(patch)
        if told != size:
            raise WireError(reasons.MALFORMED, f"is a patch to {told} bytes, {size} are expected")
        known = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        decompressor = zstandard.ZstdDecompressor(dict_data=known, max_window_size=1 << 31)
        return decompressor.decompress(patch, max_output_size=size)
    except zstandard.ZstdError as error:
        raise WireError(reasons.MALFORMED, f"is no patch of the file that is here: {error}") from error
