"""Wheels: fetched for the target once, and from then on all is built without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from targets import Target

_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def requirements(source: Path, extras: tuple[str, ...]) -> list[str]:
    """The project's own requirements, with those of extras."""
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    optional: dict[str, list[str]] = project["optional-dependencies"]
    listed: list[str] = list(project["dependencies"])
    waiting = list(extras)
    while waiting:
        for wanted in optional[waiting.pop()]:
            own = re.fullmatch(rf"{project['name']}\[(.+)\]", wanted)
            if own is None:
                listed.append(wanted)
            else:
                waiting += own[1].split(",")
    return listed


def fetch(source: Path, extras: tuple[str, ...], target: Target, folder: Path) -> Path:
    """The folder with the target's wheels of all requirements; they are fetched if one is missing."""
    wheels = folder / target.name
    wheels.mkdir(parents=True, exist_ok=True)
    wanted = requirements(source, extras)
    common = [*target.pip(), "--constraint", str(source / "constraints.txt")]
    with tempfile.TemporaryDirectory() as scratch:
        there = [*_PIP, "download", "--no-index", f"--find-links={wheels}", f"--dest={scratch}"]
        if subprocess.run([*there, *common, *wanted], capture_output=True, check=False).returncode == 0:
            return wheels
    subprocess.run([*_PIP, "download", f"--dest={wheels}", *common, *wanted], check=True)
    return wheels


def install(source: Path, extras: tuple[str, ...], target: Target, wheels: Path, site: Path) -> None:
    """Unpack the requirements into ``site``, without a network."""
    offline = ["--no-index", f"--find-links={wheels}", "--no-compile", f"--target={site}"]
    common = [*target.pip(), "--constraint", str(source / "constraints.txt")]
    subprocess.run([*_PIP, "install", *offline, *common, *requirements(source, extras)], check=True)


def install_ours(source: Path, packages: tuple[str, ...], site: Path) -> None:
    """Build this project's wheel; unpack from it these import packages and its metadata."""
    with tempfile.TemporaryDirectory() as scratch:
        build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={scratch}"]
        subprocess.run([*_PIP, *build, str(source)], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        unpacked = Path(scratch) / "unpacked"
        shutil.unpack_archive(wheel, unpacked, "zip")
        for folder in unpacked.iterdir():
            if folder.name in packages or folder.suffix == ".dist-info":
                shutil.copytree(folder, site / folder.name)
