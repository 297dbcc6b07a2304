"""The container files, built on a minimal Debian made here, and run once; no registry of images is asked."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.marks import full
from tests.system.packages import package
from tests.system.roots import ROOT, SUITES, why_not

pytestmark = full
_BASE = "localhost/debian:bookworm-slim"
_RELEASE = 12


class Builder:
    """buildah with a store of its own; containers are chroots."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def __call__(self, *command: str) -> str:
        """Run one of its commands; what it printed."""
        where = [
            "--storage-driver",
            "vfs",
            "--root",
            f"{self._store}/root",
            "--runroot",
            f"{self._store}/run",
        ]
        done = subprocess.run(
            ["buildah", *where, *command], capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout.strip()

    def run(self, image: str, *command: str) -> str:
        """Run a command in a new container of an image, as the image's user."""
        container = self("from", "--pull-never", image)
        try:
            return self("run", "--isolation", "chroot", container, "--", *command)
        finally:
            self("rm", container)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """With Debian's base image, made here."""
    if reason := why_not():
        pytest.skip(reason)
    if shutil.which("buildah") is None:
        pytest.skip("buildah is missing; install it with: sudo apt-get install -y buildah")
    folder = tmp_path_factory.mktemp("containers")
    archive = folder / "base.tar"
    subprocess.run(
        ["mmdebstrap", "--variant=minbase", "--quiet", SUITES[_RELEASE], str(archive)],
        check=True,
        timeout=600,
    )
    builder = Builder(folder)
    scratch = builder("from", "scratch")
    builder("add", "--quiet", scratch, str(archive), "/")
    builder("commit", "--quiet", scratch, _BASE)
    builder("rm", scratch)
    yield builder
    shutil.rmtree(folder)


def image(buildah: Builder, what: str, name: str, tmp_path: Path) -> str:
    """Build one of our images; its name."""
    shutil.copy(package(name, _RELEASE), tmp_path)
    file = ROOT / f"packaging/container/{what}/Containerfile"
    options = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--build-arg", f"BASE={_BASE}"]
    buildah("build", *options, "--tag", f"localhost/{name}", "--file", str(file), str(tmp_path))
    return f"localhost/{name}"


def settings(buildah: Builder, built: str) -> dict:
    return json.loads(buildah("inspect", built))["Docker"]["config"]


def test_the_agents_image_runs_as_its_user_and_tells_its_health(buildah: Builder, tmp_path: Path) -> None:
    built = image(buildah, "agent", "marram", tmp_path)
    told = settings(buildah, built)
    assert (told["User"], told["Entrypoint"], told["Cmd"]) == ("marram", ["marram"], ["run"])
    health = told["Healthcheck"]["Test"]
    assert health == ["CMD", "marram", "status"]
    script = f"""
        id -un
        ! {" ".join(health[1:])} 2>/dev/null || echo healthy too early
        marram run & agent=$!
        for look in $(seq 100); do [ -S /var/lib/marram/marram.sock ] && break; sleep 0.1; done
        {" ".join(health[1:])} >/dev/null && echo healthy
        touch /opt/marram/mine 2>/dev/null && echo can write
        kill $agent; wait $agent && echo ended well
    """
    assert buildah.run(built, "sh", "-c", script).split("\n") == ["marram", "healthy", "ended well"]


def test_the_aggregators_image_makes_a_fleet_as_its_user(buildah: Builder, tmp_path: Path) -> None:
    built = image(buildah, "aggregator", "marram-aggregator", tmp_path)
    assert settings(buildah, built)["User"] == "marram-cloud"
    made = buildah.run(
        built, "sh", "-c", "marram-cloud init fleet --fleet plant && stat -c %U fleet/fleet.json"
    )
    assert made.endswith("marram-cloud")
