"""The tree of errors. A message says what happened, where, and what to do about it.

Programs that call Marram catch ``MarramError``; each room raises its own branch, so that a caller can
tell a bad bundle from a bad configuration without reading text.
"""


class MarramError(Exception):
    """Any error that Marram itself raises and explains."""


class ConfigError(MarramError):
    """The YAML configuration is not valid; the message lists every problem with file:line:col."""


class SensorError(MarramError):
    """A sensor cannot be opened or read, or gives what it may not give."""


class SensorEndedError(SensorError):
    """A sensor has ended for good: reading it once more would only give the same again."""


class OutputError(MarramError):
    """An output cannot take predictions."""


class BundleError(MarramError):
    """A model bundle is damaged, inconsistent, or does not fit this device's configuration."""


class ProgramError(MarramError):
    """A program cannot be loaded by its runtime, or refused its inputs."""


class NotFiniteError(ProgramError):
    """A program gave NaN or infinity."""


class StorageError(MarramError):
    """State on disk cannot be read or written."""


class TrainingError(MarramError):
    """Local training failed; the message carries what the trainer child said."""


class IdentityError(MarramError):
    """The identity folder or its key is missing, damaged, open to others, or does not fit together."""


class LinkError(MarramError):
    """The broker cannot be used as configured (not: is away; that is waited for)."""


class WireError(MarramError):
    """A message of the other side is refused.

    ``reason`` is one of the names in ``marram.wire.reasons``; it is counted, reported and shown.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
