"""``make powercuts``: every cut of an install. ``make powercuts CUTS="kept:57 half:12"`` replays some."""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

from tests.support.powercut.install import Cut, Install

# Most of the time a device waits: for windows, for its daemon's look.
_AT_ONCE = 2 * (cpu_count() or 1)


def main(wanted: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder, Install.made(Path(folder)) as install:
        cuts = [Cut.parse(text) for text in wanted] or install.cuts()
        print(f"{len(install.calls)} calls change the disk in an install; {len(cuts)} cuts", flush=True)
        failed = 0

        def survives(cut: Cut) -> str:
            try:
                return install.survives(cut)
            except AssertionError as error:
                return f"FAILED {error}"

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for text in pool.map(survives, cuts):
                failed += text.startswith("FAILED")
                print(text, flush=True)
        print(f"{len(cuts) - failed} of {len(cuts)} cuts were survived")
        return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
