"""Patches between files: whole or refused, whatever is in them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import patch


@given(st.binary(max_size=5000), st.binary(min_size=1, max_size=5000))
@settings(max_examples=60, deadline=None)
def test_a_patch_leads_from_one_file_to_the_other(base: bytes, new: bytes) -> None:
    made = patch.make(base, new)
    assert patch.apply(base, made, len(new)) == new
    with pytest.raises(WireError):
        patch.apply(base, made, len(new) - 1)
    with pytest.raises(WireError):
        patch.apply(base, made[: len(made) // 2], len(new))


def test_a_small_change_is_a_small_patch_and_another_base_gives_other_bytes() -> None:
    base = random.Random(1).randbytes(300_000)
    new = base[:1000] + b"other" + base[1005:]
    made = patch.make(base, new)
    assert len(made) < 2000
    try:
        assert patch.apply(base[::-1], made, len(new)) != new
    except WireError as error:
        assert "no patch" in str(error)


@given(st.binary(max_size=300), st.integers(0, 10_000))
def test_what_is_no_patch_is_refused(garbage: bytes, size: int) -> None:
    with pytest.raises(WireError):
        patch.apply(b"base", garbage, size)
