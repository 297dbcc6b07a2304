"""Telling systemd how it goes: READY, STATUS, WATCHDOG (sd_notify(3)); silent when nobody listens."""

from __future__ import annotations

import os
import socket

_PATIENCE = 1.0


def notify(**fields: str) -> None:
    """Send fields such as READY="1" or STATUS="..."; a missing or dead NOTIFY_SOCKET is no error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    message = "\n".join(f"{name}={value}" for name, value in fields.items()).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        # A listener that does not read must not hold the daemon up.
        channel.settimeout(_PATIENCE)
        try:
            channel.sendto(message, "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return


def watchdog_period() -> float | None:
    """Seconds between two signs of life that systemd waits for, halved for safety; None without one."""
    micros = os.environ.get("WATCHDOG_USEC", "")
    return int(micros) / 2e6 if micros.isdecimal() and int(micros) > 0 else None
