"""The pages of the documentation, as their tests read them: headings, links, code blocks, tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def prose(self) -> str:
        """The page without its code blocks."""
        return _FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """What a link may name behind #, as GitHub makes it of headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def blocks(self, language: str) -> list[str]:
        return [match["text"] for match in _FENCE.finditer(self.text) if match["language"] == language]

    def table(self, heading: str) -> list[list[str]]:
        """The rows of the first table below a heading, without its head; cells without their backticks."""
        return rows(self.prose.split(f"\n{heading}\n", 1)[1])


def rows(text: str) -> list[list[str]]:
    """The rows of the first table of a text."""
    lines = re.search(r"^\|.*\|$(?:\n^\|.*\|$)*", text, re.MULTILINE)
    assert lines is not None, "there is no table"
    cells = (re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[0].splitlines()[2:])
    return [[cell.strip().replace("\\|", "|").strip("`") for cell in row] for row in cells]


def pages() -> list[Page]:
    """README.md and everything in docs/."""
    return [Page(ROOT / "README.md"), *map(Page, sorted((ROOT / "docs").rglob("*.md")))]


def docs(name: str) -> Page:
    return Page(ROOT / "docs" / name)
