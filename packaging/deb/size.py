"""``size.py PACKAGE.deb ...``: what takes how much of a package; fails over the budget of marram.

Packed sizes of the parts are shares of the whole file, by what each is when compressed alone.
"""

from __future__ import annotations

import marshal
import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import zstandard

_MB = 1_000_000
_PACKED = 50 * _MB
_INSTALLED = 140 * _MB
_SITE = re.compile(r"^\./opt/[^/]+/lib/python[^/]+/site-packages/([^/]+)")
_LEVEL = 9


def main(files: list[str]) -> int:
    """Print a table for each package; 1 when one is over the budget."""
    return max(_table(Path(file)) for file in files)


def _table(file: Path) -> int:
    archive = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(file)], capture_output=True, check=True
    ).stdout
    contents: dict[str, list[bytes]] = defaultdict(list)
    bytecode: dict[str, int] = defaultdict(int)
    with tarfile.open(fileobj=BytesIO(archive)) as members:
        for member in members:
            data = members.extractfile(member) if member.isfile() else None
            if data is not None:
                part = _part(member.name)
                contents[part].append(data.read())
                if member.name.endswith(".py"):
                    bytecode[part] += len(marshal.dumps(compile(contents[part][-1], member.name, "exec")))
    alone = {part: len(zstandard.compress(b"".join(them), _LEVEL)) for part, them in contents.items()}
    packed = file.stat().st_size
    scale = packed / sum(alone.values())
    plain = {part: sum(map(len, them)) for part, them in contents.items()}
    print(f"{file.name}\n\n{'':28}{'packed':>9}{'files':>9}{'bytecode':>9}   MB")
    for part in sorted(plain, key=lambda part: -plain[part]):
        if plain[part] >= 0.05 * _MB:
            _line(part, alone[part] * scale, plain[part], bytecode[part])
    small = [part for part in plain if plain[part] < 0.05 * _MB]
    _line(
        f"{len(small)} small ones",
        sum(alone[part] * scale for part in small),
        sum(plain[part] for part in small),
        sum(bytecode[part] for part in small),
    )
    files, compiled = sum(plain.values()), sum(bytecode.values())
    _line("all", packed, files, compiled)
    print(f"installed {(files + compiled) / _MB:.1f} MB\n")
    if file.name.startswith("marram_") and (packed > _PACKED or files + compiled > _INSTALLED):
        print(
            f"size.py: {file.name} is over the budget of {_PACKED // _MB} MB packed, "
            f"{_INSTALLED // _MB} MB installed; packaging/deb/recipes.py says what is left out",
            file=sys.stderr,
        )
        return 1
    return 0


def _part(name: str) -> str:
    """The distribution that a file belongs to, as far as its folder tells."""
    found = _SITE.match(name)
    if found is None:
        return "outside the tree" if not name.startswith("./opt") else "commands"
    return re.split(r"[.-]", found[1].removeprefix("_"))[0].lower()


def _line(part: str, packed: float, files: float, compiled: float) -> None:
    print(f"{part:28}{packed / _MB:9.2f}{files / _MB:9.2f}{compiled / _MB:9.2f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
