"""Giving back what only the start needed."""

import subprocess
import sys

from marram.device.memory import _clean_file_mappings

SMAPS = """\
7f0000000000-7f0000100000 r-xp 00000000 fe:00 11 /usr/lib/libclean.so
Rss:                 800 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
7f0000100000-7f0000200000 r--p 00100000 fe:00 11 /usr/lib/librelocated.so
Rss:                  64 kB
Private_Dirty:        64 kB
Anonymous:            64 kB
7f0000200000-7f0000300000 rw-p 00200000 fe:00 11 /usr/lib/libclean.so
Rss:                  64 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
7f0000300000-7f0000400000 r--p 00000000 00:00 0 [vvar]
Rss:                   4 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
7f0000400000-7f0000500000 r--s 00000000 fe:00 12 /var/cache/shared
Rss:                   4 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
"""

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from marram.bundle.file import read
from marram.device.memory import release_start_pages

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

program = read(Path(sys.argv[1])).program("infer")
x = np.random.default_rng(0).standard_normal((3, 6, 100)).astype(np.float32)
before, held = program(x=x)["scores"], resident()
released = release_start_pages()
less = held - resident()
assert released > 5 << 20, released
assert less > released / 2, (less, released)
assert np.array_equal(program(x=x)["scores"], before)
"""


def test_only_mappings_that_their_file_can_give_again_are_unmapped() -> None:
    assert _clean_file_mappings(SMAPS) == [(0x7F0000000000, 0x100000, 800 * 1024)]


def test_a_process_is_smaller_afterwards_and_computes_the_same() -> None:
    command = [sys.executable, "-c", PROGRAM, "examples/shoulder/shoulder.marram"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
