"""The embedded broker of the demo: iotcore from PyPI, on loopback, MQTT 5."""

from __future__ import annotations

import socket
from pathlib import Path

from iotcore import Broker

_CONFIG = """\
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10

[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
"""


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, port: int) -> Broker:
    """Start the broker; it ends with this process, or by its ``stop``."""
    path = folder / "broker.toml"
    path.write_text(_CONFIG.format(port=port))
    broker = Broker(config_path=str(path))
    broker.start()
    return broker
