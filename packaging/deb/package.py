"""From a laid out tree to a .deb: control file, sums, maintainer scripts, dpkg-deb."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

from recipes import Recipe
from targets import Target
from tree import UNITS

_SCRIPTS = Path(__file__).parent / "scripts"
_MAINTAINER = "Marram <marram@localhost>"


def pack(recipe: Recipe, target: Target, version: str, staged: Path, out: Path, level: int) -> Path:
    """Write the package into ``out``; the path of it. ``level`` is zstd's."""
    control = staged / "DEBIAN"
    installed = _sizes(staged)
    sums = _sums(staged)
    control.mkdir()
    (control / "md5sums").write_text(sums)
    (control / "control").write_text(_control(recipe, target, version, installed))
    if recipe.conffiles:
        (control / "conffiles").write_text("".join(f"{place}\n" for place in recipe.conffiles.values()))
    for script in sorted(_SCRIPTS.iterdir()):
        (control / script.name).write_text(_filled(script, recipe, target, staged))
        (control / script.name).chmod(0o755)
    _normalise(staged)
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{recipe.name}_{version}_{target.arch}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zzstd", f"-z{level}", "--build", str(staged), str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return file


def _control(recipe: Recipe, target: Target, version: str, installed: int) -> str:
    depends = [
        f"python3 (>= {target.python})",
        f"python3 (<< {target.after})",
        "init-system-helpers",
        "libc6 (>= 2.28)",
        "libgcc-s1",
        "libstdc++6",
        "zlib1g",
    ]
    if recipe.units:
        depends.append("systemd | systemd-standalone-sysusers")
    if recipe.upon:
        depends.append(f"{recipe.upon} (= {version})")
    description = recipe.description.replace("\n", "\n ")
    return (
        f"Package: {recipe.name}\n"
        f"Version: {version}\n"
        f"Architecture: {target.arch}\n"
        f"Maintainer: {_MAINTAINER}\n"
        f"Installed-Size: {installed // 1024}\n"
        f"Depends: {', '.join(depends)}\n"
        + (f"Recommends: {recipe.recommends}\n" if recipe.recommends else "")
        + "Section: science\n"
        "Priority: optional\n"
        f"Description: {recipe.summary}\n {description}\n"
    )


def _filled(script: Path, recipe: Recipe, target: Target, staged: Path) -> str:
    """A maintainer script with the names of this package in it."""
    running = [unit for unit in recipe.units if "@" not in unit and not unit.endswith(".slice")]
    by_itself = [unit for unit in running if unit not in recipe.by_hand]
    enabled = [unit for unit in by_itself if "\n[Install]" in _unit(staged, unit)]
    text = script.read_text()
    for name, value in {
        "PACKAGE": recipe.name,
        "ROOT": recipe.root,
        "PYTHON": target.python,
        "UNITS": " ".join(running),
        "SLICES": " ".join(unit for unit in recipe.units if unit.endswith(".slice")),
        "ENABLED": " ".join(enabled),
        "BY_HAND": " ".join(recipe.by_hand),
        "STATE": " ".join(recipe.state),
        "SYSUSERS": f"{recipe.user}.conf" if recipe.user else "",
        "ALL": " ".join(recipe.units),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text


def _unit(staged: Path, unit: str) -> str:
    return (staged / UNITS.removeprefix("/") / unit).read_text()


def _files(staged: Path) -> list[Path]:
    return sorted(path for path in staged.rglob("*") if path.is_file() and not path.is_symlink())


def _sizes(staged: Path) -> int:
    return sum(path.stat().st_size for path in _files(staged))


def _sums(staged: Path) -> str:
    lines = (
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(staged)}\n"
        for path in _files(staged)
    )
    return "".join(lines)


def _normalise(staged: Path) -> None:
    """Times and modes that do not depend on who builds, when and with what umask."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in [staged, *staged.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or (path.stat().st_mode & stat.S_IXUSR and path.suffix != ".so")
            path.chmod(0o755 if executable else 0o644)
    for path in [*staged.rglob("*"), staged]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)
