"""Predictions as JSON messages on an MQTT topic of the plant's own broker."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Literal

import msgspec

from marram.config.values import BrokerUrl, Topic
from marram.inference.prediction import Prediction
from marram.link.broker import Broker
from marram.link.mqtt import LinkEvent, MqttLink, Options
from marram.outputs.output import OutputConfig, OutputContext

_WAITING = 4 << 20


class MqttConfig(OutputConfig, frozen=True, kw_only=True, tag="mqtt"):
    """JSON messages on a topic.

    broker: address of the MQTT broker.
    topic: where to publish; {device} and {model} stand for their names.
    only: everything, only changes of the label, or only anomalies.
    retain: whether the broker keeps the last message for those who come later.
    """

    broker: BrokerUrl
    topic: Topic = "predictions/{device}/{model}"
    only: Literal["all", "changes", "anomalies"] = "all"
    retain: bool = False


class MqttOutput:
    """Publishes while the broker is there; what was not sent is counted, not queued."""

    def __init__(self, config: MqttConfig, context: OutputContext) -> None:
        self._topic = config.topic.replace("{device}", context.device).replace("{model}", context.model)
        self._only, self._retain = config.only, config.retain
        self._encoder = msgspec.json.Encoder()
        self._last = ""
        self.unsent = 0
        # A name of its own: of two clients with one name a broker lets only one stay.
        name = f"marram-output-{context.device}-{secrets.token_hex(4)}"
        options = Options(client_id=name, waiting=_WAITING)
        self._link = MqttLink(Broker.parse(config.broker), options, self._listen)
        self._link.start()

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Publish each prediction that is asked for."""
        for prediction in predictions:
            if self._wanted(prediction) and not self._link.publish(
                self._topic, self._encoder.encode(prediction), self._retain
            ):
                self.unsent += 1

    def close(self) -> None:
        """Disconnect."""
        self._link.stop()

    def _wanted(self, prediction: Prediction) -> bool:
        changed = prediction.label != self._last
        self._last = prediction.label
        if self._only == "changes":
            return changed
        return self._only == "all" or prediction.label == "anomaly"

    def _listen(self, event: LinkEvent) -> None:
        """Nothing is subscribed to."""


def open(config: MqttConfig, context: OutputContext) -> MqttOutput:
    """Begin to connect; predictions go out once the broker is there."""
    return MqttOutput(config, context)
