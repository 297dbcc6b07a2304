"""What a child does to itself before it works: it steps back behind all else and bounds its memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from marram.errors import MarramError


def step_back(nice: int, memory: int, parent: int) -> None:
    """Lower priority, first to go when memory runs out, bounded memory, no life after the parent's.

    parent: process id that the parent said is its own: it may have died before this process could look.
    memory: bytes.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit("the daemon is gone")
    # A sandbox may refuse both; the memory limit below holds all the same.
    with contextlib.suppress(OSError):
        os.nice(nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def explain(error: Exception, memory: int) -> str:
    """One line about what ended a child whose memory was bounded to ``memory`` bytes."""
    text = str(error)
    # The second and third are onnxruntime's words.
    if isinstance(error, MemoryError) or "bad_alloc" in text or "Failed to allocate memory" in text:
        return f"the memory limit of {memory >> 20} MiB was reached"
    return text if isinstance(error, MarramError) else f"{type(error).__name__}: {text}"
