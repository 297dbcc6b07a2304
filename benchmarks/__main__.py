"""``make bench``, or ``python -m benchmarks NAME ...`` for some of them: measure, print, write RESULTS.md."""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks.report import write

NAMES = (
    "pipeline", "training_step", "aggregator", "learning", "stream_rate", "footprint", "planted_load",
    "releases", "runtimes", "litert", "zoo", "compression", "own_int8", "trees",
)  # fmt: skip


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 1
    for name in names or NAMES:
        print(f"... {name}", file=sys.stderr, flush=True)
        text = import_module(f"benchmarks.{name}").measure().markdown()
        print(text, flush=True)
        write({name: text})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
