"""What can be wrong with a model, windows or ranges that are to be made small."""

from __future__ import annotations

from marram.errors import MarramError


class CompressionError(MarramError):
    """A model cannot be quantised or measured; the message says why and what to do."""
