"""Every way in which a broker cannot be used, on real ones; and the checks of a configuration's brokers."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from marram.config.load import load
from marram.config.schema import Agent
from marram.doctor.checks import broker as checks
from marram.doctor.finding import Finding, Severity
from marram.doctor.machine import Machine
from marram.doctor.probe import Message, Target, probe
from marram.wire.certificates import Subject
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder

from tests.support.configs import HOST_BUNDLE
from tests.support.mosquitto import Client, Mosquitto, free_port
from tests.support.secured import broker_of, write_identity

OK, NOTE, WARNING, ERROR = Severity
NOW = 1_800_000_000.0


def tried(target: Target, now: float = NOW) -> list[Finding]:
    return list(probe(target, now))


def steps(findings: list[Finding]) -> list[tuple[str, Severity]]:
    return [(one.name.split(" ", 2)[2].split()[0], one.severity) for one in findings]


# ---- name and TCP


def test_a_name_that_nobody_knows_is_the_first_step_and_the_last():
    [finding] = tried(Target("cloud", "mqtt://no-such-host.invalid", "x"))
    assert finding.severity is ERROR
    assert "no-such-host.invalid is not known" in finding.found


def test_a_port_that_nothing_listens_on():
    findings = tried(Target("cloud", f"mqtt://127.0.0.1:{free_port()}", "x"))
    assert steps(findings) == [("name", OK), ("TCP", ERROR)]
    assert "is the broker running" in findings[-1].todo


def test_something_that_is_no_broker():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                one, _ = server.accept()
                one.sendall(b"220 mail.example ready\r\n")
                one.close()

        threading.Thread(target=answer, daemon=True).start()
        findings = tried(Target("cloud", f"mqtt://127.0.0.1:{server.getsockname()[1]}", "x"))
    assert steps(findings) == [("name", OK), ("TCP", OK), ("login", ERROR)]
    assert "is this an MQTT broker?" in findings[-1].todo


# ---- login and access rules without TLS


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker with one user and access rules."""
    folder = tmp_path_factory.mktemp("guarded")
    passwords, rules = folder / "passwords", folder / "rules"
    passwords.touch()
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "press", "secret"], check=True)
    rules.write_text("user press\ntopic read plant/#\ntopic write out/press\n")
    lines = ("allow_anonymous false", f"password_file {passwords}", f"acl_file {rules}")
    with Mosquitto(folder, listener=lines) as broker:
        yield broker


def guest(broker: Mosquitto, **changes: object) -> Target:
    facts = {
        "part": "sensor a",
        "url": broker.url,
        "client_id": "x",
        "username": "press",
        "password": "secret",
    }
    return Target(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_refused_password_is_a_refused_login(guarded):
    findings = tried(guest(guarded, password="wrong"))
    assert (findings[-1].name.endswith("login"), findings[-1].severity) == (True, ERROR)
    assert "Not authorized" in findings[-1].found


def test_what_the_rules_allow_and_what_they_do_not(guarded):
    messages = (Message("out/press"), Message("out/other"))
    findings = tried(guest(guarded, publish=messages, subscribe=("plant/a",)))[3:]
    assert [one.severity for one in findings] == [OK, OK, ERROR]
    assert findings[-1].name.endswith("writing out/other")


def test_a_topic_on_which_nothing_comes_is_a_note(guarded):
    assert tried(guest(guarded, subscribe=("plant/a",), listen=True))[-1].severity is NOTE


# ---- TLS


class Scene:
    """A fleet, its broker, and another fleet that nobody here believes."""

    def __init__(self, folder: Path, port: int) -> None:
        self.fleet = FleetFolder.create(folder / "fleet", "dunes", "north")
        self.stranger = FleetFolder.create(folder / "stranger", "dunes", "north")
        for name in ("a", "b"):
            self.fleet.enrol(name)
        self.stranger.enrol("a")
        self.folder, self.port = folder, port

    def config(self, folder: Path, identity: Path, host: str = "localhost", more: str = "") -> Machine:
        path = folder / "marram.yaml"
        path.write_text(
            f"device: {{name: a, state: {folder}/state}}\nsensors: [{{type: host, name: host}}]\n"
            f"model: {{bundle: {HOST_BUNDLE}}}\n"
            f"cloud: {{identity: {identity}, broker: 'mqtts://{host}:{self.port}'}}\n{more}"
        )
        return Machine(path, config=load(path, Agent))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("tls")
    one = Scene(folder, free_port())
    with broker_of(one.fleet, folder / "mosquitto", one.port):
        yield one


def test_a_device_of_the_fleet_passes_every_step(scene, tmp_path):
    findings = list(checks.check(scene.config(tmp_path, scene.fleet.path / "devices/a")))
    assert [one.severity for one in findings] == [OK] * len(findings)
    assert [one.name.partition(" ")[2].split()[1] for one in findings] == [
        "name", "TCP", "TLS", "login", "reading", "reading", "writing",
    ]  # fmt: skip
    assert "good until" in findings[2].found


def test_an_agent_that_is_logged_in_is_not_driven_off(scene, tmp_path):
    """The fleet's broker knows clients by their certificates: a second login would end the first."""
    one = scene.config(tmp_path, scene.fleet.path / "devices/a")
    one.status = {"link": {"connected": True}}
    assert list(checks.check(one))[-1].found == "the running agent is logged in"


def test_a_broker_of_another_authority_is_named_with_its_issuer(scene, tmp_path):
    findings = list(checks.check(scene.config(tmp_path, scene.stranger.path / "devices/a")))
    assert findings[-1].severity is ERROR
    assert findings[-1].name.endswith("TLS")
    assert "issued by" in findings[-1].found
    assert "compare ca.crt" in findings[-1].todo


def test_a_name_that_is_not_in_the_certificate(scene, tmp_path):
    findings = list(checks.check(scene.config(tmp_path, scene.fleet.path / "devices/a", host="127.0.0.1")))
    assert findings[-1].severity is ERROR
    assert "use the name that stands in the certificate" in findings[-1].todo


def test_a_client_certificate_that_the_broker_does_not_take(scene, tmp_path):
    """Ours to believe, of another authority to the broker."""
    identity = tmp_path / "identity"
    key = authority.new_key()
    certificate = authority.load(scene.stranger.path).issue(
        Subject("dunes", "north", "device", "a"), key.public_key(), 30
    )
    crt, private = write_identity(identity, certificate, key)

    def tls() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(scene.fleet.path / "ca.crt"))
        context.load_cert_chain(crt, private)
        return context

    findings = tried(Target("cloud", f"mqtts://localhost:{scene.port}", "x", tls))
    assert steps(findings)[-1] == ("login", ERROR)
    assert "does not take this one" in findings[-1].todo


def test_no_client_certificate_at_all(scene):
    context = ssl.create_default_context(cafile=str(scene.fleet.path / "ca.crt"))
    findings = tried(Target("cloud", f"mqtts://localhost:{scene.port}", "x", lambda: context))
    assert steps(findings)[-1] == ("login", ERROR)
    assert "client certificate" in findings[-1].todo


def test_a_device_whose_topics_are_not_its_own_is_refused_by_the_rules(scene):
    target = Target(
        "cloud",
        f"mqtts://localhost:{scene.port}",
        "x",
        lambda: _context(scene, "b"),
        publish=(Message("marram/dunes/north/device/a/state"),),
    )
    assert [one.severity for one in tried(target)][-1] is ERROR


def _context(scene: Scene, device: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(scene.fleet.path / "ca.crt"))
    folder = scene.fleet.path / "devices" / device
    context.load_cert_chain(folder / "device.crt", folder / "device.key")
    return context


def test_plain_and_tls_ports_that_are_mistaken_for_each_other(scene, guarded):
    findings = tried(Target("cloud", guarded.url.replace("mqtt:", "mqtts:"), "x"))
    assert steps(findings)[-1] == ("TLS", ERROR)
    findings = tried(Target("cloud", f"mqtt://localhost:{scene.port}", "x"))
    assert steps(findings)[-1] == ("login", ERROR)
    assert "mqtts://" in findings[-1].todo


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def own_broker(folder: Path, good: bool) -> Mosquitto:
    """A broker of an authority of its own, whose certificate is good until 2098, or ended in 2024."""
    made, key, ca = folder / "server.crt", folder / "server.key", folder / "ca"
    folder.mkdir()
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    (folder / "ext").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
    (folder / "index.txt").touch()
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index.txt\nnew_certs_dir={folder}\nrand_serial=yes\n"
        "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
    )
    authority_ = ("-keyout", f"{ca}.key", "-out", f"{ca}.crt", "-subj", "/CN=test authority", "-days", "3650")
    _openssl("req", "-x509", *curve, *authority_)
    _openssl("req", *curve, "-keyout", key, "-out", folder / "csr", "-subj", "/CN=localhost")
    dates = ("-startdate", "20240101000000Z", "-enddate", "20990101000000Z" if good else "20240201000000Z")
    files = ("-cert", f"{ca}.crt", "-keyfile", f"{ca}.key", "-in", folder / "csr", "-out", made, "-notext")
    _openssl("ca", "-batch", "-config", folder / "ca.cnf", *files, *dates, "-extfile", folder / "ext")
    lines = (f"cafile {ca}.crt", f"certfile {made}", f"keyfile {key}", "allow_anonymous true")
    return Mosquitto(folder, listener=lines, scheme="mqtts", host_name="localhost")


def test_a_broker_whose_certificate_has_ended_shows_its_dates(tmp_path):
    with own_broker(tmp_path / "old", False) as broker:
        ca = str(tmp_path / "old/ca.crt")
        findings = tried(Target("cloud", broker.url, "x", lambda: ssl.create_default_context(cafile=ca)))
    assert steps(findings)[-1] == ("TLS", ERROR)
    assert "certificate has expired" in findings[-1].found
    assert "2024-01-01 to 2024-02-01" in findings[-1].found
    assert "clock" in findings[-1].todo


def test_a_brokers_certificate_that_ends_soon_is_a_warning_and_the_login_is_tried(tmp_path):
    with own_broker(tmp_path / "good", True) as broker:
        ca = str(tmp_path / "good/ca.crt")
        target = Target("cloud", broker.url, "x", lambda: ssl.create_default_context(cafile=ca))
        assert steps(tried(target))[2:] == [("TLS", OK), ("login", OK)]
        assert steps(tried(target, now=4_070_000_000.0))[2:] == [("TLS", WARNING), ("login", OK)]


# ---- the brokers of a configuration


def test_sensors_outputs_and_labels_are_tried_and_nothing_is_published_unasked(guarded, tmp_path):
    (tmp_path / "password").write_text("secret\n")
    path = tmp_path / "marram.yaml"
    path.write_text(
        f"sensors: [{{type: mqtt, name: a, broker: '{guarded.url}', topic: plant/a, channels: [x], "
        f"username: press, password_file: password}}]\nmodel: {{bundle: {HOST_BUNDLE}}}\n"
        f"outputs: [{{type: mqtt, broker: '{guarded.url}'}}]\n"
        f"labels: {{mqtt: {{broker: '{guarded.url}', topic: labels}}}}\n"
    )
    findings = list(checks.check(Machine(path, config=load(path, Agent))))
    worst = {part: max(one.severity for one in findings if one.name.startswith(part)) for part in
             ("sensor a", "output 0", "labels", "outputs")}  # fmt: skip
    # The guarded broker lets in no one without a name: what the agent's own output would meet too.
    assert worst == {"sensor a": NOTE, "output 0": ERROR, "labels": ERROR, "outputs": NOTE}


@pytest.mark.parametrize("publish", [True, False])
def test_a_test_message_goes_out_only_when_it_is_asked_for(tmp_path, publish):
    with Mosquitto(tmp_path / "mosquitto") as broker, Client(broker, "#") as client:
        path = tmp_path / "marram.yaml"
        path.write_text(
            f"device: {{name: one}}\nsensors: [{{type: host, name: host}}]\n"
            f"model: {{bundle: {HOST_BUNDLE}}}\n"
            f"outputs: [{{type: mqtt, broker: '{broker.url}', topic: 'out/{{device}}', retain: true}}]\n"
        )
        findings = list(checks.check(Machine(path, config=load(path, Agent), publish=publish)))
        client.publish("last", "")
        client.wait_for(lambda messages: messages and messages[-1][0] == "last")
        assert [topic for topic, _, _ in client.messages] == (["out/one"] if publish else []) + ["last"]
        assert (findings[-1].severity is NOTE) is not publish
