"""The trainer child, for real: a process of its own that trains on real windows, and all that can end it."""

import io
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from marram.children.frames import write_frame
from marram.children.process import SOCKET
from marram.errors import TrainingError
from marram.learning.child import TrainerChild
from marram.learning.trainer import Result

from tests.support.training import ENDS, filled_store, job, run
from tests.support.windows import SHOULDER, bundle, shoulder_windows
from tests.support.work_socket import WorkSocket

LONG = {"epochs": 1000, "learning_rate": 1e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("device")
    filled_store(made / "windows.db").close(0.0)
    return made


@pytest.fixture(params=["own", "unit"])
def running(folder, request, tmp_path, monkeypatch):
    """A child that is in the middle of a long training."""
    socket = WorkSocket(tmp_path / "work.sock") if request.param == "unit" else None
    if socket is not None:
        monkeypatch.setenv(SOCKET, str(socket.path))
    child, ends = TrainerChild(), queue.Queue()
    child.start(job(folder, **LONG), ENDS, ends.put)
    yield child, ends
    child.stop()
    if socket is not None:
        socket.close()


def until(condition, seconds=ENDS):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_recording_gives_real_labelled_windows():
    windows = shoulder_windows(1)
    assert len(windows) > 200
    assert set(windows.labels) == set(range(7))


def test_training_on_real_windows_lowers_the_loss_on_windows_it_has_not_seen(folder):
    result = run(job(folder, epochs=5, learning_rate=0.03))
    assert isinstance(result, Result), result
    assert result.after.loss < result.before.loss
    assert result.after.accuracy > result.before.accuracy
    assert result.samples + result.after.count == len(shoulder_windows(1))
    assert result.steps == 5 * -(-result.samples // 16)
    trained = np.fromfile(folder / "training" / "parameters.f32", "<f4")
    start = bundle(SHOULDER).parameters()
    assert trained.shape == start.shape
    assert np.abs(trained - start).max() > 1e-3


def test_the_same_job_gives_the_same_parameters(folder):
    outcomes = []
    for _ in range(2):
        assert isinstance(run(job(folder, epochs=1)), Result)
        outcomes.append((folder / "training" / "parameters.f32").read_bytes())
    assert outcomes[0] == outcomes[1]


def test_a_proximal_term_keeps_the_parameters_near_their_start(folder):
    start = bundle(SHOULDER).parameters()
    moved = []
    for mu in (0.0, 10.0):
        assert isinstance(run(job(folder, mu=mu)), Result)
        moved.append(np.linalg.norm(np.fromfile(folder / "training" / "parameters.f32", "<f4") - start))
    assert moved[1] < moved[0] / 2


def test_training_goes_on_from_the_parameters_that_it_is_given(folder, tmp_path):
    """No epochs: nothing but the evaluation, and the parameters come back as they were."""
    given = bundle(SHOULDER).parameters() * np.float32(0.5)
    given.tofile(tmp_path / "start.f32")
    result = run(job(folder, epochs=0, parameters=str(tmp_path / "start.f32"), output=str(tmp_path)))
    assert isinstance(result, Result), result
    np.testing.assert_array_equal(np.fromfile(tmp_path / "parameters.f32", "<f4"), given)
    assert result.loss == result.before.loss == result.after.loss
    assert result.before != run(job(folder, epochs=0)).before


def test_a_training_that_diverges_is_an_error_that_says_what_to_do_and_leaves_no_parameters(folder, tmp_path):
    outcome = run(job(folder, learning_rate=1e30, output=str(tmp_path)))
    assert isinstance(outcome, TrainingError)
    assert "diverged" in str(outcome)
    assert "lower the learning rate" in str(outcome)
    assert not (tmp_path / "parameters.f32").exists()


@pytest.mark.parametrize("mebibytes", [8, 40])  # the job itself, and numpy's libraries
def test_the_memory_limit_ends_the_child_with_a_reason_and_the_parent_lives(folder, mebibytes):
    outcome = run(job(folder, memory=mebibytes << 20))
    assert isinstance(outcome, TrainingError)
    assert "emory" in str(outcome), outcome


def test_a_memory_limit_that_is_reached_anywhere_gives_an_error_of_one_line(folder):
    for mebibytes in (48, 54, 60):  # in imports, in onnxruntime, with the model
        outcome = run(job(folder, memory=mebibytes << 20))
        assert isinstance(outcome, TrainingError), mebibytes
        assert "Traceback" not in str(outcome)


def test_too_few_windows_are_an_error_with_both_numbers(folder):
    outcome = run(job(folder, minimum=100_000))
    assert "100000 are needed" in str(outcome)


@pytest.mark.parametrize("missing", ["bundle", "windows"])
def test_a_missing_file_is_named(folder, tmp_path, missing):
    outcome = run(job(folder, **{missing: str(tmp_path / "nowhere")}))
    assert isinstance(outcome, TrainingError)
    assert "nowhere" in str(outcome)


def test_parameters_of_another_length_are_refused(folder, tmp_path):
    (tmp_path / "start.f32").write_bytes(b"\0" * 40)
    outcome = run(job(folder, parameters=str(tmp_path / "start.f32")))
    assert isinstance(outcome, TrainingError)
    assert "10 values" in str(outcome)


def test_a_child_killed_by_the_system_is_reported_with_the_signal(running):
    child, ends = running
    os.kill(child.pid, signal.SIGKILL)
    assert "signal 9" in str(ends.get(timeout=ENDS))
    assert child.pid is None


def test_a_training_that_takes_too_long_is_ended(folder):
    child = TrainerChild()
    outcome = run(job(folder, **LONG), timeout=0.5, child=child)
    assert isinstance(outcome, TrainingError)
    assert "not done after" in str(outcome)


def test_a_stopped_training_tells_nobody(running):
    child, ends = running
    pid = child.pid
    child.stop()
    until(lambda: gone(pid))
    with pytest.raises(queue.Empty):
        ends.get(timeout=0.2)


def test_a_new_training_takes_the_place_of_the_one_that_runs(folder, running):
    child, ends = running
    pid = child.pid
    assert isinstance(run(job(folder, epochs=1), child=child), Result)
    until(lambda: gone(pid))
    assert ends.empty()


def test_the_child_steps_back_behind_everything_else(running):
    child, _ = running
    process = psutil.Process(child.pid)
    until(lambda: process.nice() == 10)
    until(lambda: Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000")
    until(lambda: process.rlimit(psutil.RLIMIT_DATA) == (1 << 30, 1 << 30))


def test_the_child_runs_without_onnxruntimes_telemetry(running):
    child, _ = running
    until(lambda: psutil.Process(child.pid).environ().get("ORT_DISABLE_TELEMETRY") == "1")


def test_a_child_whose_daemon_died_before_it_could_look_does_not_train(folder, tmp_path):
    work = io.BytesIO()
    write_frame(work, job(folder, output=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-I", "-m", "marram.learning.trainer", str(os.getppid())],  # of another process
        input=work.getvalue(),
        capture_output=True,
        timeout=ENDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"the daemon is gone\n"
    assert list(tmp_path.iterdir()) == []


def test_the_child_dies_with_the_daemon(folder, tmp_path):
    work = tmp_path / "job.json"
    work.write_bytes(msgspec.json.encode(job(folder, output=str(tmp_path), **LONG)))
    daemon = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, msgspec\n"
            "from marram.learning.child import TrainerChild\n"
            "from marram.learning.trainer import Job\n"
            "job = msgspec.json.decode(open(sys.argv[1], 'rb').read(), type=Job)\n"
            "child = TrainerChild()\n"
            "child.start(job, 600, print)\n"
            "print(child.pid, flush=True)\n"
            "time.sleep(600)\n",
            str(work),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(daemon.stdout.readline())
    until(lambda: psutil.Process(pid).nice() == 10)  # it has stepped back, and is on its way
    daemon.kill()
    daemon.wait()
    until(lambda: gone(pid))
