"""A device's identity in the running system: renewed without a restart, and with a key that no file holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from marram.link.identity import Enrolment
from marram.wire import certificates, chunks, envelope
from marram.wire.tokens import Token
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder

from tests.support.cli import marram
from tests.support.enrolment import EnrolmentServer
from tests.support.est import issue
from tests.support.fleet import FLEET, REGION, Device, Fleet
from tests.support.mosquitto import Client, Mosquitto, free_port
from tests.support.processes import eventually
from tests.support.tokens import SoftHsm, Tpm

WHO = (FLEET, REGION)


class Secured:
    """A fleet of one device, a broker that asks for certificates, and an enrolment server to be started.

    The test itself listens on a port of the broker's that asks for none.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        files, port, plain = folder / "fleet" / "broker", free_port(), free_port()
        rounds = {"minimum_devices": 1, "every": "200ms"}
        fleet = Fleet(folder, f"mqtts://localhost:{port}", 1, rounds, host="localhost")
        self.fleet = stack.enter_context(fleet)
        listener = (
            f"cafile {files / 'ca.crt'}",
            f"certfile {files / 'server.crt'}",
            f"keyfile {files / 'server.key'}",
            "require_certificate true",
            "use_identity_as_username true",
            f"listener {plain} 127.0.0.1",
            "allow_anonymous true",
        )
        self.broker = stack.enter_context(Mosquitto(folder / "broker", listener=listener, port=port))
        self.authority = authority.load(folder / "fleet")
        self.enrolment = EnrolmentServer(FleetFolder(folder / "fleet"), folder)
        self.plain = Mosquitto(folder / "same", port=plain)

    @property
    def device(self) -> Device:
        return self.fleet.devices[0]

    def sealed_by(self, client: Client) -> list[bytes]:
        """The key ids of the deltas that came so far."""
        found, assembler = [], chunks.Assembler(1 << 24, 8)
        for topic, payload, _ in list(client.messages):
            if topic.endswith("/up/delta") and (whole := assembler.add(payload)):
                found.append(envelope.parse(whole, 1 << 24).header.key_id)
        return found


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    with ExitStack() as stack:
        yield Secured(tmp_path, stack)


def test_a_running_device_renews_its_certificate_and_goes_on_with_it(secured: Secured) -> None:
    device, fleet = secured.device, secured.fleet
    folder = device.identity_folder
    old = issue(
        secured.authority,
        "device-1",
        device.identity.certificate.public_key(),  # type: ignore[arg-type]
        timedelta(hours=-1),
        timedelta(seconds=60),
        *WHO,
    )
    (folder / "device.crt").write_bytes(old.public_bytes(Encoding.PEM))
    (folder / "enrolment.json").write_bytes(msgspec.json.encode(Enrolment(secured.enrolment.url)))
    with Client(secured.plain, "marram/#") as client:
        fleet.start()
        device.until("an attempt", lambda status: "does not answer" in (status["identity"]["error"] or ""))
        assert device.status()["identity"]["days_left"] < 1
        fleet.closed(1)
        assert set(secured.sealed_by(client)) == {certificates.key_id(old)}

        with secured.enrolment:
            device.until("a new certificate", lambda status: status["identity"]["days_left"] > 80)
        new = device.identity.certificate
        eventually("a delta of the new key", lambda: certificates.key_id(new) in secured.sealed_by(client))
        device.until("the link", lambda status: status["link"]["connected"])
        fleet.goes_on(2)
        status = device.status()
        assert status["identity"]["error"] is None
        assert status["windows"]["dropped"] == status["windows"]["failed"] == 0
        assert "certificate ends in 90.0 days" in marram("status", "-c", device.config).stdout
        assert secured.broker.log.read_text().count("u'device-1'") == 2, "it came again once"
        states = [payload for topic, payload, _ in client.messages if topic.endswith("/device-1/state")]
        assert b'"online": true' in states[-1]


@pytest.mark.parametrize("kind", [SoftHsm, Tpm])
def test_a_key_in_a_token_enrols_connects_and_signs(
    secured: Secured, tmp_path: Path, kind: type[SoftHsm]
) -> None:
    fleet, folder = secured.fleet, tmp_path / "identity"
    with kind(tmp_path / "token") as token, secured.enrolment as server:
        done = marram(
            "enrol", "--url", server.url, "--name", "device-1", "--identity", folder,
            "--token", server.token("--device", "device-1"), "--key", token.source,
            env=token.environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if isinstance(token, Tpm):
            token.flush()
        device = secured.device
        device.write(cloud={"identity": str(folder)})
        device.start(**token.environment)
        device.has_windows()
        fleet.aggregator.start()
        # The aggregator took deltas, so the token's signatures verify.
        fleet.closed(2)
        assert device.status()["link"]["connected"]
        assert fleet.aggregator.refused() == {}
        assert sorted(path.name for path in folder.iterdir()) == [
            "ca.crt", "device.crt", "enrolment.json", "root.json",
        ]  # fmt: skip


def test_a_token_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    with SoftHsm(tmp_path / "token") as token:

        def refusal(source: str) -> str:
            done = marram(
                "enrol", "--url", "https://localhost:1", "--token", str(Token.new(b"")), "--name", "device-1",
                "--identity", tmp_path / "identity", "--key", source, "--patience", "0",
                env=token.environment,
            )  # fmt: skip
            assert done.returncode == 1
            assert "1111" not in done.stderr, "a PIN was shown"
            return done.stderr

        assert "wrong PIN" in refusal(token.uri("pin-value=1111"))
        assert "no such key: token, object or id do not fit" in refusal(token.uri("pin-value=1234", "other"))
        assert "the PIN is missing" in refusal(token.uri(""))
        assert "is not there" in refusal(token.uri("pin-value=1234", module=tmp_path / "none.so"))
        assert "cannot be loaded" in refusal(token.uri("pin-value=1234", module=Path(__file__)))
        assert "PIN cannot be read" in refusal(token.uri(f"pin-source={tmp_path / 'none'}"))
        assert "does not answer" in refusal(token.source)
