"""The file with the authority's list of revoked certificates, read again whenever it changes."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from marram.errors import MarramError
from marram.wire.revocation import RevocationList, read

log = logging.getLogger(__name__)


class RevocationFile:
    """Looks at one file. What cannot be read is logged once, and what was read before stays in force."""

    def __init__(self, path: Path, authority: x509.Certificate) -> None:
        self._path, self._authority = path, authority
        self._seen: tuple[int, int, int] | None = None

    def news(self) -> RevocationList | None:
        """The list, if the file is another one than at the last look."""
        about = self._about()
        if about == self._seen:
            return None
        self._seen = about
        try:
            found = read(self._path.read_bytes(), self._authority)
        except (OSError, MarramError) as error:
            log.error("%s: %s; the list that was read before stays in force", self._path, error)
            return None
        if found.until < datetime.now(UTC):
            log.warning(
                "%s should have been replaced by %s; write a newer one with `marram-cloud revoke`",
                self._path, f"{found.until:%Y-%m-%d}",
            )  # fmt: skip
        return found

    def _about(self) -> tuple[int, int, int] | None:
        try:
            about = self._path.stat()
        except OSError:
            return None
        return about.st_ino, about.st_size, about.st_mtime_ns
