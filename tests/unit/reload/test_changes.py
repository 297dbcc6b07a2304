"""What differs between two configurations, and what follows: a plan, without doing any of it."""

import pytest
from hypothesis import HealthCheck, given, settings
from marram.config.load import loads
from marram.config.schema import Agent
from marram.config.values import Place
from marram.reload.changes import plan

from tests.support.configs import HOST_BUNDLE, ROOT, configurations, write

BASE = f"""
device: {{name: one, state: state, tags: [a]}}
sensors:
  - {{type: host, name: own, rate: 2}}
  - {{type: csv, name: tape, path: {ROOT / "README.md"}}}
  - {{type: serial, name: scale, port: header, channels: [kg]}}
model: {{bundle: {HOST_BUNDLE}, threads: 1}}
outputs: [{{type: stdout}}]
board: {{serial: {{header: /dev/ttyS0, other: /dev/ttyS1}}}}
learning: {{holdout: 0.2}}
"""


def load(text: str) -> Agent:
    return loads(text, Agent, "agent.yaml", Place(ROOT, check_files=False))


def changed(old: str, new: str, base: str = BASE) -> tuple[Agent, Agent]:
    assert base.count(old) == 1, old
    return load(base), load(base.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("name: one", "name: two", "device.name"),
        ("state: state", "state: other", "device.state"),
        ("bundle: ", "parameters: own, bundle: ", "model.parameters"),
        (HOST_BUNDLE.name, "another.marram", "model.bundle"),
        ("learning:", "control: {socket: x.sock}\nlearning:", "control.socket"),
        ("learning:", "cloud: {identity: id, broker: 'mqtt://h'}\nlearning:", "cloud"),
        ("learning: {holdout: 0.2}", "", "learning"),
        ("learning: {", "learning: {schedule: {after: 5}, ", "learning.schedule"),
    ],
)
def test_what_cannot_change_while_the_agent_runs_is_refused_by_name(old, new, key):
    for before, after in (changed(old, new), changed(old, new)[::-1]):
        what = plan(before, after)
        assert key in what.refused
        assert set(what.refused) <= set(what.changed)


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("tags: [a]", "tags: [b]", ["device.tags"]),
        ("tags: [a]", "log_level: debug", ["device.tags", "device.log_level"]),
        ("holdout: 0.2", "governor: {max_cpu: 5}", ["learning.governor.max_cpu"]),
        ("learning:", "watch: {every: 1s}\nlearning:", ["watch.every"]),
        ("learning:", "releases: {trial: {windows: 5}}\nlearning:", ["releases.trial.windows"]),
        ("rate: 2", "rate: 3", ["sensors.own.rate"]),
        ("type: host, name: own, rate: 2", "type: stdin, name: own, channels: [a]", ["sensors.own"]),
        ("  - {type: host, name: own, rate: 2}\n", "", ["sensors.own"]),
        ("type: stdout", "type: stdout}, {type: stdout", ["outputs"]),
        ("threads: 1", "queue: 7", ["model.queue"]),
    ],
)
def test_what_may_change_is_told_by_its_key(old, new, keys):
    what = plan(*changed(old, new))
    assert (list(what.changed), what.refused) == (keys, ())


@pytest.mark.parametrize(
    ("old", "new", "ended", "begun"),
    [
        ("rate: 2", "rate: 3", {"own"}, {"own"}),
        ("  - {type: host, name: own, rate: 2}\n", "", {"own"}, set()),
        ("name: own", "name: mine", {"own"}, {"mine"}),
        ("port: header", "port: other", {"scale"}, {"scale"}),
        ("port: header", "port: /dev/ttyS0", {"scale"}, {"scale"}),
        ("header: /dev/ttyS0", "header: /dev/ttyS9", {"scale"}, {"scale"}),
        ("other: /dev/ttyS1", "other: /dev/ttyS9", set(), set()),
        ("learning:", "stream: {max_gap: 5s}\nlearning:", {"own", "tape", "scale"}, {"own", "tape", "scale"}),
        ("learning:", "stream: {missing: drop}\nlearning:", set(), set()),
        ("threads: 1", "threads: 2", set(), set()),
    ],
)
def test_only_sensors_that_know_something_else_are_stopped_and_started(old, new, ended, begun):
    what = plan(*changed(old, new))
    assert (what.ended, what.begun) == (ended, begun)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("type: stdout", "type: stdout, name: out", {"outputs"}),
        ("threads: 1", "threads: 2", {"model"}),
        ("threads: 1", "providers: [XnnpackExecutionProvider]", {"model"}),
        ("threads: 1", "threads: 1, max_batch: 5", set()),
        ("learning:", "stream: {channels: {kg: {max: 5}}}\nlearning:", {"stream"}),
        ("rate: 2", "rate: 3", {"stream"}),
        ("learning:", "labels: {mqtt: {broker: 'mqtt://h', topic: t}}\nlearning:", {"labels"}),
        ("holdout: 0.2", "holdout: 0.3", set()),
    ],
)
def test_only_parts_with_other_settings_are_made_anew(old, new, parts):
    what = plan(*changed(old, new))
    assert {one for one in ("outputs", "model", "stream", "labels") if getattr(what, one)} == parts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configurations(), configurations())
def test_a_plan_tells_a_change_just_when_there_is_one(one, two):
    before, after = (load(write(tree).text) for tree in (one, two))
    what = plan(before, after)
    assert bool(what.changed) == (before != after)
    assert len(set(what.changed)) == len(what.changed)
    names = [{sensor.name for sensor in config.sensors} for config in (before, after)]
    assert names[0] - names[1] <= what.ended <= names[0]
    assert names[1] - names[0] <= what.begun <= names[1]
    assert plan(before, before).changed == ()
    back = plan(after, before)
    assert (back.ended, back.begun, set(back.changed)) == (what.begun, what.ended, set(what.changed))


def test_sensors_in_another_order_are_a_change_without_consequence():
    swapped = BASE.replace(f"  - {{type: csv, name: tape, path: {ROOT / 'README.md'}}}\n", "")
    swapped = swapped.replace("model:", f"  - {{type: csv, name: tape, path: {ROOT / 'README.md'}}}\nmodel:")
    what = plan(load(BASE), load(swapped))
    assert (what.changed, what.ended, what.begun) == (("sensors",), frozenset(), frozenset())


def test_every_key_of_the_schema_is_either_taken_or_refused():
    """A new section shall not be forgotten: whoever adds one decides here what a reload does with it."""
    assert set(Agent.__struct_fields__) == {
        "version", "extends",  # of files, not of the configuration
        "cloud", "control",  # refused
        "device", "model", "learning",  # in part
        "sensors", "stream", "outputs", "releases", "labels", "board", "watch",  # taken
    }  # fmt: skip
