"""What can be wrong with a forest that is to become a bundle."""

from __future__ import annotations

from marram.errors import MarramError


class TreesError(MarramError):
    """A model cannot become a forest's bundle; the message names it, what it is, and what to do."""
