"""Which version is released: the one that the devices' own evaluations like best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.wire.messages import Metrics
from marram_cloud.releases.choose import ChoiceError, best, summarise


def seen(*accuracies, count=10):
    return [(f"device-{n}", Metrics(count, 1.0, accuracy)) for n, accuracy in enumerate(accuracies)]


def released(evaluations, kept=None, minimum=2, length=1):
    return best(evaluations, sorted(evaluations) if kept is None else kept, minimum, length)


def test_the_most_accurate_kept_version_wins():
    evaluations = {1: seen(0.5, 0.5), 2: seen(0.9, 0.7), 3: seen(0.6, 0.8), 4: seen(0.99, 0.99)}
    assert released(evaluations, kept=[1, 2, 3]).versions == (2,)


def test_of_equals_the_newest_wins():
    assert released({1: seen(0.5, 0.5), 2: seen(0.5, 0.5)}).versions == (2,)


def test_without_accuracy_the_smallest_loss_wins():
    losses = ((1, 0.5), (2, 0.2), (3, 0.4))
    evaluations = {number: [("a", Metrics(10, loss)), ("b", Metrics(10, loss))] for number, loss in losses}
    assert released(evaluations).versions == (2,)


def test_the_best_stretch_of_versions_is_released_and_its_figures_are_means():
    accuracies = [0.1, 0.9, 0.2, 0.6, 0.7, 0.6, 0.3, 0.2, 0.1]
    chosen = released({n: seen(value, value) for n, value in enumerate(accuracies)}, length=3)
    assert chosen.versions == (3, 4, 5)
    assert chosen.accuracy == pytest.approx(19 / 30)
    assert chosen.devices == 2


def test_a_young_fleets_stretch_is_at_most_a_third_of_its_versions():
    evaluations = {n: seen(0.5, 0.5) for n in range(7)}
    assert released(evaluations, length=10).versions == (4, 5, 6)


def test_a_version_that_too_few_devices_saw_is_not_released():
    assert released({1: seen(0.5, 0.5), 2: seen(0.9)}).versions == (1,)
    with pytest.raises(ChoiceError, match="by 2 devices"):
        released({2: seen(0.9)})


def test_a_device_that_evaluated_no_window_has_not_evaluated():
    evaluations = {1: [("a", Metrics(10, 1.0, 0.9)), ("b", Metrics(0, 0.0, 0.0))]}
    assert summarise(1, [metrics for _, metrics in evaluations[1]]).devices == 1
    with pytest.raises(ChoiceError):
        released(evaluations)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=8))
def test_the_fleets_figures_are_means_over_all_windows(rows):
    summary = summarise(7, [Metrics(count, loss, accuracy) for count, loss, accuracy in rows])
    total = sum(count for count, _, _ in rows)
    assert summary.count == total
    assert summary.loss == pytest.approx(sum(count * loss for count, loss, _ in rows) / total)
    assert summary.accuracy == pytest.approx(sum(count * accuracy for count, _, accuracy in rows) / total)
