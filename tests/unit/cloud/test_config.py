"""The aggregator's configuration: every mistake at its line and column, all at once."""

import json
import textwrap
from pathlib import Path

import jsonschema
import pytest
import yaml
from marram.config.load import load
from marram.errors import ConfigError
from marram_cloud.cli import main
from marram_cloud.config.schema import Aggregator

GOOD = """\
bundle: model.marram
state: state
broker:
  url: mqtt://localhost:1883
  identity: identity
rounds:
  minimum_devices: 3
  deadline: 5min
"""


def settings_for(folder: Path, text: str = GOOD) -> Aggregator:
    (folder / "model.marram").write_bytes(b"")
    (folder / "identity").mkdir(exist_ok=True)
    (folder / "aggregator.yaml").write_text(text)
    return load(folder / "aggregator.yaml", Aggregator)


def test_a_good_configuration_becomes_the_settings_of_the_rounds(tmp_path):
    settings = settings_for(tmp_path).rounds.settings()
    assert settings.rules.minimum == 3
    assert settings.rules.deadline == 300.0
    assert settings.limit is None


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("  minimum_device: 3", "7:3", "minimum_devices"),
        ("  minimum_devices: 0", "7:20", "0"),
        ("  deadline: soon", "7:13", "soon"),
        ("  chain: rotate(3)|quantise(1)", "7:10", "power of two"),
        ("  chain: clip(1)", "7:10", "must end in"),
        ("  update_chain: feedback|float32", "7:17", "no feedback"),
        ("  learning_rate: -1", "7:18", "-1"),
        ("  strategy: {type: fedavg, momentum: 1.5}", "7:38", "1.5"),
        ("  strategy: {type: krumm}", "7:20", "krumm"),
        ("  snapshot_every: 0", "7:19", "0"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_column(tmp_path, line, place, words):
    text = GOOD.replace("  minimum_devices: 3", line)
    with pytest.raises(ConfigError) as caught:
        settings_for(tmp_path, text)
    assert f"aggregator.yaml:{place}" in str(caught.value), caught.value
    assert words in str(caught.value)


def test_a_forest_has_a_chain_of_its_own(tmp_path):
    text = GOOD.replace("  minimum_devices: 3", "  strategy: {type: forest, trees: 6}")
    assert settings_for(tmp_path, text).rounds.settings().chain == "trees(6)"


def test_all_mistakes_come_at_once(tmp_path):
    text = textwrap.dedent("""\
        bundle: nowhere.marram
        state: state
        broker: {url: localhost, identity: identity}
        rounds: {epochs: many}
        typo: 1
        """)
    with pytest.raises(ConfigError) as caught:
        settings_for(tmp_path, text)
    for place in ("1:9", "3:15", "4:18", "5:1"):
        assert f"aggregator.yaml:{place}" in str(caught.value), caught.value


def test_an_editor_gets_a_schema_that_knows_what_every_key_is_for(capsys):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(yaml.safe_load(GOOD))
    assert not validator.is_valid(yaml.safe_load(GOOD.replace("deadline: 5min", "deadline: soon")))
    for name, definition in schema["$defs"].items():
        for key, value in definition["properties"].items():
            assert key == "type" or value.get("description"), f"{name}.{key}"


@pytest.mark.parametrize("line", ["  epochs: 1001", "  batch: 65537"])
def test_what_no_device_would_take_in_an_offer_is_refused_here(tmp_path, line):
    with pytest.raises(ConfigError, match=r"aggregator.yaml:7:\d+"):
        settings_for(tmp_path, GOOD.replace("  minimum_devices: 3", line))
