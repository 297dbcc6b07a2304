"""Parts of slow suites: ``make test`` runs some, drawn by the date; ``make whole`` runs all, and ``make zoo``
those of the workshop."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import date

import pytest

ALL = os.environ.get("MARRAM_ZOO") == "all"
ONLY_ZOO = pytest.mark.skipif(not ALL, reason="slow: make zoo runs it")


def every_fourth_day(turn: int) -> pytest.MarkDecorator:
    """Of slow tests, which take turns. turn: 0 to 3, whose day it is."""
    others = not ALL and not os.environ.get("MARRAM_TFLITE") and date.today().toordinal() % 4 != turn
    return pytest.mark.skipif(others, reason="slow: every fourth day, and in make whole")


def drawn(names: Iterable[str], count: int) -> list[str]:
    """So many of the names, others every day; all of them in ``make whole``."""
    every = list(names)
    first = date.today().toordinal() * count
    return every if ALL else [every[(first + place) % len(every)] for place in range(count)]
