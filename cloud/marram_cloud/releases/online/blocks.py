"""Files of the repository as blocks over MQTT: what a device asked for, as messages, in bounded memory.

A request is held as its bitmap until it is answered, one a device and file at a time (a newer one of a device
takes the place of its older one), and the devices take turns, one message each. Nothing of a file is held:
each message is read when there is room to send it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from marram.errors import WireError
from marram.wire import cbor, reasons
from marram.wire.messages import Block, Fetch

_SERVED = ("metadata", "targets")
MAX_REQUEST = 16 << 10
_DEVICES = 8192
# More the device asks for again: it sees by then what came, and a broker queues only so much for it.
_ANSWERS = 64
_OVERHEAD = 96
# One message more than this would hold up what else is to be sent.
_LARGEST = 256 << 10


def read_request(payload: bytes) -> Fetch:
    """Raises WireError(TOO_LARGE, MALFORMED)."""
    if len(payload) > MAX_REQUEST:
        raise WireError(
            reasons.TOO_LARGE, f"a request of {len(payload)} bytes, at most {MAX_REQUEST} are read"
        )
    return cbor.unpack(payload, Fetch)


def locate(repository: Path, file: str) -> Path | None:
    """The file of that name that devices may have, or None."""
    parts = file.split("/")
    if parts[0] not in _SERVED or len(parts) < 2 or "\0" in file:
        return None
    if any(part.startswith(".") or not part for part in parts):
        return None
    path = repository.joinpath(*parts)
    # A link in the folder must not lead out of it.
    try:
        inside = path.resolve().is_relative_to((repository / parts[0]).resolve())
        return path if inside and path.is_file() else None
    except OSError:
        return None  # such as a name that is too long


def runs(request: Fetch, size: int, most: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is wanted of a file of ``size`` bytes: neighbours joined, at most ``most``
    bytes each."""
    most = max(1, most // request.block) * request.block if most >= request.block else most
    begin = end = 0
    if not size:
        yield 0, 0
    for block in _wanted(request):
        at, until = block * request.block, min((block + 1) * request.block, size)
        if at >= size:
            break
        if at != end or end == begin:
            yield from _cut(begin, end, most)
            begin = at
        end = until
    yield from _cut(begin, end, most)


@dataclass
class _Job:
    request: Fetch
    path: Path
    size: int
    left: Iterator[tuple[int, int]]
    answers: int = 0


class BlockServer:
    """Requests in, messages out."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._jobs: OrderedDict[str, _Job] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Devices that are not answered in full."""
        return len(self._jobs)

    def ask(self, device: str, request: Fetch, max_payload: int) -> Block | None:
        """Take in a request. The answer, where there is no such file. Raises WireError(TOO_LARGE)."""
        path = locate(self._repository, request.file)
        size = _size(path) if path is not None else None
        if path is None or size is None:
            return Block(request.id, 0, 0, b"", missing=True)
        if device not in self._jobs and len(self._jobs) >= _DEVICES:
            raise WireError(reasons.TOO_LARGE, f"{_DEVICES} devices are being answered; ask again later")
        most = min(request.limit, max_payload - _OVERHEAD, _LARGEST)
        self._jobs[device] = _Job(request, path, size, runs(request, size, most))
        return None

    def next(self) -> tuple[str, Block] | None:
        """One message of the device whose turn it is; None when nobody waits."""
        while self._jobs:
            device, job = self._jobs.popitem(last=False)
            run = next(job.left, None)
            if run is None or job.answers >= _ANSWERS:
                continue
            block = _read(job, *run)
            if block is None:
                continue
            job.answers += 1
            self._jobs[device] = job
            return device, block
        return None


def _size(path: Path) -> int | None:
    """None when it has gone meanwhile."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def packed(block: Block) -> bytes:
    return cbor.pack(block)


def _wanted(request: Fetch) -> Iterator[int]:
    for index, byte in enumerate(request.wanted):
        if byte:
            for bit in range(8):
                if byte >> bit & 1:
                    yield request.first + index * 8 + bit


def _cut(begin: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    for at in range(begin, end, most):
        yield at, min(most, end - at)


def _read(job: _Job, offset: int, length: int) -> Block | None:
    """None when the file has gone or changed: what was asked for is not there any more."""
    try:
        with job.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != job.size:
                return None
            data = os.pread(file.fileno(), length, offset)
    except OSError:
        return None
    return Block(job.request.id, job.size, offset, data) if len(data) == length else None
