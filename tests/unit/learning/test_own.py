"""The device's own int8 on disk and in the daemon: what runs, what takes its place, and after what."""

import logging
import shutil

import msgspec
import numpy as np
import pytest
from marram.config.schema import Int8, Schedule
from marram.errors import TrainingError
from marram.learning.int8 import decode_arrays, encode_arrays, in_int8
from marram.learning.local import LocalLearning
from marram.learning.own import Own
from marram.learning.trainer import Int8Outcome, Measured, Result
from marram.learning.work import Learnt
from marram.programs.program import ProgramOptions

from tests.support.training import Loop, filled_store, job, run, workshop
from tests.support.windows import SHOULDER, bundle, shoulder_windows

OPTIONS = ProgramOptions()
INT8, FLOAT32 = "shoulder 0 (own, int8)", "shoulder 0 (own)"


def learnt(value=1.0, arrays_of=None, used=True):
    """Parameters, and the int8 of the same or of others."""
    source = bundle(SHOULDER)
    parameters = source.parameters() * np.float32(value)
    arrays = in_int8(
        source, parameters if arrays_of is None else arrays_of, shoulder_windows(1).values[:128], OPTIONS
    )
    measured = Measured(10, 0.1, 0.9)
    outcome = Int8Outcome(used, "" if used else "scores are off", 10, 1.0, 0.9, 0.9)
    result = Result(10, 1, 0.1, measured, measured, 0.1, 0, 0, outcome)
    return Learnt(parameters, None, result, encode_arrays(arrays) if used else b"")


@pytest.fixture
def own(tmp_path):
    return Own(tmp_path / "own", bundle(SHOULDER))


def names(models):
    return (models.model.name, models.fallback.name if models.fallback else None)


def scores(model):
    return model.run(shoulder_windows(1).values[:32])["scores"]


# ---- what runs


def test_int8_runs_with_float32_in_reserve_also_after_a_restart(tmp_path, own):
    own.save(learnt(), 77.0)
    models = Own(tmp_path / "own", bundle(SHOULDER)).models(OPTIONS)
    assert names(models) == (INT8, FLOAT32)
    np.testing.assert_allclose(scores(models.model), scores(models.fallback), atol=0.05)
    assert not np.array_equal(scores(models.model), scores(models.fallback))


def test_float32_runs_where_int8_was_refused_or_is_not_wanted(own):
    own.save(learnt(used=False), 77.0)
    assert names(own.models(OPTIONS)) == (FLOAT32, None)
    own.save(learnt(), 78.0)
    assert names(own.models(OPTIONS, int8=False)) == (FLOAT32, None)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_float32_runs_where_the_file_of_int8_is_damaged(own, damage, caplog):
    own.save(learnt(), 77.0)
    [file] = own.folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flipped" else content[:-3])
    assert names(own.models(OPTIONS)) == (FLOAT32, None)
    assert "run in float32" in caplog.text


def test_float32_runs_where_the_arrays_were_made_for_another_int8_program(own, caplog):
    own.save(learnt(), 77.0)
    about = own.folder / "own.json"
    program = bundle(SHOULDER).manifest.members["infer.onnx"]
    about.write_bytes(about.read_bytes().replace(program.encode(), b"0" * 64))
    assert names(own.models(OPTIONS)) == (FLOAT32, None)
    assert "made for another int8 program" in caplog.text


def test_arrays_that_make_the_program_give_nan_are_not_run(own, caplog):
    made = learnt()
    arrays = decode_arrays(made.int8)
    arrays[f"{bundle(SHOULDER).manifest.int8.scales[-1]}_scale"] = np.array(np.nan, np.float32)
    own.save(Learnt(made.parameters, None, made.result, encode_arrays(arrays)), 77.0)
    assert names(own.models(OPTIONS)) == (FLOAT32, None)
    assert "NaN" in caplog.text


def test_after_int8_was_given_up_float32_runs_after_a_restart_too(tmp_path, own):
    own.save(learnt(), 77.0)
    own.refuse_int8("it failed")
    again = Own(tmp_path / "own", bundle(SHOULDER))
    assert names(again.models(OPTIONS)) == (FLOAT32, None)
    about, vector = again.load()
    assert (about.int8.used, about.int8.reason) == (False, "it failed")
    np.testing.assert_array_equal(vector, learnt().parameters)
    assert list(own.folder.glob("*.safetensors")) == []


def test_a_power_cut_before_the_words_are_written_leaves_the_int8_of_before(tmp_path, own):
    own.save(learnt(1.0), 77.0)
    shutil.copytree(own.folder, tmp_path / "copy")
    own.save(learnt(0.5), 99.0)
    for file in (*own.folder.glob("*.f32"), *own.folder.glob("*.safetensors")):
        shutil.copy(file, tmp_path / "copy")
    before = Own(tmp_path / "copy", bundle(SHOULDER)).models(OPTIONS)
    own.save(learnt(1.0), 77.0)
    assert names(before) == (INT8, FLOAT32)
    np.testing.assert_array_equal(scores(before.model), scores(own.models(OPTIONS).model))


def test_what_an_older_agent_left_still_runs(own):
    made = learnt(used=False)
    own.save(made, 77.0)
    about = own.folder / "own.json"
    family, digest = own.bundle.manifest.family, own.load()[0].digest
    about.write_text(f'{{"family":"{family}","digest":"{digest}","trained":77.0,"normal":null}}')
    assert names(own.models(OPTIONS)) == (FLOAT32, None)


# ---- later


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path)


class Device:
    """A device that has learnt, its windows and what inference was told to run."""

    def __init__(self, folder):
        self.store = filled_store(folder / "windows.db", shoulder_windows(1)[:100])
        self.shop = workshop(folder, self.store)
        self.own = Own(folder / "own", bundle(SHOULDER))
        self.runs, self.trouble = [], ""

    def begin(self, made):
        self.own.save(made, 1000.0)
        self.store.trained(self.store.begin_training(0.0))
        self.learning = LocalLearning(
            Schedule(after=10, every=3600.0, epochs=1), self.shop, self.own, OPTIONS, Loop(),
            lambda model, fallback: self.runs.append(model.name), lambda: self.trouble,
        )  # fmt: skip
        return self.learning

    def later(self, count=60):
        """New labelled windows come."""
        self.store.add(shoulder_windows(1)[100 : 100 + count], 0.0)


def test_int8_that_fails_gives_way_to_float32_until_the_next_training(device, caplog):
    learning = device.begin(learnt())
    learning.wake(1010.0)
    assert (device.runs, learning.int8.used) == ([], True)
    device.trouble = "the program's output 'scores' holds NaN or infinity"
    learning.wake(learning.wake_at)
    assert device.runs == [FLOAT32]
    assert learning.int8.reason == device.trouble
    assert learning.wake_at > 1000.0
    with caplog.at_level(logging.WARNING):
        learning.wake(1200.0)
    assert names(device.own.models(OPTIONS)) == (FLOAT32, None)
    assert device.runs == [FLOAT32]


def test_int8_that_does_worse_on_new_labelled_windows_gives_way(device):
    """Its arrays are those of other parameters: it says something else than float32 does."""
    good = trained_parameters(device)
    wrong = np.random.default_rng(0).normal(0, 0.3, good.shape).astype(np.float32)
    bad = learnt(arrays_of=wrong)
    learning = device.begin(Learnt(good, None, bad.result, bad.int8))
    device.later()
    learning.wake(1010.0)
    learning.loop.turn(1015.0)
    assert device.runs == [FLOAT32]
    assert learning.int8.reason.startswith("on 60 new windows: ")
    assert names(device.own.models(OPTIONS)) == (FLOAT32, None)


def test_int8_that_does_as_well_on_new_labelled_windows_stays(device):
    good = trained_parameters(device)
    fine = learnt(arrays_of=good)
    learning = device.begin(Learnt(good, None, fine.result, fine.int8))
    device.later()
    learning.wake(1010.0)
    learning.loop.turn(1015.0)
    learning.wake(1080.0)  # nothing is new since: nothing is compared again
    assert device.shop.child.pid is None
    assert (device.runs, learning.int8.used) == ([], True)


def test_few_new_windows_are_not_compared(device):
    learning = device.begin(learnt())
    device.later(20)
    learning.wake(1010.0)
    assert device.shop.child.pid is None


def test_a_comparison_that_cannot_be_made_leaves_int8_running(device):
    learning = device.begin(learnt())
    device.later()
    device.shop.windows.with_name("windows.db").unlink()
    learning.wake(1010.0)
    with pytest.raises(TrainingError):
        learning.loop.turn(1015.0)
    assert (device.runs, learning.int8.used) == ([], True)


def test_with_int8_never_a_training_makes_none(device):
    device.shop.config = msgspec.structs.replace(device.shop.config, int8=Int8(use="never"))
    learning = device.begin(learnt())
    learning.wake(5000.0)
    learning.loop.turn(5010.0)
    assert device.runs == [FLOAT32]
    assert learning.int8 is None
    assert list(device.own.folder.glob("*.safetensors")) == []


@pytest.mark.parametrize(("use", "timed"), [("auto", True), ("always", False)])
def test_speed_counts_unless_int8_is_asked_for_by_name(device, use, timed):
    device.shop.config = msgspec.structs.replace(device.shop.config, int8=Int8(use=use))
    learning = device.begin(learnt(used=False))
    learning.wake(5000.0)
    learning.loop.turn(5010.0)
    assert (learning.int8.int8_us is not None, learning.int8.fp32_us is not None) == (timed, timed)
    assert device.runs == [INT8 if learning.int8.used else FLOAT32]


def test_a_training_that_gives_good_int8_runs_it(device):
    device.shop.config = msgspec.structs.replace(device.shop.config, int8=Int8(use="always"))
    learning = device.begin(learnt(used=False))
    learning.wake(5000.0)
    learning.loop.turn(5010.0)
    assert learning.int8.used, learning.int8.reason
    assert device.runs == [INT8]


def trained_parameters(device):
    folder = device.shop.folder.parent
    result = run(job(folder, output=str(folder / "first"), epochs=8, learning_rate=0.03))
    assert isinstance(result, Result)
    return np.fromfile(folder / "first" / "parameters.f32", "<f4")
