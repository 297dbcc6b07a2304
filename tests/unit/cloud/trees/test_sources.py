"""Fitted trees of scikit-learn and Spark ML become the same trees, and what is none is named."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import skops.io
import yaml
from hypothesis import given
from hypothesis import strategies as st
from marram.bundle.file import read
from marram_cloud.cli import main
from marram_cloud.trees.build import build
from marram_cloud.trees.errors import TreesError
from marram_cloud.trees.source import Node, below, tree
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from tests.support.forests import PROJECT

SPARK = Path(__file__).parent / "spark"
SAID = np.load(SPARK / "said.npz")
ROWS, LABELS = SAID["rows"], SAID["labels"]
WINE = {
    **PROJECT, "channels": [{"name": f"c{n}"} for n in range(13)], "labels": ["a", "b", "c"], "forest": {},
}  # fmt: skip


@pytest.fixture
def project(tmp_path):
    """Writes project.yaml with changes; its folder."""

    def write(**changes):
        (tmp_path / "project.yaml").write_text(yaml.safe_dump({**WINE, **changes}))
        return tmp_path

    return write


def saved(folder, estimator):
    path = folder / "model.skops"
    skops.io.dump(estimator, path)
    return path


# ---- thresholds


@given(st.floats(allow_nan=False), st.floats(width=32, allow_nan=False))
def test_a_float32_goes_the_same_way_by_the_rounded_threshold(threshold, x):
    found = below(np.array([threshold]))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    if np.isfinite(x):
        assert (np.float32(x) <= found[0]) == (float(x) <= threshold)


@given(st.floats(-1e30, 1e30), st.integers(-2, 2))
def test_also_right_beside_it(threshold, steps):
    x = np.float32(threshold)
    for _ in range(abs(steps)):
        x = np.nextafter(x, np.float32(np.inf * np.sign(steps)))
    assert (x <= below(np.array([threshold]))[0]) == (float(x) <= threshold)


# ---- scikit-learn

FITTED = {
    "tree": DecisionTreeClassifier(random_state=0),
    "extra tree": ExtraTreeClassifier(random_state=0),
    "forest": RandomForestClassifier(9, random_state=0),
    "extra trees": ExtraTreesClassifier(9, random_state=0),
    "weighted": RandomForestClassifier(9, class_weight="balanced", max_depth=3, random_state=0),
    "a leaf": DecisionTreeClassifier(min_samples_leaf=len(ROWS), random_state=0),
}


@pytest.mark.parametrize("kind", FITTED)
def test_a_classifier_of_sklearn_says_the_same_as_its_bundle(kind, project):
    folder = project()
    fitted = FITTED[kind].fit(ROWS, LABELS)
    np.savez(folder / "evaluation.npz", windows=ROWS[:, :, None], labels=LABELS)
    report = build(folder, saved(folder, fitted))
    made = read(report.path)
    scores = made.program("infer")(x=ROWS[:, :, None])["scores"]
    np.testing.assert_allclose(scores, fitted.predict_proba(ROWS), atol=1e-6)
    np.testing.assert_array_equal(scores.argmax(axis=1), fitted.predict(ROWS))
    assert report.accuracy == made.manifest.card.metrics["accuracy_fp32"] == fitted.score(ROWS, LABELS)


def test_classes_that_have_the_labels_names_stand_in_the_labels_order(project):
    names = np.array(["c", "a", "b"])[LABELS]
    fitted = DecisionTreeClassifier(random_state=0).fit(ROWS, names)
    folder = project()
    scores = read(build(folder, saved(folder, fitted)).path).program("infer")(x=ROWS[:, :, None])["scores"]
    assert [WINE["labels"][label] for label in scores.argmax(axis=1)] == names.tolist()


def test_features_of_windows_are_those_that_the_bundle_computes(project):
    """Fitted on what ``marram_cloud.trees.features`` says of windows."""
    from marram_cloud.trees import features

    windows = np.random.default_rng(0).normal(size=(60, 13, 8)).astype(np.float32)
    kinds = ("mean", "deviation")
    seen = features.of_windows(features.program(kinds, 13, 8), windows)
    labels = np.digitize(seen[:, 0], [-0.1, 0.1])
    fitted = RandomForestClassifier(5, random_state=0).fit(seen, labels)
    folder = project(length=8, features=list(kinds))
    scores = read(build(folder, saved(folder, fitted)).path).program("infer")(x=windows)["scores"]
    np.testing.assert_allclose(scores, fitted.predict_proba(seen), atol=1e-6)


def test_model_py_may_fit_it(project):
    folder = project()
    (folder / "model.py").write_text(
        "import numpy as np\nfrom sklearn.tree import DecisionTreeClassifier\n\n\ndef model():\n"
        f"    said = np.load({str(SPARK / 'said.npz')!r})\n"
        "    return DecisionTreeClassifier(max_depth=2).fit(said['rows'], said['labels'])\n"
    )
    assert build(folder).trees == 1


def test_a_model_that_leaves_room_keeps_it_for_the_fleet(project):
    folder = project(forest={"trees": 20, "splits": 40})
    report = build(folder, saved(folder, FITTED["forest"].fit(ROWS, LABELS)))
    assert (report.trees, report.slots, report.room.splits) == (9, 20, 40)


def test_a_tree_that_knows_missing_values_is_the_same_for_windows_which_miss_none(project):
    rows = ROWS.copy()
    rows[LABELS == 0, 0] = np.nan
    fitted = DecisionTreeClassifier(max_depth=3, random_state=0).fit(rows, LABELS)
    assert np.isinf(fitted.tree_.threshold).any()
    folder = project()
    assert build(folder, saved(folder, fitted)).difference <= 1e-5


# ---- Spark ML


@pytest.mark.parametrize("kind", ["tree", "forest"])
def test_a_model_that_spark_saved_says_what_spark_said(kind, project):
    scores = read(build(project(), SPARK / kind).path).program("infer")(x=ROWS[:, :, None])["scores"]
    np.testing.assert_allclose(scores, SAID[kind], atol=1e-6)
    np.testing.assert_array_equal(scores.argmax(axis=1), SAID[kind].argmax(axis=1))


def spoilt(tmp_path, change):
    folder = tmp_path / "model"
    shutil.copytree(SPARK / "tree", folder)
    change(folder)
    return folder


def the(folder, pattern):
    """The one file."""
    [found] = folder.glob(pattern)
    return found


def renamed(folder):
    part = the(folder, "metadata/part-*")
    part.write_text(json.dumps({**json.loads(part.read_text()), "class": "org.apache.Other"}))


BAD_SPARK = {
    "no data": (lambda folder: shutil.rmtree(folder / "data"), "holds no Parquet file"),
    "damaged data": (lambda folder: the(folder, "data/*.parquet").write_bytes(b"PAR1"), "cannot be read"),
    "no metadata": (lambda folder: the(folder, "metadata/part-*").unlink(), "no folder that Spark ML"),
    "another model": (renamed, "holds Other"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SPARK)
def test_a_folder_that_is_no_tree_of_spark_is_refused(case, project, tmp_path):
    change, why = BAD_SPARK[case]
    with pytest.raises(TreesError, match=why):
        build(project(), spoilt(tmp_path, change))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("categorical", "categorical: a tree .* by its categories.*OneHotEncoder"),
        ("boosted", "GBTClassificationModel"),
    ],
)
def test_a_model_of_spark_that_is_not_supported_is_named(kind, why, project):
    with pytest.raises(TreesError, match=why):
        build(project(), SPARK / kind)


# ---- what is none


def stump(rows, labels):
    return DecisionTreeClassifier(max_depth=1).fit(rows, labels)


TWO = np.stack([LABELS, LABELS], axis=1)
OTHERS = {
    "boosted": (GradientBoostingClassifier(n_estimators=1).fit(ROWS, LABELS), "GradientBoostingC.* not"),
    "linear": (LogisticRegression(), "LogisticRegression is not"),
    "pipeline": (make_pipeline(DecisionTreeClassifier()), "Pipeline is not supported"),
    "unfitted": (DecisionTreeClassifier(), "not fitted: call fit"),
    "two outputs": (stump(ROWS, TWO), "2 outputs"),
    "two classes": (stump(ROWS, LABELS > 0), "2 classes apart .False, True."),
    "other names": (stump(ROWS, LABELS + 1), "classes are 1, 2, 3; expected"),
    "fewer features": (stump(ROWS[:, :4], LABELS), "fitted on 4 features; .* c0"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", OTHERS)
def test_an_estimator_that_is_not_supported_says_why(case, project):
    estimator, why = OTHERS[case]
    folder = project()
    with pytest.raises(TreesError, match=why):
        build(folder, saved(folder, estimator))
    assert not list(folder.glob("*.marram"))


def test_a_pickle_is_not_opened(project):
    folder = project()
    path = folder / "model.joblib"
    path.write_bytes(b"cposix\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(TreesError, match=r"runs whatever code it holds: save the estimator with skops"):
        build(folder, path)


def test_a_skops_file_with_code_of_its_own_is_not_opened(project):
    class Evil(DecisionTreeClassifier):
        """Not a type that skops knows."""

    folder = project()
    with pytest.raises(TreesError, match="may run code of their own"):
        build(folder, saved(folder, Evil().fit(ROWS, LABELS)))


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"{}"])
def test_a_damaged_skops_file_is_named(content, project):
    folder = project()
    (folder / "model.skops").write_bytes(content)
    with pytest.raises(TreesError, match="no skops file that can be read"):
        build(folder, folder / "model.skops")


@pytest.mark.parametrize(("module", "model"), [("skops", "model.skops"), ("pyarrow", str(SPARK / "tree"))])
def test_without_the_extra_it_is_named(module, model, project, monkeypatch):
    folder = project()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TreesError, match=r"needs .*pip install 'marram\[trees\]'"):
        build(folder, folder / model)


def test_nodes_in_a_ring_are_refused():
    ring = [Node(0, 0.0, 1, 1, (1.0, 0.0)), Node(0, 0.0, 0, 0, (1.0, 0.0))]
    with pytest.raises(TreesError, match="below two others, or below itself"):
        tree(ring)


def test_a_forest_that_has_no_room_is_refused(project):
    folder = project(forest={"trees": 4})
    with pytest.raises(TreesError, match="the model has 9 trees"):
        build(folder, saved(folder, FITTED["forest"].fit(ROWS, LABELS)))


# ---- the command


def test_the_command_builds_and_says_what(project, capsys):
    folder = project()
    assert (
        main(["workshop", "trees", str(folder), str(SPARK / "forest"), "-o", str(folder / "wine.marram")])
        == 0
    )
    said = capsys.readouterr().out
    assert "7 trees, room for 7 of 8 splits, on 13 features" in said
    assert (folder / "wine.marram").exists()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"labels": ["a"]}, "labels"), ({"labels": ["a", "a", "b"]}, "each label once"),
        ({"features": ["median"]}, "features"), ({"forest": {"trees": 0}}, "forest.trees"),
    ],
)  # fmt: skip
def test_a_project_that_is_wrong_is_told_where(changes, where, project, capsys):
    assert main(["workshop", "trees", str(project(**changes))]) == 1
    assert where in capsys.readouterr().err
