"""The operator's word on updates: a file that holds them, and the hours in which they may come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from marram.device.hours import within
from marram.errors import StorageError
from marram.storage import replace_file


@dataclass(frozen=True)
class Hold:
    """``path`` is there while updates are held; what it says is why. A running agent sees it at once."""

    path: Path

    def reason(self) -> str | None:
        """Why updates are held, None when they are not."""
        try:
            text = self.path.read_text(errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError:
            return "held"  # something is there and cannot be read: that is no permission
        return text[:200] or "held"

    def set(self, reason: str) -> None:
        """Raises StorageError."""
        replace_file(self.path, f"{reason}\n".encode())

    def lift(self) -> bool:
        """Whether updates were held. Raises StorageError."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be removed: {error.strerror}") from error
        return True


def waits_for(hold: Hold, hours: Sequence[str], minute: int) -> str:
    """Why nothing may change now, "" when it may. minute: of the local day."""
    held = hold.reason()
    if held is not None:
        return f"updates are held by the operator: {held}"
    if hours and not any(within(minute, span) for span in hours):
        return f"updates come between {' and '.join(hours)}"
    return ""
