"""A forest's training, for real: the trainer child on a clinic's windows, for a round and alone."""

import numpy as np
import pytest
from marram.bundle.file import read
from marram.bundle.forest import Layout
from marram.errors import TrainingError
from marram.learning.forest.vote import correct
from marram.learning.store import read_training_set
from marram.learning.trainer import CONTRIBUTION
from marram.stream.blocks import Windows
from marram.wire.trees import decode

from examples.trees.make import make
from examples.trees.tables import cancer
from tests.support.training import filled_store, job, run

TREES = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("project")).path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    made = tmp_path_factory.mktemp("device")
    rows, labels = cancer().devices[3]
    times = np.arange(len(rows), dtype=np.float64)
    windows = Windows(times, times, rows[:, :, None], labels.astype(np.int16), np.zeros(len(rows), np.bool_))
    filled_store(made / "windows.db", windows, model).close(0.0)
    return made


def trained(folder, model, name, **changes):
    output = folder / name
    return run(job(folder, bundle=str(model), output=str(output), **changes)), output


@pytest.fixture(scope="module")
def layout(model):
    return Layout.of(read(model).manifest)


def test_a_round_leaves_new_trees_and_the_scores_of_the_old_ones(folder, model, layout):
    result, output = trained(folder, model, "round", trees=TREES, seed=5)
    told = decode((output / CONTRIBUTION).read_bytes(), layout.room, TREES, 1)
    assert result.steps == len(told.trees) == TREES
    assert told.count == result.before.count > 0
    # The forest that has learnt nothing takes every window for the first label.
    _, held_out = read_training_set(folder / "windows.db", (30, 1), labelled=True)
    assert told.correct.tolist() == [(held_out.labels == 0).sum()]
    assert result.after.accuracy > result.before.accuracy
    _, again = trained(folder, model, "again", trees=TREES, seed=5)
    assert (again / CONTRIBUTION).read_bytes() == (output / CONTRIBUTION).read_bytes()


def test_alone_a_device_fills_the_forest_and_goes_on_from_it(folder, model, layout):
    result, output = trained(folder, model, "alone")
    assert not (output / CONTRIBUTION).exists()
    vector = np.fromfile(output / "parameters.f32", "<f4")
    own = layout.unpack(vector)
    assert 1 < len(own.trees) <= layout.slots
    seen, _ = read_training_set(folder / "windows.db", (30, 1), labelled=True)
    assert correct(own.trees, seen.values[:, :, 0], seen.labels).mean() > 0.8 * len(seen)
    further, _ = trained(folder, model, "further", parameters=str(output / "parameters.f32"))
    assert further.before == result.after
    assert further.after.accuracy >= further.before.accuracy


def test_parameters_that_are_no_forest_are_a_failure_that_says_so(folder, model, layout):
    path = folder / "spoilt.f32"
    np.full(layout.size, 1e9, "<f4").tofile(path)
    failure, _ = trained(folder, model, "spoilt", parameters=str(path), trees=TREES)
    assert isinstance(failure, TrainingError)
    assert "the parameters to start from are no forest: tree 0" in str(failure)
