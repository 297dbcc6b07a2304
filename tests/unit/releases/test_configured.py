"""The copy of the configured bundle that runs when its file is damaged."""

from __future__ import annotations

import shutil

import pytest
from marram.errors import BundleError
from marram.releases.configured import open_configured

from tests.support.configs import HOST_BUNDLE, SHOULDER_BUNDLE


def damage(path):
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "model.marram"
    shutil.copy(SHOULDER_BUNDLE, path)
    return path, tmp_path / "releases"


def test_a_damaged_file_is_replaced_by_the_copy_of_an_earlier_start(place):
    path, folder = place
    whole, problem = open_configured(path, None, folder)
    assert problem == ""
    damage(path)
    bundle, problem = open_configured(path, None, folder)
    assert bundle.digest == whole.digest
    assert bundle.source == str(folder / "configured.marram")
    assert "the copy from an earlier start runs" in problem


def test_without_an_earlier_start_there_is_nothing_to_run(place):
    path, folder = place
    damage(path)
    with pytest.raises(BundleError):
        open_configured(path, None, folder)


def test_the_copy_follows_the_file_and_is_written_once(place):
    path, folder = place
    open_configured(path, None, folder)
    first = (folder / "configured.marram").stat().st_mtime_ns
    open_configured(path, None, folder)
    assert (folder / "configured.marram").stat().st_mtime_ns == first
    shutil.copy(HOST_BUNDLE, path)
    open_configured(path, None, folder)
    damage(path)
    assert open_configured(path, None, folder)[0].manifest.name == "host"


def test_the_copy_of_another_path_and_a_damaged_copy_do_not_run(place):
    path, folder = place
    open_configured(path, None, folder)
    other = path.with_name("other.marram")
    other.write_bytes(b"nothing")
    with pytest.raises(BundleError):
        open_configured(other, None, folder)
    damage(path)
    damage(folder / "configured.marram")
    with pytest.raises(BundleError):
        open_configured(path, None, folder)


def test_a_disk_that_takes_no_copy_does_not_stop_the_start(place):
    path, folder = place
    folder.write_text("a file where the folder should be")
    bundle, problem = open_configured(path, None, folder)
    assert (bundle.manifest.name, problem) == ("shoulder", "")
