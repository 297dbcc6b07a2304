"""Files over HTTPS, with ranges (RFC 9110, section 14), bounded in time and bytes.

A server that sends slower than ``least_rate`` over a file is given up (slow retrieval), and so is one that
says nothing for ``patience`` seconds. Plain HTTP works too: what comes is signed.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import urllib3
from urllib3.response import BaseHTTPResponse

from marram.releases.transport import MissingFileError, Range, TransportError, joined

_READ = 64 << 10
_GAP = 2048


class HttpsTransport:
    """patience: seconds without a byte. least_rate: bytes a second that a file must come with.

    authority: PEM file of certificates that are believed beside the system's own.
    """

    def __init__(
        self, patience: float = 30.0, least_rate: float = 200.0, authority: str | None = None
    ) -> None:
        self._patience, self._least_rate = patience, least_rate
        context = ssl.create_default_context()
        if authority is not None:
            context.load_verify_locations(authority)
        self._pool = urllib3.PoolManager(
            headers={"User-Agent": "marram", "Accept-Encoding": "identity"},
            timeout=urllib3.Timeout(connect=patience, read=patience),
            retries=False,
            ssl_context=context,
        )

    def whole(self, file: str, most: int) -> Iterator[bytes]:
        with self._get(file, {}) as response:
            _check(file, response, (200,))
            got = 0
            for data in self._body(file, response):
                got += len(data)
                yield data
                if got > most:
                    return

    def ranges(self, file: str, ranges: Sequence[Range], size: int) -> Iterator[tuple[int, bytes]]:
        for offset, length in joined(ranges, _GAP):
            last = min(offset + length, size) - 1
            whole = offset == 0 and last == size - 1
            with self._get(file, {} if whole else {"Range": f"bytes={offset}-{last}"}) as response:
                _check(file, response, (200, 206))
                at, end = (offset, last + 1) if response.status == 206 else (0, size)
                for data in self._body(file, response):
                    yield at, data[: end - at]
                    at += len(data)
                    if at >= end:
                        break
                if at < end:
                    raise TransportError(f"{file}: ended after {at} of {end} bytes")
                if response.status == 200:
                    return  # a server without ranges has sent all of it

    @contextmanager
    def _get(self, file: str, headers: dict[str, str]) -> Iterator[BaseHTTPResponse]:
        try:
            response = self._pool.request("GET", file, headers=headers, preload_content=False)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise TransportError(f"{file}: {error}") from error
        try:
            yield response
        finally:
            response.close()

    def _body(self, file: str, response: BaseHTTPResponse) -> Iterator[bytes]:
        """What comes, given up when it comes too slowly."""
        began, got = time.monotonic(), 0
        try:
            # read1 hands on what is there: a drop at a time must not hide behind a full buffer.
            while data := response.read1(_READ):
                got += len(data)
                took = time.monotonic() - began
                if took > self._patience and got < (took - self._patience) * self._least_rate:
                    raise TransportError(f"{file}: only {got} bytes came in {took:.0f} s; given up")
                yield data
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransportError(f"{file}: broke off after {got} bytes: {error}") from error


def _check(file: str, response: BaseHTTPResponse, good: Sequence[int]) -> None:
    if response.status in (403, 404):
        raise MissingFileError(f"{file}: is not there (HTTP {response.status})", response.status)
    if response.status not in good:
        raise TransportError(f"{file}: the server answers with HTTP {response.status}")
