"""Memory that only the start needed, given back.

Importing the libraries and loading a model touches some 25 MiB of their code once: registries are filled,
graphs optimised. Those pages stay mapped although a daemon at work uses few of them. Unmapped, they are plain
page cache, the first that the kernel takes when something else needs memory; what is used again comes back
from there by a minor fault.
"""

from __future__ import annotations

import ctypes
import logging
import re
from pathlib import Path

log = logging.getLogger(__name__)

_MADV_DONTNEED = 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p [0-9a-f]+ \S+ [1-9]\d* +/")


def release_start_pages() -> int:
    """Unmap the clean pages of read-only file mappings (libraries); the bytes that were mapped.

    Linux only; elsewhere, or where /proc is hidden, nothing happens.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        mappings = _clean_file_mappings(Path("/proc/self/smaps").read_text())
        released = 0
        for start, length, resident in mappings:
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED) == 0:
                released += resident
    except (OSError, AttributeError, ValueError) as error:
        log.debug("start pages stay mapped: %s", error)
        return 0
    return released


def _clean_file_mappings(smaps: str) -> list[tuple[int, int, int]]:
    """(address, length, resident bytes) of mappings that can be read again from their files as they are.

    A relocated mapping is read-only too, but holds pages of its own (Anonymous): those exist nowhere else.
    """
    found = []
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps):
        match = _MAPPING.match(block)
        if match is None or _kilobytes(block, "Anonymous") or _kilobytes(block, "Private_Dirty"):
            continue
        start, end = int(match[1], 16), int(match[2], 16)
        found.append((start, end - start, _kilobytes(block, "Rss") * 1024))
    return found


def _kilobytes(block: str, field: str) -> int:
    match = re.search(rf"^{field}: +(\d+) kB", block, re.MULTILINE)
    if match is None:
        raise ValueError(f"no {field} in smaps")
    return int(match[1])
