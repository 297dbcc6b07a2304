"""From enrolment to revocation, with a real aggregator and real devices behind the broker's rules."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from marram.wire import certificates, revocation
from marram.wire.envelope import KeySigner
from marram.wire.messages import Report
from marram.wire.signed import Author
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder

from tests.support.enrolment import EnrolmentServer, basic, issued, request
from tests.support.fleet import TOPICS, Fleet
from tests.support.mosquitto import free_port
from tests.support.processes import eventually
from tests.support.secured import Client, broker_of, write_identity


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder, port = tmp_path_factory.mktemp("identity"), free_port()
    with Fleet(folder, f"mqtts://localhost:{port}", host="localhost") as fleet:
        fleet.aggregator.write(crl=str(folder / "fleet" / "ca.crl"), rounds={"minimum_devices": 1})
        with broker_of(FleetFolder(folder / "fleet"), folder / "mosquitto", port):
            fleet.start()
            yield fleet


def client(fleet: Fleet, identity: Path) -> Client:
    port = int(fleet.broker.rpartition(":")[2])
    return Client(port, fleet.folder / "fleet" / "ca.crt", identity)


def test_a_fleet_learns_behind_the_brokers_rules(fleet: Fleet) -> None:
    fleet.goes_on(2)
    fleet.aggregator.counted_once()
    assert fleet.aggregator.refused() == {}


def test_a_device_that_enrolled_by_itself_is_known_by_its_report(fleet: Fleet, tmp_path: Path) -> None:
    key = authority.new_key()
    with EnrolmentServer(FleetFolder(fleet.folder / "fleet"), tmp_path) as server:
        token = server.token("--device", "newcomer")
        status, body = server.ask("est/simpleenroll", request("newcomer", key), basic("newcomer", token))
    assert status == 200
    certificate = issued(body)
    identity = write_identity(tmp_path / "newcomer", certificate, key)[0].parent
    der = certificates.der(certificate)
    author = Author(certificates.subject_of(certificate), KeySigner(key, der), (der,))
    topic = TOPICS.report("newcomer")
    report = author.seal(Report("1", "shoulder", "", "0", bytes(32), "idle"), topic, 1, introduce=True)
    with client(fleet, identity) as newcomer:
        assert newcomer.may_write(topic, report, retain=True)
    eventually(
        "newcomer is known", lambda: "newcomer" in fleet.must("devices", "-c", fleet.aggregator.config)
    )


def test_the_file_with_the_list_is_enough_to_revoke_a_device(fleet: Fleet) -> None:
    device, folder = fleet.devices[1], fleet.folder / "fleet"
    device.until("its part in a round", lambda status: status["rounds"]["deltas"] > 0)
    fleet.must("revoke", folder, "device-2")
    # The broker was not told: the device is still connected, and the aggregator refuses it.
    device.until("a refusal", lambda status: "revoked" in status["rounds"]["last_refusal"])
    assert "REVOKED" in fleet.must("devices", "-c", fleet.aggregator.config)
    fleet.goes_on(2)
    fleet.aggregator.counted_once()
    with client(fleet, folder / "devices" / "device-1") as other:
        other.subscribe(TOPICS.revoked)
        eventually("the list", lambda: other.heard)
    trusted = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    found = revocation.read(other.heard[0][1], trusted)
    assert found.serials == {device.identity.certificate.serial_number}
    assert found.until.timestamp() > time.time()
