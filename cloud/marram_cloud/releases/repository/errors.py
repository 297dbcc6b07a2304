"""What can be wrong with a release repository, its keys or what is asked of it."""

from __future__ import annotations

from marram.errors import MarramError


class RepositoryError(MarramError):
    """The release repository cannot do what is asked; it is left as it was."""
