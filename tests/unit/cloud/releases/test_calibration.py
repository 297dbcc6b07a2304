"""Files of windows: what is in them, or why they cannot be used."""

import zipfile

import numpy as np
import pytest
from marram_cloud.releases.calibration import CalibrationError, read_calibration

WINDOWS = np.random.default_rng(0).normal(size=(3, 2, 4))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int16", "uint8", "bool"])
def test_numbers_of_any_kind_become_float32(tmp_path, dtype):
    windows = (10 * WINDOWS).astype(dtype)
    np.savez(tmp_path / "c.npz", windows=windows, labels=np.array([0, 1, 1], np.uint8))
    found = read_calibration(tmp_path / "c.npz", 2, 4)
    assert found.windows.dtype == np.float32
    np.testing.assert_array_equal(found.windows, windows.astype(np.float32))
    assert found.labels.tolist() == [0, 1, 1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": WINDOWS, "y": WINDOWS}, "has no array 'windows'; it has x, y"),
        ({"windows": WINDOWS.astype(complex)}, "arrays of numbers: 'windows' holds complex128"),
        ({"windows": np.array(["a"])}, "arrays of numbers: 'windows' holds <U1"),
        ({"windows": np.array([None])}, "arrays of numbers"),
        ({"windows": 1e300 * WINDOWS}, "hold NaN, infinity or more than a float32"),
        ({"windows": WINDOWS[:, 0]}, r"shape \(3, 4\), expected \(n, 2, 4\)"),
        ({"windows": WINDOWS, "labels": np.array([0.0, 1.0, 2.0])}, "labels are float64 of shape"),
        ({"windows": WINDOWS, "labels": np.array(["a", "b", "c"])}, "labels are <U1 of shape"),
        ({"windows": WINDOWS, "labels": np.zeros((3, 2), int)}, r"shape \(3, 2\), expected whole numbers"),
    ],
)
def test_arrays_that_cannot_be_used_are_named(tmp_path, arrays, words):
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(CalibrationError, match=rf"c\.npz: .*{words}"):
        read_calibration(tmp_path / "c.npz", 2, 4)


def not_an_array(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("windows.npy", b"text")


def damaged(path):
    np.savez_compressed(path, windows=WINDOWS)
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda path: None, r"cannot be read: No such file .* numpy\.savez"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_text("text"), r"is no whole \.npz: numpy\.savez"),
        (lambda path: np.save(path.open("wb"), WINDOWS), r"is no whole \.npz"),
        (not_an_array, "windows"),
        (damaged, "arrays of numbers"),
    ],
    ids=["missing", "folder", "text", "npy", "no array", "damaged"],
)
def test_a_file_that_is_none_is_told_how_to_write_one(tmp_path, made, words):
    made(tmp_path / "c.npz")
    with pytest.raises(CalibrationError, match=rf"c\.npz: .*{words}"):
        read_calibration(tmp_path / "c.npz", 2, 4)
