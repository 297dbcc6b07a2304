"""The boards that come with Marram: valid, complete, with their sources, and as docs/boards.md says."""

import re
from pathlib import Path

import pytest
import yaml
from marram.cli import main
from marram.config.load import load
from marram.config.schema import Agent
from marram.config.values import write_size

from tests.support.configs import HOST_BUNDLE, ROOT
from tests.support.pages import docs

FOLDER = ROOT / "firmware_configs" / "boards"
BOARDS = sorted(FOLDER.glob("*.yaml"), key=lambda path: path.stem)
every = pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)


def whole(folder: Path, path: Path) -> Path:
    """A file that adds to a board what is missing."""
    text = f"extends: {path}\nsensors: [{{type: host, name: own}}]\nmodel: {{bundle: {HOST_BUNDLE}}}\n"
    (folder / "marram.yaml").write_text(text)
    return folder / "marram.yaml"


def config(folder: Path, path: Path) -> Agent:
    return load(whole(folder, path), Agent)


def test_there_is_one_for_each_of_the_machines_that_marram_is_made_for():
    assert {path.stem for path in BOARDS} == {
        "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano", "imx8m-plus", "beagleplay", "rk3588",
        "x86-64-industrial", "virtual-machine",
    }  # fmt: skip


@every
def test_it_passes_marram_check(tmp_path, path, capsys):
    assert main(["check", "-c", str(whole(tmp_path, path))]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/marram.yaml: valid, with {path}\n"


@every
def test_it_says_all_that_a_board_has_to_say(path):
    keys = yaml.safe_load(path.read_text())
    board = {"name", "power", "memory", "serial"}
    if path.stem != "virtual-machine":
        board |= {"thermal_zones"}
        assert {"writes_per_day", "full_speed_below"} <= keys["watch"].keys()
    assert board <= keys["board"].keys()
    assert {"threads", "providers"} <= keys["model"].keys()
    assert {"training_below", "under_voltage"} <= keys["watch"].keys()
    # What is not there is passed over, and the processor is always there.
    assert keys["model"]["providers"][-1] == "CPUExecutionProvider"


@every
def test_it_names_its_sources(path):
    head = re.match(r"(#.*\n)+", path.read_text())
    assert head is not None
    assert "# Sources\n" in head[0]
    about = re.findall(r"^# - (.*?):", head[0], re.MULTILINE)
    assert any("hreads" in one for one in about)
    assert any(word in " ".join(about) for word in ("Thermal", "Temperature"))


@every
def test_it_leaves_to_others_what_is_not_the_board_s(path):
    keys = yaml.safe_load(path.read_text())
    assert keys.keys() <= {"board", "model", "watch", "releases"}
    assert not keys["model"].keys() & {"bundle", "file", "parameters"}


@every
def test_the_page_says_what_the_file_says(tmp_path, path):
    rows = {row[0].strip("`"): row[1:] for row in docs("boards.md").table("## The boards")}
    assert set(rows) == {one.stem for one in BOARDS}
    agent = config(tmp_path, path)
    hot = f"{agent.watch.full_speed_below:g}" if agent.watch.full_speed_below is not None else "always"
    writes = write_size(agent.watch.writes_per_day) if agent.watch.writes_per_day else "no limit"
    names = dict.fromkeys([*agent.board.serial, *agent.board.i2c])
    assert rows[path.stem] == [
        str(agent.model.threads),
        ", ".join(one.removesuffix("ExecutionProvider") for one in agent.model.providers),
        write_size(agent.board.memory),
        f"{agent.watch.training_below:g}",
        hot,
        writes,
        "`, `".join(names),
    ]
