"""The packages that the tests install, built from this checkout; and a system that has them installed."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.system.roots import ROOT, debian, one_at_a_time

BUILD = ROOT / "build/system"
_SOURCES = (
    "agent",
    "cloud",
    "systemd",
    "packaging",
    "firmware_configs",
    "examples/host",
    "examples/shoulder",
)
_FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")
_EPOCH = "1795478400"


def package(name: str, release: int, version: str = "") -> Path:
    """A package for that Debian release; version: as if that were this checkout's. Packed fast, not small."""
    folder = BUILD / _digest()
    with one_at_a_time(f"package-{release}"):
        file = folder / f"{name}_{here()}~deb{release}_amd64.deb"
        if not file.exists():
            _forget_old()
            build(name, release, folder)
        return _renamed(file, version) if version else file


def build(name: str, release: int, out: Path, arch: str = "amd64") -> Path:
    """Build one package into a folder; the path of it."""
    options = ["--package", name, "--debian", str(release), "--arch", arch, "--level", "1"]
    done = subprocess.run(
        [sys.executable, "packaging/deb/build.py", *options, "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": _EPOCH},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def _renamed(file: Path, version: str) -> Path:
    """The same package, of another version."""
    other = file.with_name(file.name.replace(here(), version))
    if not other.exists():
        with tempfile.TemporaryDirectory() as scratch:
            tree = Path(scratch)
            subprocess.run(["dpkg-deb", "--raw-extract", str(file), scratch], check=True)
            for inside in (
                tree / "DEBIAN/control",
                *tree.glob("opt/*/lib/*/site-packages/marram/__init__.py"),
            ):
                inside.write_text(inside.read_text().replace(here(), version))
            pack = ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "--build", scratch, str(other)]
            subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    return other


def installed(release: int, *names: str) -> Path:
    """The folder of a system with these packages installed, by dpkg in a chroot, where no systemd runs."""
    packages = [package(name, release) for name in names]
    root = debian(release)
    key = hashlib.sha256(" ".join([root.name, *names]).encode()).hexdigest()[:8]
    folder = BUILD / _digest() / f"debian-{release}-{key}"
    with one_at_a_time(folder.name):
        if not folder.exists():
            making = folder.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            subprocess.run(["cp", "-a", str(root), str(making)], check=True)
            for file in packages:
                shutil.copy(file, making / "tmp")
            script = 'mount -t proc proc "$0/proc" && exec chroot "$0" dpkg --install "$@"'
            places = [f"/tmp/{file.name}" for file in packages]
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", script, str(making), *places],
                capture_output=True,
                text=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            making.rename(folder)
    return folder


def here() -> str:
    """This checkout's version."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _forget_old() -> None:
    """What was built from sources of days ago: each is half a gigabyte."""
    for folder in BUILD.glob("*"):
        if folder.stat().st_mtime < time.time() - 86400:
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _digest() -> str:
    """Of all that the packages are made from."""
    whole = hashlib.sha256()
    files = [ROOT / file for file in _FILES]
    for source in _SOURCES:
        files += (path for path in sorted((ROOT / source).rglob("*")) if path.is_file())
    for file in files:
        if file.suffix != ".pyc":
            whole.update(f"{file.relative_to(ROOT)} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:12]
