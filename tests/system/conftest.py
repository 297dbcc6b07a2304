"""Machines for the tests. MARRAM_DEBIAN says which release; `make system` runs everything on both."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system import roots
from tests.system.machine import Machine
from tests.system.packages import installed

RELEASE = int(os.environ.get("MARRAM_DEBIAN", "12"))


@pytest.fixture(scope="session")
def release() -> int:
    """Debian's, and the reason to skip where none can be booted."""
    reason = roots.why_not()
    if reason:
        pytest.skip(reason)
    return RELEASE


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[[Path], Machine]]:
    """Boots a machine from a folder; it is gone after the test."""
    with ExitStack() as booted:
        count = iter(range(100))

        def start(root: Path) -> Machine:
            number = next(count)
            name = f"marram-test-{os.getpid()}-{number}"
            return booted.enter_context(Machine(str(root), name, tmp_path / f"console-{number}"))

        yield start


@pytest.fixture
def bare(release: int, boot: Callable[[Path], Machine]) -> Machine:
    """A machine without Marram."""
    return boot(roots.debian(release))


@pytest.fixture
def machine(release: int, boot: Callable[[Path], Machine]) -> Machine:
    """A machine with the agent's package installed, booted: so the agent runs, as it is configured first."""
    return boot(installed(release, "marram"))
