"""Heat with a margin, under-voltage, wear: pure decisions, held by properties."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from marram.config.machine import Watch
from marram.device.care import MARGIN, Care, Seen, above

degrees = st.none() | st.floats(-40, 130)
limits = st.floats(-40, 150)


@given(st.booleans(), degrees, limits)
def test_above_its_limit_it_is_hot_and_below_the_margin_it_is_not(before, temperature, limit):
    now = above(before, temperature, limit)
    if temperature is None or temperature <= limit - MARGIN:
        assert not now
    elif temperature > limit:
        assert now
    else:
        assert now is before


@given(st.lists(degrees, max_size=50), limits)
def test_what_was_stopped_goes_on_only_after_it_was_cooler_by_the_margin(temperatures, limit):
    states = [False]
    for temperature in temperatures:
        states.append(above(states[-1], temperature, limit))
    for (before, after), temperature in zip(pairwise(states), temperatures, strict=True):
        if before and not after:
            assert temperature is None or temperature <= limit - MARGIN
        if after and not before:
            assert temperature is not None
            assert temperature > limit


watches = st.builds(
    Watch,
    training_below=st.floats(0, 90),
    full_speed_below=st.none() | st.floats(90, 120),
    duty=st.floats(0.01, 1),
    under_voltage=st.sampled_from(["pause_training", "ignore"]),
    writes_per_day=st.none() | st.integers(1, 1 << 40),
)
seen = st.builds(
    Seen, degrees=degrees, under_voltage=st.none() | st.booleans(), written=st.integers(0, 1 << 40)
)


@given(st.lists(seen, min_size=1, max_size=20), watches)
def test_orders_follow_from_what_was_seen(looks, settings):
    care = Care()
    for look in looks:
        care = care.after(look, settings)
        assert care.duty(settings) in (1.0, settings.duty)
        if settings.full_speed_below is None or look.degrees is None:
            assert care.duty(settings) == 1.0
        if look.degrees is not None and look.degrees > settings.training_below:
            assert "too hot" in care.training_paused(settings)
        # Inference is never slowed down while training goes on.
        if care.duty(settings) < 1:
            assert care.training_paused(settings)
        if not care.hot:
            weak = bool(look.under_voltage) and settings.under_voltage == "pause_training"
            assert bool(care.training_paused(settings)) is weak
        assert care.worn is (settings.writes_per_day is not None and look.written > settings.writes_per_day)
