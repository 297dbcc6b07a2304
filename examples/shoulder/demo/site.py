"""The demo's fleet as files: identities made by ``marram-cloud``, a YAML and a state folder a process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from marram.releases import state
from marram_cloud.releases.repository.layout import Layout
from marram_cloud.releases.rollout import store
from marram_cloud.releases.rollout.document import Document

from examples.shoulder import people
from examples.shoulder.demo.process import Process, call

FLEET, REGION, MODEL = "demo", "home", "shoulder"
INSIDER = "insider"  # an enrolled device whose key fell into the wrong hands
CANARIES = ("person-01", "person-02")  # they run every release before the others
GROUP = "canary"  # the tag of these

_AGGREGATOR = """\
bundle: {bundle}
state: aggregator
broker:
  url: mqtt://127.0.0.1:{port}
  identity: fleet/aggregator
rounds:
  minimum_devices: 4
  deadline: 60s
  settle: 1s
  minimum_windows: 200
  learning_rate: 0.1
  limit: {rounds}
releases:
  repository: fleet/repository
  keys: fleet/online
  calibration: {calibration}
"""

_DEVICE = """\
device:
  name: {name}
  state: {name}
  tags: [{tags}]
sensors:
  - type: csv # a recording of one person, fifty times faster than it was made, again and again
    name: watch
    path: {recording}
    label: exercise
    speed: 50
    repeat: true
model:
  bundle: {bundle}
outputs:
  - type: jsonl
    path: {name}/predictions.jsonl
    max_bytes: 256MiB
cloud:
  broker: mqtt://127.0.0.1:{port}
  identity: ../fleet/devices/{name}
learning:
  store: {{ commit_every: 5s }}
  governor: {{ max_cpu: 100 }} # a demo may use the whole machine
watch: {{ training_below: 120 }}
releases:
  spread: 0s # eight devices may all look at once
  # Small numbers, so that it takes seconds. The first model is untrained: a good release disagrees with it on
  # most windows, and is taken because it is right on more of the labelled ones.
  trial: {{ stored: 200, windows: 40, confirm: 80 }}
"""

_STRANGER = """\
device:
  name: {name}
  state: {name}
sensors:
  - type: csv # a person that no device has seen, as fast as it goes
    name: watch
    path: {recording}
    label: exercise
    speed: max
    rebase: false
model:
  bundle: {bundle}
outputs:
  - type: jsonl
    path: {name}/predictions.jsonl
"""


@dataclass(frozen=True)
class Site:
    """The files below ``folder``."""

    folder: Path

    @property
    def aggregator_yaml(self) -> Path:
        return self.folder / "aggregator.yaml"

    def device_yaml(self, name: str) -> Path:
        return self.folder / "devices" / f"{name}.yaml"

    def state(self, name: str) -> Path:
        return self.folder / "devices" / name

    def socket(self, name: str) -> Path:
        return self.state(name) / "marram.sock"

    def released_bundle(self, name: str) -> Path:
        """The bundle file of the release that a device runs."""
        folder = self.state(name) / "releases"
        committed = state.load(folder / "state.json").committed
        assert committed is not None
        return folder / committed.slot

    def document(self) -> Document:
        """The roll-out as it is published now."""
        layout = Layout(self.folder / "fleet" / "repository")
        return store.read(layout, layout.load(), MODEL)

    def build(self, file: Path) -> str:
        """The best parameters as an int8 bundle, not signed yet; what the build said of it."""
        said = call("marram-cloud", "release", "build", *self._config, "-o", str(file))
        return said.splitlines()[0].rpartition(": ")[0]

    def release(self, file: Path, version: str, to: str, then: Sequence[str], soak: str) -> None:
        """Sign, publish and promote a file, with keys that are offline in a real fleet."""
        keys = ("--keys", str(self.folder / "fleet" / "offline"))
        named = ("--model", MODEL, "--version", version)
        call("marram-cloud", "release", "sign", str(file), *named, *keys, *self._config)
        call("marram-cloud", "release", "publish", *self._config)
        later = [word for stage in then for word in ("--then", stage)]
        stages = ("--to", to, *later, "--soak", soak)
        call("marram-cloud", "release", "promote", MODEL, version, *stages, *self._config)

    @property
    def _config(self) -> tuple[str, str]:
        return "-c", str(self.aggregator_yaml)

    def aggregator(self) -> Process:
        command = ("marram-cloud", "run", *self._config)
        return Process("the aggregator", command, self.folder / "aggregator.log")

    def device(self, name: str) -> Process:
        command = ("marram", "run", "-c", str(self.device_yaml(name)))
        return Process(name, command, self.folder / "devices" / f"{name}.log")

    def stranger(self, person: int, bundle: Path) -> Process:
        """A device that runs ``bundle`` over the recording of a held-out person and ends."""
        name = device_name(person)
        text = _STRANGER.format(name=name, recording=people.recording(person), bundle=bundle)
        self.device_yaml(name).write_text(text)
        return self.device(name)


def device_name(person: int) -> str:
    return f"person-{person:02}"


def make(folder: Path, broker: int, gated: dict[str, int], rounds: int) -> Site:
    """Write everything anew. broker: its port. gated: ports of the devices that go through a gate."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "devices").mkdir(parents=True)
    site = Site(folder)
    call(
        "marram-cloud", "init", str(folder / "fleet"), "--fleet", FLEET, "--region", REGION, "--models", MODEL
    )
    text = _AGGREGATOR.format(
        bundle=people.BUNDLE, port=broker, rounds=rounds, calibration=people.FOLDER / "calibration.npz"
    )
    site.aggregator_yaml.write_text(text)
    names = [device_name(person) for person in people.DEVICES]
    fleet = str(folder / "fleet")
    call("marram-cloud", "enrol", "-c", str(site.aggregator_yaml), fleet, *names, INSIDER)
    for person, name in zip(people.DEVICES, names, strict=True):
        text = _DEVICE.format(
            name=name, recording=people.recording(person), bundle=people.BUNDLE, port=gated.get(name, broker),
            tags=GROUP if name in CANARIES else "",
        )  # fmt: skip
        site.device_yaml(name).write_text(text)
    return site
