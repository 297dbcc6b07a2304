"""Predictions on a topic of a real Mosquitto."""

import msgspec
import pytest
from marram.inference.prediction import Prediction
from marram.outputs.mqtt import MqttConfig
from marram.outputs.output import OUTPUTS, OutputContext

from tests.support.mosquitto import Client, Mosquitto
from tests.support.processes import eventually


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


def prediction(number, label="normal"):
    return Prediction(float(number), number + 1.0, label, "m 1", 12.5)


class Opened:
    def __init__(self, broker, **keys):
        config = MqttConfig(broker=broker.url, **keys)
        self.output = OUTPUTS.open(config, OutputContext(device="press-07", model="host"))

    def __enter__(self):
        eventually("connected", lambda: self.output._link.connected)
        return self.output

    def __exit__(self, *_):
        self.output.close()


def starts(messages):
    return [msgspec.json.decode(payload)["start"] for _, payload, _ in messages]


LABELS = ["normal", "normal", "anomaly", "anomaly", "normal"]


@pytest.mark.parametrize(
    ("only", "wanted"), [("all", [0, 1, 2, 3, 4]), ("changes", [0, 2, 4]), ("anomalies", [2, 3])]
)
def test_what_is_asked_for_is_published_in_order(broker, only, wanted):
    with (
        Client(broker, f"{only}/#") as client,
        Opened(broker, topic=f"{only}/{{device}}/{{model}}", only=only) as output,
    ):
        output.write([prediction(n, label) for n, label in enumerate(LABELS[:3])])
        output.write([prediction(n + 3, label) for n, label in enumerate(LABELS[3:])])
        client.wait_for(lambda messages: len(messages) >= len(wanted))
        assert starts(client.messages) == wanted
        assert {topic for topic, _, _ in client.messages} == {f"{only}/press-07/host"}


def test_a_retained_prediction_is_there_for_who_comes_later(broker):
    with Opened(broker, topic="kept", retain=True) as output:
        output.write([prediction(7)])
    with Client(broker, "kept") as client:
        client.wait_for(len)
        assert starts(client.messages) == [7]
        assert client.messages[0][2]


def test_while_the_broker_is_away_predictions_are_counted_as_unsent_and_then_go_out_again(tmp_path):
    with Mosquitto(tmp_path) as broker, Opened(broker, topic="t") as output:
        broker.stop()
        eventually("the link is down", lambda: not output._link.connected)
        output.write([prediction(0), prediction(1)])
        assert output.unsent == 2
        broker.start()
        eventually("the link is up", lambda: output._link.connected)
        with Client(broker, "t") as client:
            output.write([prediction(2)])
            client.wait_for(len)
            assert starts(client.messages) == [2]
