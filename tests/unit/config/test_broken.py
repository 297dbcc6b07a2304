"""Broken configurations as files, each with every message and its place in one table.

The table, ``broken/messages.txt``, has a line for each message: the file's name, then what is told. A folder
is a configuration of several layers, whose main file is ``marram.yaml``. After a change of words:

    .venv/bin/python -m tests.unit.config.test_broken > tests/unit/config/broken/messages.txt
"""

from pathlib import Path

import pytest
from marram.config.load import load
from marram.config.problems import InvalidConfigError, dotted
from marram.config.schema import Agent

BROKEN = Path(__file__).parent / "broken"
TABLE = BROKEN / "messages.txt"
CASES = sorted(path for path in BROKEN.iterdir() if path != TABLE)


def messages(case: Path) -> list[str]:
    """What is told of a case, ``file:line:column: key: message``; files from the case's own folder."""
    path = case / "marram.yaml" if case.is_dir() else case
    with pytest.raises(InvalidConfigError) as caught:
        load(path, Agent)
    told = [
        f"{one.source.place(one.line, one.column)}: {dotted(one.path)}{': ' * bool(one.path)}{one.message}"
        for one in caught.value.problems
    ]
    for line in told:
        assert line in str(caught.value)
    return [line.replace(f"{path.parent}/", "").replace(f"{path.parent.parent}/", "../") for line in told]


def written() -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for line in TABLE.read_text().splitlines():
        name, _, message = line.partition(" | ")
        table.setdefault(name.strip(), []).append(message)
    return table


def test_there_are_more_than_fifty_of_them_and_each_is_in_the_table():
    assert len(CASES) >= 50
    assert sorted(written()) == sorted(case.name for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_every_mistake_is_told_at_its_place_and_nothing_else(case):
    assert messages(case) == written()[case.name]


if __name__ == "__main__":
    width = max(len(case.name) for case in CASES)
    for case in CASES:
        for message in messages(case):
            print(f"{case.name:<{width}} | {message}")
