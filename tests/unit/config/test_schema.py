"""The JSON Schema for editors accepts what the loader accepts, and knows what every key is for."""

import json

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from marram.config.json_schema import json_schema
from marram.config.load import loads
from marram.config.schema import Agent
from marram.config.values import Place
from marram.errors import ConfigError

from tests.support.configs import ROOT, configurations, write

SCHEMA = json.loads(json.dumps(json_schema(Agent, "Marram agent configuration")))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_it_is_valid_json_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "path",
    [path for place in (".", "sites") for path in sorted((ROOT / "firmware_configs" / place).glob("*.yaml"))],
    ids=lambda path: path.name,
)
def test_it_accepts_the_shipped_configurations(path):
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


@settings(max_examples=60, deadline=None)
@given(configurations())
def test_it_accepts_every_valid_configuration(tree):
    text = write(tree).text
    loads(text, Agent, "agent.yaml", Place(ROOT))
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "model: {bundle: a}",
        "sensors: []\nmodel: {bundle: a}",
        "sensors: [{type: hsot, name: a}]\nmodel: {bundle: a}",
        "sensors: [{type: host, name: a}]\nmodel: {bundle: a, colour: red}",
        "sensors: [{type: host, name: a, rate: -1}]\nmodel: {bundle: a}",
        "sensors: [{type: host, name: a}]\nmodel: {bundle: a}\nstream: {max_gap: soon}",
        "sensors: [{type: host, name: a}]\nmodel: {bundle: a, file: b}",
    ],
)
def test_it_refuses_what_the_loader_refuses(text):
    assert not VALIDATOR.is_valid(yaml.safe_load(text))


@pytest.mark.parametrize(
    "section",
    ["device", "stream", "outputs", "control", "labels", "learning", "stream: {channels", "sensors", "model"],
)
def test_a_section_with_nothing_under_it_is_taken_where_the_loader_takes_it(section):
    others = {"sensors": "sensors: [{type: host, name: a}]", "model": "model: {bundle: b}"}
    end = ": }" if "{" in section else ":"
    text = "\n".join([line for key, line in others.items() if key != section] + [section + end])
    try:
        loads(text, Agent, "agent.yaml", Place(ROOT, check_files=False))
        taken = True
    except ConfigError:
        taken = False
    assert VALIDATOR.is_valid(yaml.safe_load(text)) == taken
    assert taken == (section not in ("sensors", "model"))


def test_the_state_folder_has_its_default():
    assert SCHEMA["$defs"]["Device"]["properties"]["state"]["default"] == "/var/lib/marram"


def test_keys_that_several_sensors_share_are_described_once_and_for_all():
    for name in ("CsvConfig", "StdinConfig", "marram.sensors.mqtt.MqttConfig"):
        assert "what the sensor is called" in SCHEMA["$defs"][name]["properties"]["name"]["description"]


def test_every_key_has_a_description():
    for name, definition in SCHEMA["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            assert key == "type" or value.get("description"), f"{name}.{key}"
