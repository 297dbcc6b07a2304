"""The documentation is true: links lead somewhere, configurations load, tables are those of the code."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from marram.bundle.file import read
from marram.bundle.int8 import Int8Layout
from marram.bundle.manifest import Manifest
from marram.config.load import loads
from marram.config.schema import Agent
from marram.config.values import Place
from marram.registry import Registry
from marram.sensors.sensor import SensorConfig, SensorContext
from marram.wire import messages, reasons, trees
from marram.wire.codec import Chain
from marram.wire.rollout import Plan, Rollout
from marram.wire.topics import Topics
from marram_cloud.config.schema import Aggregator

from tests.support.cli import marram
from tests.support.configs import HOST_BUNDLE, SHOULDER_BUNDLE
from tests.support.pages import ROOT, Page, docs, pages

PROTOCOL, BUNDLES = docs("protocol.md"), docs("bundles.md")
LEAST = {"sensors": [{"type": "host", "name": "host"}], "model": {"bundle": "model.marram"}}


def name(page):
    return str(page.path.relative_to(ROOT))


# ---- every page


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_relative_link_leads_to_something_that_is_there(page):
    for link in page.links:
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file).resolve() if file else page.path
        assert target.exists(), link
        if anchor:
            assert anchor in Page(target).anchors, link


def test_every_page_can_be_reached_from_the_index():
    reached = {docs("index.md").path}
    waiting = list(reached)
    while waiting:
        page = Page(waiting.pop())
        for link in page.links:
            target = (page.path.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and "docs" in target.parts and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert reached == {page.path for page in pages() if "docs" in page.path.parts}


def configurations():
    for page in pages():
        for number, text in enumerate(page.blocks("yaml")):
            keys = yaml.safe_load(text).keys()
            if "extends" in keys:
                continue  # a part of a configuration, of which the boards and sites have their own tests
            for kind in (Agent, Aggregator):
                if keys <= set(kind.__struct_fields__):
                    yield pytest.param(kind, text, id=f"{name(page)}-{number}")


@pytest.mark.parametrize(("kind", "text"), list(configurations()))
def test_every_configuration_on_a_page_is_accepted(kind, text):
    if kind is Agent:
        # A page may show one section alone.
        missing = {key: value for key, value in LEAST.items() if key not in yaml.safe_load(text)}
        text += yaml.safe_dump(missing) if missing else ""
        text = text.replace("source: watch.ax", "source: host.cpu")
    loads(text, kind, "page.yaml", Place(ROOT, check_files=False))


# ---- configuration.md


def test_the_tables_of_the_configuration_are_those_that_the_script_writes():
    script = ROOT / "scripts" / "docs_configuration.py"
    done = subprocess.run(
        [sys.executable, str(script), "--print"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == docs("configuration.md").text, "run .venv/bin/python scripts/docs_configuration.py"


# ---- security.md


def test_every_test_that_the_threat_model_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", docs("security.md").text)
    assert named
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]
    assert missing == []


# ---- protocol.md

MESSAGES = (
    messages.Offer, messages.RangesAsked, messages.Steps, messages.Artefact, messages.Parameters,
    messages.Delta, messages.Metrics,
    messages.Decline, messages.Receipt, messages.Refusal, messages.Report,
    messages.Fetch, messages.Block, trees.TreesMessage, trees.TreeMessage,
)  # fmt: skip


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_the_page_has_every_field_of_a_message_in_its_order(kind):
    found = [row[0] for row in PROTOCOL.table(f"### {kind.__name__}")]
    assert found == list(kind.__struct_fields__)


def test_the_page_describes_every_message():
    kinds = {
        one
        for module in (messages, trees)
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, msgspec.Struct)
    }
    assert kinds == set(MESSAGES)


def test_the_page_says_which_fields_may_be_left_out():
    for kind in MESSAGES:
        table = {row[0]: row[1] for row in PROTOCOL.table(f"### {kind.__name__}")}
        for field in msgspec.structs.fields(kind):
            assert field.required == ("if left out" not in table[field.name]), f"{kind.__name__}.{field.name}"


@pytest.mark.parametrize(("title", "kind"), [("The roll-out", Rollout), ("Plan", Plan)])
def test_the_page_has_every_field_of_the_roll_out_in_its_order(title, kind):
    table = {row[0]: row[1] for row in PROTOCOL.table(f"### {title}")}
    assert list(table) == list(kind.__struct_fields__)
    for field in msgspec.structs.fields(kind):
        assert field.required == ("if left out" not in table[field.name]), field.name


def test_the_page_has_every_reason_in_the_order_of_the_code():
    assert tuple(row[0] for row in PROTOCOL.table("### Reasons")) == reasons.ALL


def test_the_checks_on_the_page_give_every_reason_and_no_other():
    found = {word for row in PROTOCOL.table("### The order of checks") for word in row[1].split("`")}
    assert set(reasons.ALL) <= found
    assert {word for word in found if "_" in word} <= set(reasons.ALL)


def test_the_topics_on_the_page_are_those_of_the_code():
    topics = Topics("<fleet>", "<region>")
    made = {
        topics.round,
        f"{topics.root}/parameters/<version>/<kind>/<part>",
        topics.timestamp,
        topics.revoked,
        topics.state("<device>"),
        topics.report("<device>"),
        *(topics.up("<device>", kind) for kind in ("delta", "decline", "fetch")),
        *(topics.down("<device>", kind) for kind in ("receipt", "refusal", "block")),
    }
    found = {row[0].replace("<root>", topics.root) for row in PROTOCOL.table("## Topics")}
    assert found == made
    assert topics.parameters(1, "update", 0) == f"{topics.root}/parameters/1/update/0"


def test_the_family_is_what_the_page_says():
    manifest = read(SHOULDER_BUNDLE).manifest
    parts = [
        manifest.name,
        manifest.task,
        manifest.channel_names,
        manifest.rate,
        manifest.length,
        manifest.labels,
        [{"name": one.name, "dtype": one.dtype, "shape": one.shape} for one in manifest.parameters],
        manifest.members[manifest.programs["train"].file],
    ]
    family = hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
    assert family == manifest.family
    assert family in PROTOCOL.text


# ---- bundles.md and learning.md


def test_the_page_has_every_field_of_the_manifest():
    found = [row[0] for row in BUNDLES.table("## manifest.json")]
    assert sorted(found) == sorted(Manifest.__struct_fields__)


def tensors(heading):
    """(program, side, tensor, dtype, shape) of a table."""
    return {tuple(row[:5]) for row in BUNDLES.table(heading)}


def tensors_of(bundle):
    manifest = read(bundle).manifest
    count, channels, labels = manifest.parameter_count, len(manifest.channels), len(manifest.labels)
    sizes = {count: "P", channels: "C", manifest.length: "L"} | ({labels: "K"} if labels else {})
    return {
        (
            role,
            side,
            one.name,
            one.dtype,
            "S"
            if one.name.endswith("state")
            else ", ".join(str(sizes.get(size, size)) for size in one.shape),
        )
        for role, program in manifest.programs.items()
        if role != "calibrate"  # whose outputs are named after the model's tensors
        for side, named in (("in", program.inputs), ("out", program.outputs))
        for one in named
    }


def test_the_tensors_on_the_page_are_those_of_a_classify_bundle():
    assert tensors("### For `classify`") == tensors_of(SHOULDER_BUNDLE)


def test_the_tensors_on_the_page_are_those_of_a_reconstruct_bundle():
    same = {row for row in tensors("### For `classify`") if row[2] not in ("y", "correct", "scores")}
    assert same | tensors("### For `reconstruct`") == tensors_of(HOST_BUNDLE)


def test_the_page_has_every_key_of_the_int8_section():
    assert [row[0] for row in BUNDLES.table("### calibrate")] == [*Int8Layout.__struct_fields__]


def test_the_sizes_of_the_chains_are_what_they_encode_to():
    count = read(SHOULDER_BUNDLE).manifest.parameter_count
    for spec, size, _ in docs("learning.md").table("### Choosing a chain"):
        assert len(Chain.parse(spec).encode(np.ones(count, np.float32), 1).payload) == int(size), spec


# ---- sensors.md


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    """The page's own sensor, installed in a folder of its own."""
    page = docs("sensors.md")
    [code], [points] = page.blocks("python"), page.blocks("toml")
    (tmp_path / "marram_sysfs.py").write_text(code)
    about = tmp_path / "marram_sysfs-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: marram-sysfs\nVersion: 1\n")
    group, entry = points.strip().splitlines()
    assert group == '[project.entry-points."marram.sensors"]'
    (about / "entry_points.txt").write_text(f"[marram.sensors]\n{entry.replace(chr(34), '')}\n")
    (tmp_path / "temp").write_text("41500\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("marram_sysfs", None)


def test_the_sensor_on_the_page_reads_numbers_and_tells_what_it_could_not_read(sysfs):
    registry = Registry("marram.sensors", "marram.sensors", SensorConfig)
    text = f"name: soc\nrate: 100\nfiles: {{temperature: {sysfs / 'temp'}, nothing: {sysfs / 'METADATA'}}}"
    config = loads(
        f"type: sysfs\n{text}", registry.plugins["sysfs"].config, "a.yaml", Place(sysfs, check_files=False)
    )
    sensor = registry.open(config, SensorContext(clock=lambda: 5.0))
    samples = next(iter(sensor.read(threading.Event())))
    assert sensor.channels == ("temperature", "nothing")
    assert samples.time.tolist() == [5.0]
    np.testing.assert_array_equal(samples.values, [[41500.0], [np.nan]])
    assert sensor.counters == {"unreadable": 1}


def test_the_sensor_on_the_page_is_known_to_the_agent_once_it_is_installed(sysfs):
    path = Path(sysfs) / "marram.yaml"
    path.write_text(
        "sensors: [{type: sysfs, name: soc, files: {cpu: temp}, rat: 1}]\n"
        f"model: {{bundle: {HOST_BUNDLE}}}\n"
    )
    done = marram("check", "-c", path, env={"PYTHONPATH": str(sysfs)})
    assert done.returncode == 1
    assert "sensors[0].rat: this key is not known; did you mean 'rate'?" in done.stderr
    path.write_text(path.read_text().replace("rat:", "rate:"))
    assert marram("check", "-c", path, env={"PYTHONPATH": str(sysfs)}).returncode == 0
