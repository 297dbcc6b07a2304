"""`marram config show`: YAML that loads to the same, and the origin of every value."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.config.load import load, load_all
from marram.config.schema import Agent
from marram.config.show import show
from marram.config.values import read_duration, read_size, write_duration, write_size

from tests.support.cli import marram
from tests.support.configs import HOST_BUNDLE, configurations, write


@settings(max_examples=60, deadline=None)
@given(configurations(), st.booleans(), st.text(max_size=30) | st.sampled_from(["\x85", "a\n\u2028", "\t#"]))
def test_what_is_shown_loads_to_the_same(tmp_path_factory, tree, origins, name):
    path = tmp_path_factory.getbasetemp() / "main.yaml"
    path.write_text(write(tree).text)
    loaded = load_all(path, Agent)
    # A text of any characters, where the schema takes one.
    board = loaded.value.board.__class__(name=name, serial={"on": "/dev/tty 1"})
    value = type(loaded.value)(**{
        field: board if field == "board" else getattr(loaded.value, field)
        for field in loaded.value.__struct_fields__
    })  # fmt: skip
    path.write_text(show(type(loaded)(value, loaded.merged), origins))
    assert load(path, Agent) == value


@given(st.floats(0, 1e9) | st.integers(0, 10**9).map(float))
def test_durations_are_written_so_that_they_read_the_same(value):
    written = write_duration(value)
    assert read_duration(float(written) if re.fullmatch(r"[\d.e+-]+", written) else written) == value


@given(st.integers(0, 1 << 62))
def test_sizes_are_written_so_that_they_read_the_same(value):
    written = write_size(value)
    assert read_size(int(written) if written.isdecimal() else written) == value


@pytest.mark.parametrize(
    ("value", "written"),
    [(86400, "1d"), (5400, "90m"), (0.25, "250ms"), (0, "0s"), (1.5, "1500ms"), (60, "1m")],
)
def test_a_duration_is_written_in_the_largest_unit_that_divides_it(value, written):
    assert write_duration(value) == written


def test_each_value_tells_the_layer_and_line_that_it_is_of(tmp_path):
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards/b.yaml").write_text(
        "# b\nmodel:\n  threads: 2\nboard: {serial: {header: /dev/ttyS0}}\n"
    )
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/10.yaml").write_text("sensors:\n  - name: own\n    rate: 9\n")
    path = tmp_path / "main.yaml"
    path.write_text(
        f"version: 2\nextends: b\nsensors:\n  - {{type: host, name: own}}\nmodel:\n  bundle: {HOST_BUNDLE}\n"
    )
    done = marram(
        "config",
        "show",
        "--origins",
        "-c",
        path,
        "--set",
        "device.tags=[x]",
        env={"MARRAM__WATCH__DUTY": "0.25"},
    )
    assert done.returncode == 0, done.stderr
    lines = [re.split(r"\s+# ", line.strip().removeprefix("- ")) for line in done.stdout.splitlines()]
    found = {line[0]: line[1].replace(f"{tmp_path}/", "") for line in lines if len(line) == 2}
    wanted = {
        "type: host": "main.yaml:4",
        "name: own": "conf.d/10.yaml:2",
        "rate: 9": "conf.d/10.yaml:3",
        f"bundle: {HOST_BUNDLE}": "main.yaml:6",
        "threads: 2": "boards/b.yaml:3",
        "header: /dev/ttyS0": "boards/b.yaml:4",
        "tags: [x]": "--set device.tags",
        "duty: 0.25": "environment MARRAM__WATCH__DUTY",
        "max_gap: 2s": "default",
    }
    assert {key: found.get(key) for key in wanted} == wanted
    plain = marram("config", "show", "-c", path)
    assert "#" not in plain.stdout
    assert "rate: 9\n" in plain.stdout


def test_a_wrong_configuration_is_not_shown(tmp_path):
    path = tmp_path / "main.yaml"
    path.write_text("sensors: []\n")
    done = marram("config", "show", "-c", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "sensors: expected a list of at least 1 item," in done.stderr
