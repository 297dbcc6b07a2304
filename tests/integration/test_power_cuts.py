"""A device is cut off at points of an install, drawn anew each day; ``make powercuts`` takes all of them."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from tests.support.powercut.install import Install

CUTS = 6


def test_a_cut_anywhere_leaves_a_complete_model_and_the_install_goes_on(tmp_path: Path) -> None:
    with Install.made(tmp_path) as install, ThreadPoolExecutor(2) as pool:
        assert len(install.calls) > 100, "the shim does not count"
        cuts = random.Random(date.today().isoformat()).sample(install.cuts(), CUTS)
        print('replay with: make powercuts CUTS="', *cuts, '"')
        for done in pool.map(install.survives, cuts):
            print(done)
