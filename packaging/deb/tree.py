"""The files of a package, laid out as they will stand on the device."""

from __future__ import annotations

import fnmatch
import shutil
import tempfile
from email.parser import HeaderParser
from pathlib import Path

from recipes import RECIPES, UNUSED, Recipe
from targets import Target
from wheels import install, install_ours

UNITS = "/usr/lib/systemd/system"

_LAUNCHER = """\
#!{root}/bin/python3 -I
import sys

from {module} import {function}

sys.exit({function}())
"""


def lay(recipe: Recipe, target: Target, source: Path, wheels: Path, staged: Path) -> None:
    """Make the tree of one package in ``staged``."""
    site = staged / _below(recipe.root) / f"lib/python{target.python}/site-packages"
    site.mkdir(parents=True)
    install(source, recipe.extras, target, wheels, site)
    _prune(site, recipe)
    if recipe.upon:
        _leave_out(site, recipe, target, source, wheels)
    else:
        _environment(staged / _below(recipe.root), target)
    if recipe.ours:
        install_ours(source, recipe.ours, site)
        _prune(site, recipe)
    for command, place in recipe.commands.items():
        _launcher(recipe, staged, command, place)
    _system_files(recipe, source, staged)
    _copyright(recipe, source, site, staged)


def _below(place: str) -> str:
    return place.removeprefix("/")


def _prune(site: Path, recipe: Recipe) -> None:
    globs = (*(one for one in UNUSED if one not in recipe.reads), *recipe.unused)
    for path in sorted(site.rglob("*")):
        name = str(path.relative_to(site))
        if any(fnmatch.fnmatch(name, glob) for glob in globs) and path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in sorted((path for path in site.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def _leave_out(site: Path, recipe: Recipe, target: Target, source: Path, wheels: Path) -> None:
    """Remove what the package that it is upon brings into the same tree."""
    base = RECIPES[recipe.upon]
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch)
        install(source, base.extras, target, wheels, other)
        for path in sorted(other.rglob("*")):
            twin = site / path.relative_to(other)
            if not path.is_dir() and twin.exists():
                twin.unlink()
    _prune(site, recipe)


def _environment(root: Path, target: Target) -> None:
    """A virtual environment as ``python -m venv`` makes it, but for the machine that it will stand on."""
    (root / "bin").mkdir()
    (root / "bin/python3").symlink_to(f"/usr/bin/python{target.python}")
    (root / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {target.python}\n"
    )


def _launcher(recipe: Recipe, staged: Path, command: str, place: str) -> None:
    module, function = place.split(":")
    file = staged / _below(recipe.root) / "bin" / command
    file.write_text(_LAUNCHER.format(root=recipe.root, module=module, function=function))
    file.chmod(0o755)
    link = staged / "usr/bin" / command
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"{recipe.root}/bin/{command}")


def _system_files(recipe: Recipe, source: Path, staged: Path) -> None:
    units = {f"systemd/{unit}": f"{UNITS}/{unit}" for unit in recipe.units}
    for origin, place in {**units, **recipe.files, **recipe.conffiles}.items():
        whole = staged / _below(place)
        whole.parent.mkdir(parents=True, exist_ok=True)
        if (source / origin).is_dir():
            shutil.copytree(source / origin, whole)
        else:
            shutil.copyfile(source / origin, whole)
    for folder in recipe.folders:
        (staged / _below(folder)).mkdir(parents=True, exist_ok=True)


def _copyright(recipe: Recipe, source: Path, site: Path, staged: Path) -> None:
    """Debian's copyright file: our licence, and for each distribution inside where its own stands."""
    place = staged / "usr/share/doc" / recipe.name / "copyright"
    place.parent.mkdir(parents=True)
    lines = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        "",
        "Files: *",
        "Copyright: the authors of Marram",
        "License: Apache-2.0",
    ]
    for info in sorted(site.glob("*.dist-info")):
        metadata = HeaderParser().parsestr((info / "METADATA").read_text())
        if metadata["Name"] == "marram":
            continue
        inside = f"{recipe.root}/{site.relative_to(staged / _below(recipe.root))}/{info.name}"
        licence = metadata["License-Expression"] or (metadata["License"] or "").strip().splitlines()[:1]
        lines += [
            "",
            f"Files: {inside}/*",
            f"Comment: {metadata['Name']} {metadata['Version']}; its licence stands in that folder.",
            f"Copyright: the authors of {metadata['Name']}",
            f"License: {licence if isinstance(licence, str) else (licence or ['see that folder'])[0]}",
        ]
    lines += ["", "License: Apache-2.0", " On Debian the text is in /usr/share/common-licenses/Apache-2.0."]
    place.write_text("\n".join(lines) + "\n")
