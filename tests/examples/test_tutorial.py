"""docs/tutorial.md, as it stands: its files, its commands, and a device that learns by them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from marram.config.load import load, loads
from marram.config.schema import Agent
from marram.config.values import Place
from marram.control import ControlError, ask
from marram_cloud.workshop.project import ProjectFile

from tests.support.pages import ROOT, docs
from tests.support.processes import Process, eventually
from tests.support.sampled import ONLY_ZOO

PAGE = docs("tutorial.md")
# A file is named in front of the block that it is.
FILES = dict(
    re.findall(r"^\*\*`([^`]+)`\*\*.*?^```(?:python|yaml)\n(.*?)^```$", PAGE.text, re.DOTALL | re.MULTILINE)
)
COMMANDS = [line.partition("#")[0].split() for text in PAGE.blocks("sh") for line in text.splitlines()]
LEARNT = 90.0


def test_it_takes_thirty_lines():
    assert set(FILES) == {"gym/model.py", "gym/project.yaml", "gym/prepare.py", "gym/device.yaml"}
    assert sum(bool(line.strip()) for text in FILES.values() for line in text.splitlines()) <= 30


def test_its_files_are_what_the_commands_take(tmp_path):
    (tmp_path / "project.yaml").write_text(FILES["gym/project.yaml"])
    project = load(tmp_path / "project.yaml", ProjectFile)
    device = loads(FILES["gym/device.yaml"], Agent, "device.yaml", Place(tmp_path, check_files=False))
    assert device.model.bundle.name == f"{project.name}.marram"
    for file in ("gym/model.py", "gym/prepare.py"):
        compile(FILES[file], file, "exec")
    recordings = [yaml.safe_load(FILES["gym/device.yaml"])["sensors"][0]["path"]]
    assert all((ROOT / "gym" / path).resolve().exists() for path in recordings)


@pytest.fixture
def checkout(tmp_path):
    """A folder with what the page uses of a checkout."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    (tmp_path / "gym").mkdir()
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    return tmp_path


@ONLY_ZOO
def test_its_commands_make_a_device_that_learns(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    running = None
    try:
        for command in COMMANDS:
            arguments = command[1:]
            if arguments[0] == "run":
                running = Process("marram.cli", arguments, checkout / "run.log")
                running.start()
                eventually("what it learnt", lambda: _model(checkout).startswith("gym 0 (own"), LEARNT)
            else:
                done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
                assert done.returncode == 0, done.stderr
        assert "gym 0 (own" in done.stdout
        lines = checkout / "gym" / "predictions.jsonl"
        eventually("predictions", lambda: lines.exists() and lines.read_text().count("\n") > 50)
        first = json.loads(lines.read_text().splitlines()[0])
        assert first["label"] in first["scores"]
    finally:
        if running is not None:
            running.kill()


def _model(checkout):
    try:
        return ask(checkout / "gym" / "state" / "marram.sock", {"command": "status"})["model"]["name"] or ""
    except ControlError:
        return ""
