"""From answers to the text of the YAML. Pure but for looking at sensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from marram.setup.sensors import config as sensor_config

if TYPE_CHECKING:
    from marram.bundle.manifest import Manifest

_HEAD = """\
# Written by `marram setup`. `marram check` finds mistakes, `marram config show` shows all settings with their
# defaults; docs/configuration.md explains each. After a change: systemctl reload marram
"""


@dataclass(frozen=True)
class Answers:
    """name: of the device. board: to extend, "" for none. sensors: as written. bundle: file. broker: URL, ""
    for none. identity: folder of an enrolled identity, None where there is none. state: folder.
    """

    name: str
    board: str
    sensors: Sequence[str]
    bundle: Path
    broker: str
    identity: Path | None
    state: Path


def text(answers: Answers, manifest: Manifest, root: Path) -> str:
    """The YAML. Raises SetupError."""
    tree: dict[str, Any] = {"version": 2}
    if answers.board:
        tree["extends"] = answers.board
    tree["device"] = {"name": answers.name, "state": str(answers.state)}
    tree["sensors"] = sensors = _sensors(answers, manifest, root)
    alone = answers.identity is None or not answers.broker
    trainable = manifest.trainable
    learns = trainable and manifest.task != "classify" and alone
    tree["model"] = {"bundle": str(answers.bundle), **({"parameters": "own"} if learns else {})}
    sources = _sources(sensors, manifest)
    if sources:
        tree["stream"] = {"channels": {channel: {"source": source} for channel, source in sources.items()}}
    tree["outputs"] = [
        {"type": "jsonl", "path": str(answers.state / "predictions.jsonl"), "max_bytes": "4MiB", "keep": 1}
    ]
    if answers.broker and alone:
        tree["outputs"].append({"type": "mqtt", "broker": answers.broker})
    elif answers.broker:
        tree["cloud"] = {"broker": answers.broker, "identity": str(answers.identity)}
    if learns:
        tree["learning"] = {"schedule": {}}
    elif trainable and not alone:
        tree["learning"] = {}
    return _HEAD + "".join(
        f"\n{yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=100)}"
        for key, value in tree.items()
    )


def _sensors(answers: Answers, manifest: Manifest, root: Path) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for written in answers.sensors:
        made.append(sensor_config(written, manifest.channel_names, root, [one["name"] for one in made]))
    return made


def _sources(sensors: Sequence[dict[str, Any]], manifest: Manifest) -> dict[str, str]:
    """Which sensor channel feeds which channel of the model, where it does not go without saying.

    One sensor with other names and as many channels as the model is taken in its order.
    """
    offers = [(one["name"], list(one.get("channels", ()))) for one in sensors]
    wanted = list(manifest.channel_names)
    several = [channel for channel in wanted if sum(channel in offered for _, offered in offers) > 1]
    if several:
        first = {channel: next(name for name, offered in offers if channel in offered) for channel in several}
        return {channel: f"{name}.{channel}" for channel, name in first.items()}
    if len(offers) == 1 and offers[0][1] and not set(offers[0][1]) & set(wanted):
        name, offered = offers[0]
        if len(offered) == len(wanted):
            return {channel: f"{name}.{other}" for channel, other in zip(wanted, offered, strict=True)}
    return {}
