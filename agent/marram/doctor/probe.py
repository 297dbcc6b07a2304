"""A broker tried step by step, as a person would: its name, its port, TLS, the login, the access rules."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho
from cryptography import x509
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from marram.doctor.finding import Finding, Severity, error, note, ok, warning
from marram.errors import MarramError
from marram.link.broker import Broker

_PATIENCE = 10.0
_LISTEN = 2.0
_SOON = 14 * 86400.0
_DATES, _NAMES = (9, 10), (62, 63, 64)  # X509_V_ERR_* of OpenSSL
_REFUSED_V3 = {1: "the protocol version", 2: "the client's name", 3: "anything now",
               4: "the user name or password",
               5: "this client (not authorised)"}  # fmt: skip


@dataclass(frozen=True)
class Message:
    topic: str
    payload: bytes = b""
    retain: bool = False


@dataclass(frozen=True)
class Target:
    """One broker as one part of the agent uses it.

    part: "cloud", "sensor watch". tls: makes the context, where the URL asks for TLS. logged_in: the running
    agent is connected at this moment, so nothing is tried under its name. listen: wait for a message.
    """

    part: str
    url: str
    client_id: str
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
    username: str | None = None
    password: str | None = None
    subscribe: tuple[str, ...] = ()
    publish: tuple[Message, ...] = ()
    logged_in: bool = False
    listen: bool = False


def probe(target: Target, now: float) -> Iterator[Finding]:
    """The steps as far as they lead; the first that fails is the last."""
    broker = Broker.parse(target.url)
    where = f"{target.part}: {broker.host}:{broker.port}"
    addresses = []
    try:
        addresses = socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        yield error(
            f"{where} name",
            f"{broker.host} is not known: {getattr(problem, 'strerror', None) or problem}",
            "look at the spelling, the network (`ip address`) and the name server (/etc/resolv.conf)",
        )
        return
    shown = ", ".join(dict.fromkeys(str(one[4][0]) for one in addresses))
    yield ok(f"{where} name", f"{broker.host} is {shown}")
    began = time.monotonic()
    try:
        with socket.create_connection((broker.host, broker.port), timeout=_PATIENCE):
            took = time.monotonic() - began
    except OSError as problem:
        yield error(f"{where} TCP", _words(problem), _tcp_advice(problem, broker))
        return
    yield ok(f"{where} TCP", f"connects in {took * 1000:.0f} ms")
    context = None
    if broker.tls:
        try:
            context = target.tls()
        except (MarramError, OSError, ValueError) as problem:
            yield error(
                f"{where} TLS",
                f"own files cannot be used: {problem}",
                "see the identity, or the part's files",
            )
            return
        step = _tls(broker, context, where, now)
        yield step
        if step.severity is Severity.ERROR:
            return
    if target.logged_in:
        yield ok(f"{where} login", "the running agent is logged in")
        return
    yield from _Login(target, broker, context, where).run()


def _tls(broker: Broker, context: ssl.SSLContext, where: str, now: float) -> Finding:
    name = f"{where} TLS"
    try:
        with (
            socket.create_connection((broker.host, broker.port), timeout=_PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=broker.host) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True) or b""
            version = secured.version()
    except ssl.SSLCertVerificationError as problem:
        return error(name, f"{_reason(problem)}; {_shown(broker)}", _tls_advice(problem.verify_code))
    except ssl.SSLError as problem:
        return error(
            name,
            f"no TLS is spoken there, or none that fits: {problem.reason or problem}",
            "mqtts:// goes to the port with TLS, often 8883; mqtt:// to the one without, often 1883",
        )
    except OSError as problem:
        return error(
            name, _words(problem), "the port may be the one without TLS: mqtt:// instead of mqtts://"
        )
    end = x509.load_der_x509_certificate(certificate).not_valid_after_utc
    found = f"{version}; the broker's certificate is good until {end:%Y-%m-%d}"
    if end.timestamp() < now + _SOON:
        return warning(
            name, found, "renew the broker's certificate: `marram-cloud broker-config` writes it anew"
        )
    return ok(name, found)


def _reason(problem: ssl.SSLCertVerificationError) -> str:
    return f"the broker's certificate is not believed: {problem.verify_message or problem}"


def _tls_advice(code: int) -> str:
    if code in _DATES:
        return "look at this device's clock first; else the broker needs a new certificate"
    if code in _NAMES:
        return "use the name that stands in the certificate, or have it issued for this name"
    return "the broker is of another fleet or authority: compare ca.crt on both sides; or somebody is between"


def _shown(broker: Broker) -> str:
    """Who issued the certificate that is not believed, and its dates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((broker.host, broker.port), timeout=_PATIENCE) as plain,
            context.wrap_socket(plain) as secured,
        ):
            one = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        return "it could not be looked at"
    dates = f"{one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}"
    return (
        f"it is of {one.subject.rfc4514_string()}, issued by {one.issuer.rfc4514_string()}, good from {dates}"
    )


def _words(problem: OSError) -> str:
    return "no answer in time" if isinstance(problem, TimeoutError) else problem.strerror or str(problem)


def _tcp_advice(problem: OSError, broker: Broker) -> str:
    if isinstance(problem, ConnectionRefusedError):
        return f"nothing listens on port {broker.port} there: is the broker running, and is that its port?"
    if isinstance(problem, TimeoutError):
        return "a firewall between may drop it; ask for one outgoing port to the broker to be opened"
    return "look at the network: `ip address`, `ip route`, `ping`"


@dataclass
class _Login:
    """One connection to the end of its acknowledgements."""

    target: Target
    broker: Broker
    context: ssl.SSLContext | None
    where: str
    _codes: dict[int, list[ReasonCode]] = field(default_factory=dict)
    _answer: ReasonCode | None = None
    _lost: ReasonCode | None = None
    _messages: int = 0

    def run(self) -> Iterator[Finding]:
        name = f"{self.where} login"
        client = self._client(paho.MQTTv5)
        problem = self._connect(client)
        if problem is None and self._answer is not None and self._answer.value in (1, 132):
            client = self._client(paho.MQTTv311)
            problem = self._connect(client)
        if self._answer is None:
            yield self._not_answered(name, problem)
            return
        if self._answer.is_failure:
            text = _REFUSED_V3.get(self._answer.value, "")
            yield error(
                name,
                f"the broker refuses {text}" if text else f"the broker refuses: {self._answer}",
                "compare user name, password or certificate with what the broker knows; its log says more",
            )
            return
        yield ok(name, f"as {self.target.client_id}")
        try:
            yield from self._rules(client)
        finally:
            client.disconnect()
            client.loop(timeout=0.2)

    def _words(self, problem: OSError | None) -> str:
        return str(getattr(problem, "reason", None) or problem or self._lost or "silence")

    def _not_answered(self, name: str, problem: OSError | None) -> Finding:
        if self.context is not None and (
            isinstance(problem, ssl.SSLError) or self._lost is not None or problem
        ):
            return error(
                name,
                f"the broker ends the connection: {self._words(problem)}",
                "it wants a client certificate, or does not take this one (revoked, ended, of a stranger)",
            )
        return error(
            name,
            f"no answer to the greeting: {self._words(problem)}",
            "is this an MQTT broker? A port with TLS needs mqtts://",
        )

    def _client(self, protocol: int) -> paho.Client:
        target = self.target
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, target.client_id, protocol=protocol)
        if target.username is not None:
            client.username_pw_set(target.username, target.password)
        if self.context is not None:
            client.tls_set_context(self.context)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = lambda _c, _u, mid, codes, *_: self._codes.__setitem__(mid, list(codes))
        client.on_publish = lambda _c, _u, mid, code, *_: self._codes.__setitem__(mid, [code])
        client.on_message = self._on_message
        return client

    def _on_connect(self, _c: object, _u: object, _f: object, code: ReasonCode, _p: object) -> None:
        self._answer = code

    def _on_disconnect(self, _c: object, _u: object, _f: object, code: ReasonCode, _p: object) -> None:
        self._lost = code

    def _on_message(self, *_: object) -> None:
        self._messages += 1

    def _connect(self, client: paho.Client) -> OSError | None:
        self._answer = self._lost = None
        try:
            client.connect(self.broker.host, self.broker.port, keepalive=30)
            self._until(client, lambda: self._answer is not None)
        except OSError as problem:
            return problem
        return None

    def _until(self, client: paho.Client, condition: Callable[[], Any], patience: float = _PATIENCE) -> bool:
        end = time.monotonic() + patience
        while not condition():
            if time.monotonic() > end or client.loop(timeout=0.2) != paho.MQTT_ERR_SUCCESS:
                return bool(condition())
        return True

    def _rules(self, client: paho.Client) -> Iterator[Finding]:
        for topic in self.target.subscribe:
            _, mid = client.subscribe(topic, qos=1)
            yield self._judged(client, mid, f"{self.where} reading {topic}")
        for message in self.target.publish:
            mid = client.publish(message.topic, message.payload, qos=1, retain=message.retain).mid
            yield self._judged(client, mid, f"{self.where} writing {message.topic}")
        if self.target.listen:
            came = self._until(client, lambda: self._messages, _LISTEN)
            yield (
                ok(f"{self.where} messages", "they come")
                if came
                else note(
                    f"{self.where} messages",
                    f"none came within {_LISTEN:.0f} s",
                    "some sources are slow; else compare with what `mosquitto_sub -v -t '#'` shows, "
                    "and look at the broker's access rules: most say nothing when reading is not allowed",
                )
            )

    def _judged(self, client: paho.Client, mid: int | None, name: str) -> Finding:
        self._until(client, lambda: mid in self._codes)
        codes = self._codes.get(mid or 0)
        if codes is None:
            lost = self._lost or ReasonCode(PacketTypes.DISCONNECT, "Normal disconnection")
            return error(
                name, f"not acknowledged: {lost}", "the broker's access rules may end the connection for it"
            )
        if codes[0].is_failure:
            return error(name, f"refused: {codes[0]}", "allow it in the broker's access rules")
        return ok(name, "allowed")
