"""Converters that bring a gigabyte or two of their own: each runs as a child in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from marram_cloud.compression.errors import CompressionError

_PATIENCE = 1800.0
_SAID = 400


@dataclass(frozen=True)
class Converter:
    """name: for people. environment: folder that ``make`` installs it into, beside the one that runs this.
    variable: of the environment, names an interpreter elsewhere. script: what runs there; it imports nothing
    of Marram.
    """

    name: str
    environment: str
    variable: str
    script: Path

    @property
    def python(self) -> Path | None:
        """The interpreter that has it; None where there is none."""
        named = os.environ.get(self.variable)
        path = Path(named) if named else Path(sys.prefix).parent / self.environment / "bin" / "python"
        return path if path.is_file() else None

    def needed(self) -> Path:
        """The interpreter that has it. Raises CompressionError where there is none."""
        python = self.python
        if python is None:
            raise CompressionError(
                f"no {self.name} is installed: `make {self.environment}` does that; {self.variable} names an "
                "interpreter elsewhere that has it"
            )
        return python

    def run(self, folder: Path) -> None:
        """Convert what lies in the folder. Raises CompressionError with the converter's last words."""
        python = self.needed()
        try:
            done = subprocess.run(
                [python, self.script, folder],
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
                env={**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompressionError(f"{python}: cannot convert for LiteRT: {error}") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise CompressionError(f"{self.name} cannot convert this model: {last[-_SAID:]}")
