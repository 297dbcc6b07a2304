"""One agent without a cloud, as a user starts it: real processes, real recordings, real signals."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from marram.control import ControlError, ask

from tests.support.cli import PATIENCE, marram
from tests.support.configs import RECORDING, SHOULDER_BUNDLE
from tests.support.processes import Process, eventually
from tests.support.windows import shoulder_windows

COMMAND = [sys.executable, "-m", "marram.cli", "run", "-c"]
ENDLESS = f"{{type: csv, name: tape, path: {RECORDING}, speed: 50, repeat: true, label: exercise}}"
CHANNELS = "[ax, ay, az, wx, wy, wz]"


def write(folder, sensor, output="{type: jsonl, path: out.jsonl}", more=""):
    path = folder / "agent.yaml"
    path.write_text(
        f"sensors: [{sensor}]\nmodel: {{bundle: {SHOULDER_BUNDLE}}}\noutputs: [{output}]\n"
        f"device: {{name: one, state: state}}\n{more}"
    )
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tape(path=RECORDING, **keys):
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"{{type: csv, name: tape, path: {path}, speed: max{more}}}"


@pytest.fixture
def agent(tmp_path):
    """Starts an agent on a configuration; it is ended whatever happens."""
    started = []

    def start(config):
        process = Process("marram.cli", ["run", "-c", str(config)], tmp_path / "agent.log")
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def kill_thread(process, thread, number):
    """A signal that this thread of another process takes, as the kernel may choose."""
    assert ctypes.CDLL(None).tgkill(process, thread, number) == 0


def status(folder):
    try:
        return ask(folder / "state" / "marram.sock", {"command": "status"})
    except ControlError:
        return {}


def test_a_recording_is_predicted_to_its_last_window_and_the_agent_ends(tmp_path):
    done = marram("run", "-c", write(tmp_path, tape(label="exercise", rebase="false")))
    assert done.returncode == 0, done.stderr
    wanted = shoulder_windows(1)
    found = lines(tmp_path / "out.jsonl")
    assert [line["start"] for line in found] == pytest.approx(wanted.start.tolist())
    assert set(found[0]["scores"]) == {"PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"}
    assert found[0]["label"] == max(found[0]["scores"], key=found[0]["scores"].get)


def test_any_program_that_prints_readings_is_a_sensor_and_predictions_can_be_piped_on(tmp_path):
    config = write(tmp_path, f"{{type: stdin, name: pipe, channels: {CHANNELS}, time: t}}", "{type: stdout}")
    readings = [{"t": n / 50, **dict.fromkeys(("ax", "ay", "az", "wx", "wy", "wz"), 0.5)} for n in range(300)]
    text = "".join(json.dumps(reading) + "\n" for reading in [*readings[:7], "garbage", *readings[7:]])
    done = subprocess.run(
        [*COMMAND, str(config)], input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["start"] for line in done.stdout.splitlines()] == pytest.approx([0, 1, 2, 3, 4])
    assert "sensor pipe: 1 messages were malformed, the first: none of the channels is in" in done.stderr


def test_a_reader_of_the_predictions_who_goes_away_does_not_end_the_agent(tmp_path):
    config = write(tmp_path, tape(), "{type: stdout}, {type: jsonl, path: out.jsonl}")
    read, end = os.pipe()
    with subprocess.Popen([*COMMAND, str(config)], stdout=end, stderr=subprocess.PIPE, text=True) as process:
        os.close(end)
        os.close(read)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "standard output cannot be written" in errors
    assert "Traceback" not in errors
    assert len(lines(tmp_path / "out.jsonl")) == len(shoulder_windows(1))


def test_a_recording_with_a_broken_row_ends_the_agent_with_status_1_and_the_line(tmp_path):
    (tmp_path / "a.csv").write_text("time,ax,ay,az,wx,wy,wz\n" + "0,1,1,1,1,1,1\n" * 5 + "1,1,1\n")
    done = marram("run", "-c", write(tmp_path, tape("a.csv")))
    assert done.returncode == 1
    assert "a.csv:7: broken row: expected 7 cells, found 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_and_label_talk_to_the_running_agent_and_sigterm_ends_it(tmp_path, agent):
    config = write(tmp_path, ENDLESS, more="learning: {store: {commit_every: 100ms}}\n")
    running = agent(config)
    eventually("windows", lambda: status(tmp_path).get("windows", {}).get("predicted", 0) > 20)
    shown = marram("status", "-c", config)
    assert shown.returncode == 0
    assert shown.stdout.startswith("one  up ")
    assert "model     shoulder 0\n" in shown.stdout
    everything = json.loads(marram("status", "--json", "-c", config).stdout)
    assert everything["pid"] == running.pid
    assert everything["windows"]["failed"] == everything["windows"]["dropped"] == 0
    assert everything["sensors"]["tape"]["error"] is None
    assert everything["sensors"]["tape"]["counters"]["rows"] > 0
    assert everything["memory"]["pss"] > 0
    assert marram("label", "ER", "--last", "5", "-c", config).returncode == 0
    unknown = marram("label", "XX", "-c", config)
    assert unknown.returncode == 1
    assert "the model has no label 'XX'; it has: PEN, ABD, FEL, IR, ER, TRAP, ROW" in unknown.stderr
    assert running.stop() == 0
    assert not (tmp_path / "state" / "marram.sock").exists()
    assert "Traceback" not in running.log.read_text()


def test_a_second_agent_on_the_same_state_folder_is_refused_and_the_first_goes_on(tmp_path, agent):
    config = write(tmp_path, ENDLESS)
    running = agent(config)
    eventually("windows", lambda: status(tmp_path).get("windows", {}).get("predicted", 0) > 0)
    second = marram("run", "-c", config)
    assert second.returncode == 1
    assert "another agent uses this state folder" in second.stderr
    assert "Traceback" not in second.stderr
    before = status(tmp_path)["windows"]["predicted"]
    eventually("more windows", lambda: status(tmp_path)["windows"]["predicted"] > before)
    assert running.running


def test_a_full_disk_is_counted_and_inference_goes_on(tmp_path, agent):
    (tmp_path / "full").symlink_to("/dev/full")
    outputs = "{type: jsonl, path: full}, {type: jsonl, path: out.jsonl}"
    running = agent(write(tmp_path, ENDLESS, outputs))
    eventually("windows", lambda: len(lines(tmp_path / "out.jsonl")) > 5)
    outputs = status(tmp_path)["outputs"]
    assert outputs["0-jsonl"]["errors"] > 0
    assert outputs["1-jsonl"]["errors"] == 0
    assert running.said("No space left on device")
    assert running.stop() == 0


def test_ctrl_c_ends_the_agent_as_well_and_what_was_received_is_predicted(tmp_path, agent):
    running = agent(write(tmp_path, ENDLESS))
    eventually("windows", lambda: len(lines(tmp_path / "out.jsonl")) > 20)
    os.kill(running.pid, signal.SIGINT)
    assert running.wait() == 0
    starts = [line["start"] for line in lines(tmp_path / "out.jsonl")]
    assert starts == sorted(starts)
    assert "Traceback" not in running.log.read_text()


def test_a_signal_that_another_thread_takes_ends_it_too(tmp_path, agent):
    process = agent(write(tmp_path, ENDLESS))
    eventually("it answers", lambda: status(tmp_path))
    threads = sorted(int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir())
    assert threads[0] == process.pid
    kill_thread(process.pid, threads[1], signal.SIGTERM)
    assert process.wait() == 0
