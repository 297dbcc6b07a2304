"""Build the Debian packages: ``build.py [--arch amd64] [--debian 12] [--package marram ...]``.

Each holds a tree in /opt that is laid out as a virtual environment of the system's own Python, so that
``sys.executable -I -m marram...`` runs from it. Wheels are fetched on the first run; then no network is
needed, and the same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from package import pack
from recipes import RECIPES
from targets import PYTHONS, Target
from tree import lay
from wheels import fetch

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Build what the command line names; prints the path of each package."""
    options = _options()
    target = Target(options.debian, options.arch)
    os.environ["SOURCE_DATE_EPOCH"] = str(_epoch())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    os.umask(0o022)
    for name in options.package or RECIPES:
        recipe = RECIPES[name]
        wheels = fetch(ROOT, recipe.extras, target, options.wheels)
        with tempfile.TemporaryDirectory(prefix="marram-deb-") as scratch:
            staged = Path(scratch) / "root"
            lay(recipe, target, ROOT, wheels, staged)
            print(pack(recipe, target, f"{version}~deb{target.debian}", staged, options.out, options.level))
    return 0


def _epoch() -> int:
    """The time that every file bears: of the last commit, or what the caller says."""
    said = os.environ.get("SOURCE_DATE_EPOCH")
    if said is not None:
        return int(said)
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    if shown.returncode:
        sys.exit(f"build.py: {ROOT} is no git checkout: set SOURCE_DATE_EPOCH to the time of this version")
    return int(shown.stdout)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build the Debian packages.")
    parser.add_argument("--arch", choices=["amd64", "arm64"], default="amd64")
    parser.add_argument("--debian", choices=list(PYTHONS), type=int, default=12, help="release (default 12)")
    parser.add_argument("--package", action="append", choices=list(RECIPES), help="default: all")
    parser.add_argument("--wheels", type=Path, default=ROOT / "build/wheels", help="where wheels are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "build/deb", help="where packages go")
    parser.add_argument("--level", type=int, default=19, help="of zstd, 1 (fast) to 22 (small); default 19")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
