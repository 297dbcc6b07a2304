"""The seam to the sinks: the base of every output's configuration, and the registry of outputs."""

from __future__ import annotations

from typing import Any

import msgspec

from marram.registry import Registry


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """What every output has: a ``type``."""


OUTPUTS: Registry[OutputConfig, Any] = Registry("marram.outputs", "marram.outputs", OutputConfig)
