"""Is there enough memory for the daemon and its children?"""

from __future__ import annotations

from collections.abc import Iterator

from marram.device.thermal import read
from marram.doctor.finding import Finding, error, ok, warning
from marram.doctor.machine import Machine

DAEMON = 96 << 20  # bytes: a daemon with a small model, and some room


def check(machine: Machine) -> Iterator[Finding]:
    facts = {
        key: int(value.split()[0]) * 1024
        for key, _, value in (line.partition(":") for line in read(machine.proc / "meminfo").splitlines())
        if value.split()[:1] and value.split()[0].isdecimal()
    }
    total, free = facts.get("MemTotal"), facts.get("MemAvailable")
    if total is None or free is None:
        yield warning("memory", "the kernel does not say how much there is", "mount /proc")
        return
    child = largest_child(machine)
    found = f"{free >> 20} of {total >> 20} MiB free"
    if machine.status is None and free < DAEMON:
        yield error("memory", f"{found}; the agent needs some {DAEMON >> 20}", "stop what else runs")
    elif child and free < child:
        yield warning(
            "memory",
            f"{found}; training or trying a release may take {child >> 20}",
            "stop what else runs, or lower learning.trainer.memory and releases.memory",
        )
    else:
        yield ok("memory", found)


def largest_child(machine: Machine) -> int:
    """The most that one child of the daemon may take, bytes; 0 where it has none."""
    config = machine.config
    if config is None:
        return 0
    training = config.learning.trainer.memory if config.learning is not None else 0
    return max(training, config.releases.memory if config.cloud is not None else 0)
