"""Degraded modes begin when their cause has been seen long enough, and end with it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from marram.device.modes import MODES, Modes

from tests.support.pages import docs

names = st.sampled_from(sorted(MODES))


@given(st.lists(st.tuples(st.floats(0, 20), st.dictionaries(names, st.text(min_size=1))), max_size=30))
def test_every_beginning_has_an_end_and_what_is_active_is_what_was_seen_long_enough(looks):
    modes, now, begun, first = Modes(), 0.0, set(), {}
    for passed, observed in looks:
        now += passed
        first = {name: first.get(name, now) for name in observed}
        for change in modes.see(observed, now):
            assert (change.mode.name in begun) is not change.begins
            begun ^= {change.mode.name}
            assert change.reason == observed.get(change.mode.name, "")
        wanted = {name for name in observed if now - first[name] >= MODES[name].patience}
        assert set(modes.active) == begun == wanted
        assert all(modes.active[name].reason == observed[name] for name in wanted)
        assert all(modes.active[name].since == first[name] for name in wanted)


def test_the_summary_names_every_mode_with_its_reason():
    modes = Modes()
    assert modes.summary() == "running"
    modes.see({"hot": "91 degC", "disk-full": "3 MiB free"}, 0)
    assert modes.summary() == "running with limits: disk-full (3 MiB free); hot (91 degC)"


def test_a_short_loss_of_the_network_is_no_mode():
    modes = Modes()
    assert modes.see({"no-network": "gone"}, 0) == []
    assert modes.see({}, 4) == []
    assert modes.see({"no-network": "gone"}, 5) == []
    assert [change.mode.name for change in modes.see({"no-network": "gone"}, 10)] == ["no-network"]


def test_the_page_has_every_mode_with_what_goes_on_and_what_stops():
    table = {row[0].strip("`"): row for row in docs("operating.md").table("## Degraded modes")}
    assert {name: [text.replace("`", "") for text in row[1:]] for name, row in table.items()} == {
        name: [text.replace("`", "") for text in (mode.goes_on, mode.stops, mode.todo)]
        for name, mode in MODES.items()
    }
