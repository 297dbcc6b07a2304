"""Which tests wait for `make system`."""

import os

import pytest

full = pytest.mark.skipif(
    os.environ.get("MARRAM_SYSTEM") != "all", reason="takes long: a part of `make system`"
)
