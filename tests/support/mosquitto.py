"""Debian's Mosquitto on a free loopback port, as a process of the test's own.

    with Mosquitto(tmp_path) as broker:
        broker.port, broker.url

It is ended by its own process id, and can be stopped and started again on the same port.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho

_PATIENCE = 20.0


def free_port() -> int:
    """A loopback port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def executable() -> str:
    """Where mosquitto is; Debian puts it where a user's PATH does not look."""
    found = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FileNotFoundError("mosquitto is not installed: sudo apt-get install -y mosquitto")
    return found


class Mosquitto:
    """One broker. ``folder`` takes its configuration, log and (with ``persistence``) its state.

    lines: more lines of its configuration, such as ``max_packet_size 65536``. listener: lines that replace
    ``allow_anonymous true``, such as the TLS files of a listener with client certificates. host_name: the
    name that goes into ``url``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lines: tuple[str, ...] = (),
        listener: tuple[str, ...] = ("allow_anonymous true",),
        scheme: str = "mqtt",
        host_name: str = "127.0.0.1",
        persistence: bool = False,
        port: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"{scheme}://{host_name}:{self.port}"
        self.log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        kept = (f"persistence_location {folder}/", "autosave_interval 1") if persistence else ()
        text = [
            "per_listener_settings false",
            f"persistence {'true' if persistence else 'false'}",
            *kept,
            # As root Mosquitto becomes another user, who may not read a test's folder.
            f"user {getpass.getuser()}",
            *lines,
            f"listener {self.port} 127.0.0.1",
            *listener,
        ]
        folder.mkdir(parents=True, exist_ok=True)
        self._config.write_text("\n".join(text) + "\n")

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start and wait until it listens."""
        assert self._process is None, "it runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([executable(), "-c", str(self._config)], stdout=log, stderr=log)
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError(f"mosquitto did not start: {self.log.read_text()}") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End it as a service manager would; it saves its state."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=_PATIENCE)
            self._process = None

    def kill(self) -> None:
        """End it without a chance to save anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=_PATIENCE)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()


class Client:
    """A plain MQTT client of the other side: publishes, and keeps what it was sent."""

    def __init__(self, broker: Mosquitto, *topics: str) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._topics = topics
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def __enter__(self) -> Client:
        assert self._subscribed.wait(_PATIENCE), "the broker does not answer"
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes | str, retain: bool = False) -> None:
        """Publish with QoS 1 and wait until the broker has it."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        info.wait_for_publish(_PATIENCE)
        assert info.is_published()

    def wait_for(self, condition: Callable[[list[tuple[str, bytes, bool]]], bool]) -> None:
        """Wait until the messages so far (topic, payload, retained) fulfil the condition."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.messages), _PATIENCE), self.messages

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        if self._topics:
            client.subscribe([(topic, 1) for topic in self._topics])
        else:
            self._subscribed.set()

    def _on_message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.messages.append((message.topic, bytes(message.payload), bool(message.retain)))
            self._changed.notify_all()
