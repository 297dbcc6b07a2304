"""The package's life on a machine: installed, upgraded, taken away, put back, purged."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from marram.bundle.file import encode

from tests.support.processes import eventually
from tests.system.agent import CONFIG, configure, goes_on, predictions, recording, status, tree
from tests.system.machine import Machine
from tests.system.marks import full
from tests.system.packages import build, here, installed, package
from tests.unit.cloud.litert.test_forms import with_template

NEXT = "999.0.0"


def _everything(machine: Machine) -> set[str]:
    """What stands on the disk, but for what systemd and dpkg keep of their own."""
    own = re.compile(
        r"^/(etc/(\.pwd\.lock|passwd-?|group-?|shadow-?|gshadow-?|machine-id|subuid-?|subgid-?|\.updated)|var/\.updated|var/(log|cache|lib/(apt|dpkg|systemd|mosquitto))(/.*)?)$"
    )
    return {path for path in tree(machine, "/etc", "/opt", "/usr", "/var") if not own.match(path)}


def test_after_the_installation_one_command_starts_it_and_it_does_something(
    release: int, bare: Machine
) -> None:
    bare.install(package("marram", release))
    assert bare.run("systemctl", "is-enabled", "marram").strip() == "enabled"
    assert not bare.active(), "the technician starts it, once it is configured"
    bare.run("systemctl", "start", "marram")
    assert bare.active()
    eventually("it has made windows of this machine", lambda: status(bare)["store"]["windows"] >= 2)
    assert bare.run("stat", "-c", "%U %a", "/var/lib/marram").split() == ["marram", "750"]
    assert "READY" not in bare.journal()
    assert not re.search(r"error|warning|traceback", bare.journal(), re.IGNORECASE), bare.journal()


def test_state_and_configuration_live_through_upgrade_and_downgrade(release: int, machine: Machine) -> None:
    configure(machine, recording(machine, device={"name": "press-7"}))
    goes_on(machine)
    config, process = machine.file(CONFIG).read_text(), machine.main_pid()
    for version in (NEXT, here()):
        kept = predictions(machine)[:5]
        machine.install(package("marram", release, version if version == NEXT else ""))
        assert machine.run("marram", "--version").strip() == f"marram {version}"
        assert machine.file(CONFIG).read_text() == config
        # It runs on the new version by itself.
        assert machine.active()
        assert machine.main_pid() != process
        process = machine.main_pid()
        assert "failed" not in machine.show("marram.service", "Result")
        goes_on(machine)
        assert status(machine)["device"] == "press-7"
        assert kept, "there were predictions"
    assert machine.restarts() == 0, "none of its ends was a failure"


@full
def test_an_upgrade_leaves_a_stopped_agent_stopped_and_a_disabled_one_disabled(
    release: int, machine: Machine
) -> None:
    machine.run("systemctl", "disable", "--now", "marram")
    machine.install(package("marram", release, NEXT))
    assert not machine.active()
    assert machine.run("systemctl", "is-enabled", "marram", check=False).strip() == "disabled"


@full
def test_removed_and_installed_again_it_starts_with_what_it_knew(release: int, machine: Machine) -> None:
    configure(machine, recording(machine, device={"name": "press-7"}))
    goes_on(machine)
    config = machine.file(CONFIG).read_text()
    machine.run("dpkg", "--remove", "marram")
    assert not machine.file("/opt/marram").exists(), tree(machine, "/opt/marram")
    assert not machine.file("/usr/bin/marram").exists()
    assert machine.run("pgrep", "-u", "marram", check=False) == ""
    assert machine.file(CONFIG).read_text() == config
    assert machine.file("/var/lib/marram").is_dir()
    machine.install(package("marram", release))
    assert machine.run("systemctl", "is-enabled", "marram").strip() == "enabled"
    machine.run("systemctl", "start", "marram")
    goes_on(machine)
    assert status(machine)["device"] == "press-7"


def test_purged_it_leaves_nothing_but_its_user(release: int, bare: Machine) -> None:
    before = _everything(bare)
    bare.install(package("marram", release))
    bare.run("systemctl", "start", "marram")
    configure(bare, recording(bare, learning={"store": {"commit_every": 1}}))
    goes_on(bare)
    bare.file("/etc/marram/conf.d/mine.yaml").write_text("device: {name: mine}\n")
    bare.run("dpkg", "--purge", "marram")
    assert _everything(bare) - before == set()
    assert bare.run("pgrep", "-u", "marram", check=False) == ""
    assert bare.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "marram*").strip() == ""
    assert "marram" in bare.file("/etc/passwd").read_text(), "users stay, as Debian's policy has it"


@full
def test_the_aggregators_package_waits_for_its_configuration_and_goes_without_a_trace(
    release: int, bare: Machine
) -> None:
    before = _everything(bare)
    bare.install(package("marram-aggregator", release))
    bare.run("systemctl", "start", "marram-aggregator")
    assert not bare.active("marram-aggregator.service"), "there is no configuration yet"
    assert bare.show("marram-aggregator.service", "ConditionResult") == "no"
    assert bare.run("systemctl", "is-enabled", "marram-aggregator").strip() == "enabled"
    assert bare.run("systemctl", "is-enabled", "marram-enrolment", check=False).strip() == "disabled"
    assert bare.run("systemctl", "--failed", "--no-legend").strip() == ""
    bare.run("dpkg", "--purge", "marram-aggregator")
    assert _everything(bare) - before == set()


_RELEASE = """
import sys
from pathlib import Path
import numpy as np
from marram.bundle.file import parse, read
from marram_cloud.compression.ranges import calibrate
from marram_cloud.releases.rebuild import rebuild

bundle = read(Path(sys.argv[1]))
windows = np.random.default_rng(0).normal(size=(40, 6, 100)).astype(np.float32)
learnt = bundle.parameters()
ranges = calibrate(bundle.members["predict.onnx"], learnt, windows)
release = parse(rebuild(bundle, learnt, ranges, windows, "1", {}).content)
print(release.program("infer_tflite")(x=windows)["scores"].shape)
"""


@full
def test_the_aggregators_package_makes_releases_in_both_forms(
    release: int, tmp_path: Path, boot: Callable[[Path], Machine]
) -> None:
    machine = boot(installed(release, "marram-aggregator"))
    bundle = with_template()
    (tmp_path / "made").write_bytes(encode(bundle.manifest, bundle.members))
    place = machine.put(tmp_path / "made", "/etc/marram-cloud/shoulder.marram")
    said = machine.run("/opt/marram-aggregator/bin/python3", "-I", "-c", _RELEASE, place)
    assert "(40, 7)" in said


def test_a_broken_configuration_stops_no_upgrade(release: int, machine: Machine) -> None:
    machine.file(CONFIG).write_text("sensors: [oops\n")
    machine.install(package("marram", release, NEXT))
    assert "install ok installed" in machine.run("dpkg", "--status", "marram")


@full
def test_the_second_runtime_comes_and_goes_with_its_own_package(
    release: int, boot: Callable[[Path], Machine]
) -> None:
    machine = boot(installed(release, "marram", "marram-tflite"))
    script = "from marram.programs.tflite import Interpreter; print(Interpreter.__module__)"
    assert "ai_edge_litert" in machine.run("/opt/marram/bin/python3", "-I", "-c", script)
    machine.run("dpkg", "--purge", "marram-tflite")
    assert "No module named" in machine.run(
        "/opt/marram/bin/python3", "-I", "-c", "import ai_edge_litert", check=False
    )
    goes_on_with_numpy = "import numpy, onnxruntime, google.protobuf; print('there')"
    assert machine.run("/opt/marram/bin/python3", "-I", "-c", goes_on_with_numpy).strip() == "there"


@full
def test_built_twice_a_package_is_the_same_to_the_bit(release: int, tmp_path: Path) -> None:
    first, second = build("marram", release, tmp_path / "1"), build("marram", release, tmp_path / "2")
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()


@pytest.mark.parametrize("module", ["marram.daemon", "marram.learning.trainer", "marram.releases.fetch"])
def test_the_tree_holds_all_that_the_agent_imports(machine: Machine, module: str) -> None:
    everything = (
        "import importlib, pkgutil, marram\n"
        "for found in pkgutil.walk_packages(marram.__path__, 'marram.'):\n"
        "    if not found.name.endswith(('.tflite', '.__main__')): importlib.import_module(found.name)\n"
    )
    machine.run("/opt/marram/bin/python3", "-I", "-c", f"import {module}")
    machine.run("/opt/marram/bin/python3", "-I", "-c", everything)
