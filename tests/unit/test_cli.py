"""The command line as its user meets it: real processes, exit statuses, words on standard error."""

import json

import jsonschema
import pytest
from marram import __version__

from tests.support.cli import marram
from tests.support.configs import HOST_BUNDLE

MINIMAL = f"sensors: [{{type: host, name: h}}]\nmodel: {{bundle: {HOST_BUNDLE}}}\n"
MISTAKES = MINIMAL + "device: {log_level: loud}\nstream: {max_gab: 5s}\n"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(MINIMAL + "device: {state: state}\n")
    return path


def test_check_says_that_a_valid_file_is_valid(config):
    done = marram("check", "-c", config)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{config}: valid\n", "")


@pytest.mark.parametrize("command", ["check", "run", "status"])
def test_mistakes_in_the_file_end_with_status_1_and_name_each_place(config, command):
    config.write_text(MISTAKES)
    done = marram(command, "-c", config)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{config}:3:21: device.log_level: expected one of debug, error, info, warning" in done.stderr
    assert f"{config}:4:10: stream.max_gab: this key is not known; did you mean 'max_gap'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "expected UTF-8 text"),
        (b"a: &a [*a]", "alias *a stands inside its own anchor"),
        (b"[" * 10_000, "nested more than 64 levels deep"),
        (b"", "sensors: this key is missing"),
    ],
)
def test_a_file_that_is_no_configuration_ends_with_status_1(config, content, words):
    config.write_bytes(content)
    done = marram("check", "-c", config)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_run_refuses_a_bundle_that_is_none_and_says_why(config):
    (config.parent / "a.marram").write_bytes(HOST_BUNDLE.read_bytes()[:10_000])
    config.write_text("sensors: [{type: host, name: h}]\nmodel: {bundle: a.marram}\ndevice: {state: state}\n")
    done = marram("run", "-c", config)
    assert done.returncode == 1
    assert "a.marram: is not a whole bundle (damaged or cut short)" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_refuses_a_model_whose_channels_no_sensor_gives(config):
    config.write_text(
        f"sensors: [{{type: stdin, name: pipe, channels: [cpu, memori]}}]\nmodel: {{bundle: {HOST_BUNDLE}}}\n"
        "device: {state: state}\n"
    )
    done = marram("run", "-c", config)
    assert done.returncode == 1
    assert "the channel memory has no source: set stream.channels.memory.source" in done.stderr
    assert "the sensors offer: pipe.cpu, pipe.memori" in done.stderr


def test_schema_prints_json_schema_that_an_editor_can_use(config):
    done = marram("schema")
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert jsonschema.Draft202012Validator(schema).is_valid(
        {"sensors": [{"type": "host", "name": "h"}], "model": {"bundle": "x"}}
    )


@pytest.mark.parametrize("arguments", [["status"], ["label", "ER"]])
def test_asking_a_daemon_that_does_not_run_says_so(config, arguments):
    done = marram(*arguments, "-c", config)
    assert done.returncode == 1
    assert "no daemon answers here" in done.stderr
    assert "is `marram run` running?" in done.stderr


def test_version_is_the_packages():
    assert marram("--version").stdout == f"marram {__version__}\n"


def test_no_command_shows_how_it_is_used():
    done = marram()
    assert done.returncode == 2
    assert "usage: marram" in done.stderr
