"""Power cuts: what writes to the disk is cut off at its n-th step, for every n."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_STEPS = (
    (os, "open"), (os, "fsync"), (os, "link"),
    (Path, "replace"), (Path, "unlink"), (Path, "symlink_to"), (Path, "mkdir"),
)  # fmt: skip


class PowerCut(BaseException):
    """The end; no handler of errors may take it for one."""


def cut_everywhere(prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """Prepare, and make the call that ``prepare`` gives, each time cut off one step later, until it ends.

    Yields the number of the step after each cut; the test then looks at what is on the disk.
    """
    for limit in range(1, 1000):
        left, does = limit, prepare()

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def step(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise PowerCut
                return real(*arguments, **more)

            return step

        with pytest.MonkeyPatch.context() as patched:
            for owner, name in _STEPS:
                patched.setattr(owner, name, counted(getattr(owner, name)))
            try:
                does()
            except PowerCut:
                pass
            else:
                return
        yield limit
    raise AssertionError("it never ends")
