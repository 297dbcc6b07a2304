"""The judgement over a candidate: each gate by itself, its limits, and all reasons at once."""

from __future__ import annotations

import pytest
from marram.releases.gates import Limits, Measured, judge, together

LIMITS = Limits(latency=3.0, memory=3.0, agreement=0.8, accuracy=0.05, labelled=30)
RUNNING = Measured(windows=100, cpu_us=100.0, memory=20 << 20)
MIB = 1 << 20


def candidate(**changes: object) -> Measured:
    fields = {"windows": 100, "cpu_us": 100.0, "memory": 20 * MIB, "compared": 100, "agreed": 100, **changes}
    return Measured(**fields)  # type: ignore[arg-type]


def labelled(correct: int, running: int, count: int = 100, agreed: int = 100) -> Measured:
    return candidate(labelled=count, correct=correct, running_correct=running, agreed=agreed)


GOOD = {
    "the same": candidate(),
    "three times slower": candidate(cpu_us=300.0),
    "little time": candidate(cpu_us=299.0),
    "three times the memory": candidate(memory=60 * MIB),
    "agrees just enough": candidate(agreed=80),
    "a little less right": labelled(75, 80),
    "more right, so it disagrees": labelled(80, 30, agreed=20),
    "too few labels to count": labelled(1, 20, count=29),
}
BAD = {
    "NaN": (candidate(errors=3, not_finite=2, problem="x"), "NaN or infinity on 2 of 100"),
    "failures": (candidate(errors=3, problem="words"), "failed on 3 of 100 windows (words)"),
    "slow": (candidate(cpu_us=301.0), "processor time"),
    "large": (candidate(memory=61 * MIB), "MiB of memory"),
    "disagrees": (candidate(agreed=79), "agrees with the running model on 79%"),
    "less right": (labelled(74, 80), "right on 74%"),
    "no more right and disagrees": (labelled(79, 80, agreed=20), "agrees"),
}


@pytest.mark.parametrize("measured", GOOD.values(), ids=GOOD)
def test_what_may_run(measured: Measured) -> None:
    assert judge(measured, RUNNING, LIMITS) == ""


@pytest.mark.parametrize(("measured", "why"), BAD.values(), ids=BAD)
def test_what_may_not_run(measured: Measured, why: str) -> None:
    assert why in judge(measured, RUNNING, LIMITS)


def test_all_reasons_are_told() -> None:
    said = judge(candidate(cpu_us=1e4, memory=500 * MIB, agreed=0), RUNNING, LIMITS)
    assert said.count(";") >= 2


def test_a_model_that_guesses_the_label_of_the_hour_does_not_stand_against_what_is_stored() -> None:
    """Live windows are of one exercise, which the untrained model always says."""
    live, stored = labelled(3, 20, count=41, agreed=0), labelled(320, 60, count=387, agreed=40)
    assert judge(live, RUNNING, LIMITS) != ""
    assert judge(together(live, stored), RUNNING, LIMITS) == ""
    # What was not measured on live windows still counts only there.
    assert together(candidate(errors=1), stored).errors == 1


def test_without_measurements_of_the_running_model_nothing_is_compared() -> None:
    assert judge(candidate(cpu_us=1e6, memory=500 * MIB), Measured(), LIMITS) == ""
