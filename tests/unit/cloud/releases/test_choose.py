"""Which versions are released: those in a row that the devices' own evaluations like best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.wire.messages import Metrics
from marram_cloud.releases.choose import ChoiceError, best, summarise


def seen(*accuracies, count=10):
    return [(f"device-{n}", Metrics(count, 1.0, accuracy)) for n, accuracy in enumerate(accuracies)]


def test_the_most_accurate_kept_version_wins():
    evaluations = {1: seen(0.5, 0.5), 2: seen(0.9, 0.7), 3: seen(0.6, 0.8), 4: seen(0.99, 0.99)}
    assert best(evaluations, [1, 2, 3], 2, 1).versions == (2,)


def test_the_best_stretch_wins_over_a_single_lucky_version():
    accuracies = [0.1, 0.95, 0.1, 0.6, 0.7, 0.8, 0.7, 0.8, 0.6]
    evaluations = {version: seen(one, one) for version, one in enumerate(accuracies)}
    chosen = best(evaluations, range(9), 2, 3)
    assert chosen.versions == (5, 6, 7)
    assert chosen.accuracy == pytest.approx((0.8 + 0.7 + 0.8) / 3)


def test_a_stretch_is_at_most_a_third_of_all_versions():
    evaluations = {version: seen(0.1 * version, 0.1 * version) for version in range(7)}
    assert best(evaluations, range(7), 2, 10).versions == (4, 5, 6)
    assert best({0: seen(0.1, 0.1)}, [0], 2, 10).versions == (0,)


def test_of_equals_the_newest_wins():
    assert best({1: seen(0.5, 0.5), 2: seen(0.5, 0.5)}, [1, 2], 2, 1).versions == (2,)


def test_without_accuracy_the_smallest_loss_wins():
    evaluations = {
        n: [("a", Metrics(10, loss)), ("b", Metrics(10, loss))] for n, loss in ((1, 0.5), (2, 0.2), (3, 0.4))
    }
    assert best(evaluations, [1, 2, 3], 2, 1).versions == (2,)


def test_a_version_that_too_few_devices_saw_is_not_released():
    assert best({1: seen(0.5, 0.5), 2: seen(0.9)}, [1, 2], 2, 1).versions == (1,)
    with pytest.raises(ChoiceError, match="by 2 devices"):
        best({2: seen(0.9)}, [2], 2, 1)


def test_a_device_that_evaluated_no_window_has_not_evaluated():
    evaluations = {1: [("a", Metrics(10, 1.0, 0.9)), ("b", Metrics(0, 0.0, 0.0))]}
    assert summarise(1, [metrics for _, metrics in evaluations[1]]).devices == 1
    with pytest.raises(ChoiceError):
        best(evaluations, [1], 2, 1)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=8))
def test_the_fleets_figures_are_means_over_all_windows(rows):
    summary = summarise(7, [Metrics(count, loss, accuracy) for count, loss, accuracy in rows])
    total = sum(count for count, _, _ in rows)
    assert summary.count == total
    assert summary.loss == pytest.approx(sum(count * loss for count, loss, _ in rows) / total)
    assert summary.accuracy == pytest.approx(sum(count * accuracy for count, _, accuracy in rows) / total)
