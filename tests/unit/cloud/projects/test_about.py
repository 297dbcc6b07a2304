"""What every project says: read from its folder, or refused with what is wrong and where."""

import numpy as np
import pytest
from marram.errors import ConfigError
from marram_cloud.projects.about import About, read
from marram_cloud.projects.errors import ProjectError

YAML = """\
name: small
channels: [{name: a}, {name: b}]
rate: 10
length: 4
stride: 2
labels: [x, y, z]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "project.yaml").write_text(YAML)
    return tmp_path


def windows(path, labels=None):
    arrays = {} if labels is None else {"labels": np.array(labels)}
    np.savez(path, windows=np.zeros((2, 2, 4), np.float32), **arrays)
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "nowhere: is not there: name the folder of a project"),
        ("project.yaml", r"project\.yaml: is no folder: name the folder of a project"),
        ("empty", r"empty/project\.yaml: is not there: it says what the model takes"),
    ],
)
def test_what_is_no_project_is_told_without_options_that_the_command_has_not(folder, name, words):
    (folder / "empty").mkdir()
    with pytest.raises(ProjectError, match=words):
        read(folder / name, About)


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("channels: [{name: a}, {name: a}]", "2:11", "channels: expected each name once"),
        ("labels: [x, y, x]", "6:9", "labels: expected each label once"),
        ("length: 2000000", "4:9", "length: expected a whole number"),
    ],
)
def test_what_a_manifest_could_not_hold_is_told_with_its_place(folder, line, place, words):
    key = line.partition(":")[0]
    lines = [line if one.startswith(f"{key}:") else one for one in YAML.splitlines()]
    (folder / "project.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=rf"project\.yaml:{place}: {words}"):
        read(folder, About)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_none_is_refused(folder, label):
    path = windows(folder / "evaluation.npz", [0, label])
    with pytest.raises(ProjectError, match=rf"evaluation\.npz: a label is {label}, but .* names 3 labels"):
        read(folder, About).windows(path, "classify")


def test_labels_mean_nothing_to_a_model_without(folder):
    path = windows(folder / "evaluation.npz", [7, -2])
    assert read(folder, About).windows(path, "reconstruct").labels is None


def test_windows_to_judge_by_may_be_missing_but_not_their_labels(folder):
    about = read(folder, About)
    assert about.judged(folder, "classify") is None
    windows(folder / "evaluation.npz")
    assert about.judged(folder, "forecast") is not None
    with pytest.raises(ProjectError, match=r"evaluation\.npz: has no array 'labels'"):
        about.judged(folder, "classify")


def test_a_bundle_goes_beside_the_project_or_where_it_is_told_but_never_onto_a_folder(folder):
    about = read(folder, About)
    assert about.bundle(folder, None) == folder / "small.marram"
    assert about.bundle(folder, folder / "other") == folder / "other"
    with pytest.raises(ProjectError, match=r"is a folder: name a file in it, such as .*small\.marram"):
        about.bundle(folder, folder)
