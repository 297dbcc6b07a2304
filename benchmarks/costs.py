"""What processes cost their machine over a while, as the kernel counts it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import cpu_seconds, pss

_HOUR = 3600.0


@dataclass(frozen=True)
class Costs:
    """pss: bytes, at the end. processor: of one core, 0 to 1. wakeups: a second. written, sent: bytes an
    hour.
    """

    pss: int
    processor: float
    wakeups: float
    written: float
    sent: float

    def __str__(self) -> str:
        return (
            f"{self.pss / 2**20:.1f} MiB PSS, {100 * self.processor:.2f} % of a core, "
            f"{self.wakeups:.1f} wake-ups a second, {_size(self.written)} written and "
            f"{_size(self.sent)} sent an hour"
        )


def observe(processes: Callable[[], Sequence[int]], seconds: float, sent: Callable[[], int]) -> Costs:
    """Watch for so long. processes: their ids. sent: bytes that left so far, by whatever counts them."""
    before, out = {pid: _counts(pid) for pid in processes()}, sent()
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    now = processes()
    after = {pid: _counts(pid) for pid in now}
    processor, wakeups, written = (
        sum(counts[kind] - before.get(pid, (0.0, 0.0, 0.0))[kind] for pid, counts in after.items()) / passed
        for kind in range(3)
    )
    return Costs(sum(map(pss, now)), processor, wakeups, written * _HOUR, (sent() - out) / passed * _HOUR)


def _counts(pid: int) -> tuple[float, float, float]:
    """(processor seconds, times that a thread gave up the processor to wait, bytes written) so far."""
    waits = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    waits += int(line.split()[1])
    written = 0
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            written = int(line.split()[1])
    return cpu_seconds(pid), float(waits), float(written)


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
