"""What can be wrong with a project."""

from __future__ import annotations

from marram.errors import MarramError


class ProjectError(MarramError):
    """A project cannot be built; the message names the file and what to change."""
