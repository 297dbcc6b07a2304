"""Which candidate a budget takes."""

import pytest
from marram_cloud.compression.cost import Cost
from marram_cloud.workshop.budget import Budget, BudgetError, Candidate, front


def candidate(size, time, loss, precision="int8", pruned=0.0):
    return Candidate(pruned, precision, size, size, size, Cost(time, 2 * time, 1, 1), None, 0.0, loss)


SMALL, FAST, GOOD = candidate(10, 50.0, 0.03), candidate(20, 30.0, 0.02), candidate(40, 60.0, 0.0)
ALL = (SMALL, FAST, GOOD)


@pytest.mark.parametrize(
    ("budget", "taken"),
    [
        (Budget(loss=0.05), SMALL),
        (Budget(loss=0.02), FAST),
        (Budget(loss=0.0), GOOD),
        (Budget(latency=100.0), FAST),
        (Budget(bytes=100, latency=100.0), SMALL),
        (Budget(bytes=20, loss=0.02), FAST),
    ],
    ids=str,
)
def test_the_smallest_that_keeps_the_budget_is_taken_or_the_fastest_where_only_time_counts(budget, taken):
    assert budget.fitting(ALL)[0] == taken


def test_the_nearest_comes_first_when_nothing_fits():
    with pytest.raises(BudgetError) as caught:
        Budget(bytes=9, loss=0.03).fitting(ALL)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("no model keeps --max-bytes 9 --max-accuracy-loss 0.03")
    assert lines[1].strip() == "int8: 10 bytes, 50 us, loss of accuracy 0.0300"


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"bytes": 0}, "--max-bytes 0: expected a number above 0"),
        ({"latency": float("nan")}, "--max-latency-us nan: expected a number above 0"),
        ({"loss": -0.1}, "--max-accuracy-loss -0.1: expected 0 or"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(limit, words):
    with pytest.raises(BudgetError, match=words):
        Budget(**limit)


def test_what_another_beats_in_everything_is_not_on_the_front():
    worse = candidate(41, 61.0, 0.01)
    assert front([*ALL, worse]) == list(ALL)
    assert front([GOOD, GOOD]) == [GOOD, GOOD]
