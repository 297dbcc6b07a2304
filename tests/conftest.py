"""The longest files come first, so that no worker is left with one at the end."""

from __future__ import annotations

import pytest

FIRST = ("tests/zoo/", "tests/system/", "tests/integration/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda one: not one.nodeid.startswith(FIRST))
