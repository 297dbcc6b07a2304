"""Reading the file itself, what a valid one becomes, and what is refused before there is any YAML."""

from pathlib import Path

import pytest
from marram.config.layers import MAX_BYTES
from marram.config.load import load
from marram.config.problems import InvalidConfigError
from marram.config.schema import Agent
from marram.errors import ConfigError

from tests.support.configs import HOST_BUNDLE, ROOT

MINIMAL = f"sensors: [{{type: host, name: h}}]\nmodel: {{bundle: {HOST_BUNDLE}}}\n"


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "agent.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_relative_paths_begin_at_the_folder_of_the_file(tmp_path):
    (tmp_path / "a.marram").touch()
    text = "sensors: [{type: host, name: h}]\nmodel: {bundle: a.marram}\ndevice: {state: var/../state}\n"
    config = load(write(tmp_path, text), Agent)
    assert config.model.bundle == tmp_path / "a.marram"
    assert config.control_socket == tmp_path / "var/../state/marram.sock"


def test_durations_and_sizes_become_seconds_and_bytes(tmp_path):
    text = MINIMAL + "learning:\n  store: {max_bytes: 1.5 KiB, max_age: 2h, commit_every: 250ms}\n"
    store = load(write(tmp_path, text), Agent).learning.store
    assert (store.max_bytes, store.max_age, store.commit_every) == (1536, 7200.0, 0.25)


@pytest.mark.parametrize(
    ("written", "rate"), [("1e1", 10.0), ("0x10", 16.0), ("1_0", 10.0), (".5", 0.5), ("+2", 2)]
)
def test_numbers_that_yaml_1_1_reads_otherwise_are_still_numbers(tmp_path, written, rate):
    text = MINIMAL.replace("name: h}", f"name: h, rate: {written}}}")
    assert load(write(tmp_path, text), Agent).sensors[0].rate == rate


def test_an_empty_section_is_the_section_as_it_is_by_default_and_a_tilde_is_none(tmp_path):
    assert load(write(tmp_path, MINIMAL + "learning:\n"), Agent).learning is not None
    assert load(write(tmp_path, MINIMAL + "learning: ~\n"), Agent).learning is None
    assert load(write(tmp_path, MINIMAL), Agent).learning is None


def test_files_of_another_machine_are_not_looked_for_when_asked_so(tmp_path):
    path = write(tmp_path, MINIMAL.replace(str(HOST_BUNDLE), "/nowhere/x.marram"))
    assert load(path, Agent, check_files=False).model.bundle == Path("/nowhere/x.marram")
    with pytest.raises(
        ConfigError, match=r"agent\.yaml:2:17: model\.bundle: the file /nowhere/x\.marram does not"
    ):
        load(path, Agent)


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"%YAML 1.1\n---\n", b"# nothing\r\n\r\n"])
def test_what_editors_put_in_front_is_accepted(tmp_path, prefix):
    assert load(write(tmp_path, prefix + MINIMAL.encode()), Agent).sensors[0].name == "h"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (MINIMAL.encode() + "device:\n  name: w\xe4rme\n".encode("latin-1"), "4:10"),
        (MINIMAL.encode("utf-16"), "1:1"),
        ("# größe\n".encode() * 2 + "# größe ".encode() + b"\xff\n", "3:9"),
    ],
)
def test_a_file_that_is_not_utf_8_is_refused_at_the_byte(tmp_path, content, place):
    path = write(tmp_path, content)
    with pytest.raises(InvalidConfigError) as caught:
        load(path, Agent)
    assert str(caught.value).startswith(f"{path}:{place}: expected UTF-8 text, found the byte 0x")


@pytest.mark.parametrize("content", ["", "# only a comment\n", "---\n", "~\n"])
def test_an_empty_file_lacks_what_must_be_there(tmp_path, content):
    with pytest.raises(InvalidConfigError) as caught:
        load(write(tmp_path, content), Agent)
    assert [problem.path for problem in caught.value.problems] == [("sensors",), ("model",)]


def test_a_file_that_is_too_large_is_refused_without_being_parsed(tmp_path):
    with pytest.raises(ConfigError, match="larger than 1024 KiB: this is not a configuration file"):
        load(write(tmp_path, b"#" * (MAX_BYTES + 1)), Agent)


def test_a_folder_and_a_file_that_is_not_there_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="is a folder: name the YAML file in it"):
        load(tmp_path, Agent)
    with pytest.raises(ConfigError, match="does not exist: write it, or name another file with --config"):
        load(tmp_path / "agent.yaml", Agent)
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        load(write(tmp_path, "") / "agent.yaml", Agent)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "firmware_configs").glob("*.yaml")), ids=lambda path: path.name
)
def test_the_shipped_configurations_are_valid(path):
    assert load(path, Agent, check_files=False).sensors
