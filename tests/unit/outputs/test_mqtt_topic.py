"""Where the mqtt output may publish, and under which name it connects."""

from __future__ import annotations

from pathlib import Path

import pytest
from marram.config.load import load
from marram.config.schema import Agent
from marram.errors import ConfigError
from marram.outputs import mqtt
from marram.outputs.output import OutputContext

from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually

BUNDLE = Path(__file__).parents[3] / "examples" / "host" / "host.marram"


@pytest.mark.parametrize("topic", ["predictions/#", "a/+/b", "+"])
def test_a_topic_with_wildcards_is_refused_by_the_configuration(tmp_path: Path, topic: str) -> None:
    config = tmp_path / "marram.yaml"
    output = f'{{type: mqtt, broker: "mqtt://host", topic: "{topic}"}}'
    config.write_text(
        f"sensors: [{{type: host, name: host}}]\nmodel: {{bundle: {BUNDLE}}}\noutputs: [{output}]\n"
    )
    with pytest.raises(ConfigError, match=r"outputs\[0\]\.topic"):
        load(config, Agent)


def test_two_outputs_to_one_broker_do_not_put_each_other_out(tmp_path: Path) -> None:
    context = OutputContext("device", "model")
    with Mosquitto(tmp_path) as broker:
        outputs = [mqtt.open(mqtt.MqttConfig(broker=broker.url), context) for _ in range(2)]
        eventually("two connections", lambda: all(output._link.connected for output in outputs))
        for output in outputs:
            assert output._link.publish("ping", b"")
            assert output._link.drain(5)
        assert all(output._link.connected for output in outputs)
        for output in outputs:
            output.close()
