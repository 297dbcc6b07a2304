"""The package for 64-bit ARM on an emulated processor: `make system-arm64`, some minutes.

A chroot without /sys: with it, onnxruntime would ask for the topology of the processor that is really there.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.system.conftest import RELEASE
from tests.system.packages import BUILD, build, here
from tests.system.roots import ROOT, debian_arm64, why_not

pytestmark = pytest.mark.skipif(
    os.environ.get("MARRAM_SYSTEM") != "arm64", reason="takes long: run it with `make system-arm64`"
)
_PATIENCE = 1200


class Emulated:
    """A system for 64-bit ARM in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root; both outputs together."""
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, str(self.root), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )


@pytest.fixture(scope="module")
def board() -> Iterator[Emulated]:
    """With the package installed."""
    if reason := why_not():
        pytest.skip(reason)
    package = build("marram", RELEASE, BUILD / "arm64", arch="arm64")
    copy = BUILD / "arm64" / f"debian-{RELEASE}"
    shutil.rmtree(copy, ignore_errors=True)
    subprocess.run(["cp", "-a", str(debian_arm64(RELEASE)), str(copy)], check=True)
    shutil.copy(package, copy / "tmp")
    emulated = Emulated(copy)
    done = emulated.run("dpkg", "--install", f"/tmp/{package.name}")
    assert done.returncode == 0, done.stdout
    yield emulated
    shutil.rmtree(copy)


def test_it_is_64_bit_arm_and_the_agent_starts_there(board: Emulated) -> None:
    assert board.run("uname", "-m").stdout.strip() == "aarch64"
    assert board.run("marram", "--version").stdout.strip() == f"marram {here()}"
    assert "valid" in board.run("marram", "check").stdout


def test_it_infers_on_a_recording(board: Emulated) -> None:
    folder = board.root / "etc/marram"
    for file in ("shoulder.marram", "recordings/person-01.csv.gz"):
        shutil.copy(ROOT / "examples/shoulder" / file, folder)
    settings = {
        "device": {"state": "/tmp/state"},
        "sensors": [{"type": "csv", "name": "watch", "path": "/etc/marram/person-01.csv.gz", "speed": "max"}],
        "model": {"bundle": "/etc/marram/shoulder.marram"},
        "outputs": [{"type": "jsonl", "path": "/tmp/predictions.jsonl"}],
    }
    settings["sensors"][0]["label"] = "exercise"
    (folder / "shoulder.yaml").write_text(yaml.safe_dump(settings))
    done = board.run("marram", "run", "-c", "/etc/marram/shoulder.yaml")
    assert done.returncode == 0, done.stdout
    lines = [json.loads(line) for line in (board.root / "tmp/predictions.jsonl").read_text().splitlines()]
    assert len(lines) > 100
    assert {line["label"] for line in lines} <= set(lines[0]["scores"])


def test_the_doctor_looks_at_it(board: Emulated) -> None:
    done = board.run("marram", "doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode in (0, 1, 2)
    assert found
