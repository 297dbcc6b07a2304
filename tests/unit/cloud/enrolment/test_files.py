"""Fleet folders: what they hold, who may read it, and that nothing is overwritten."""

import shutil
import ssl
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from marram.link.identity import load
from marram.wire import certificates
from marram.wire.certificates import Subject
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.authority import EnrolmentError
from marram_cloud.enrolment.files import FleetFolder

from tests.support.configs import ROOT

DAY = 86400


@pytest.fixture
def folder(tmp_path):
    return FleetFolder.create(tmp_path / "fleet", "dunes", "north")


def snapshot(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_fleet_has_its_authority_its_release_repository_and_its_aggregator(folder):
    assert sorted(name for name in snapshot(folder.path) if not name.startswith("repository/")) == [
        "aggregator/ca.crt", "aggregator/device.crt", "aggregator/device.key", "aggregator/root.json",
        "ca.crl", "ca.crt", "ca.key", "enrolment.db", "fleet.json", "offline/release-1.pem",
        "offline/root-1.pem", "offline/targets-1.pem", "online/rollout-1.pem", "online/snapshot-1.pem",
        "online/timestamp-1.pem", "root.json",
    ]  # fmt: skip
    root = snapshot(folder.path)["repository/metadata/1.root.json"]
    assert root == (folder.path / "root.json").read_bytes()
    assert root == (folder.path / "aggregator" / "root.json").read_bytes()
    assert load(folder.path / "aggregator", role="aggregator").subject.uri == (
        "marram://dunes/north/aggregator/aggregator"
    )


def test_a_devices_certificate_names_fleet_region_role_and_device(folder):
    path, certificate = folder.enrol("press-07")
    identity = load(path)
    assert identity.subject.uri == "marram://dunes/north/device/press-07"
    assert identity.certificate == certificate
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    certificates.check_issued(certificate, identity.authority, identity.floor + 2 * DAY)


def test_every_device_has_a_key_of_its_own(folder):
    keys = {folder.enrol(name)[1].public_key().public_numbers() for name in ("a", "b", "c")}
    assert len(keys) == 3


def test_private_keys_are_for_their_owner_only(folder):
    folder.enrol("a")
    folder.issue_broker(("localhost",))
    keys = [*folder.path.rglob("*.key"), *folder.path.rglob("*.pem")]
    assert len(keys) == 4 + 6
    assert {stat.S_IMODE(file.stat().st_mode) for file in keys} == {0o600}


def test_a_fleet_is_not_made_over_another(folder):
    before = snapshot(folder.path)
    with pytest.raises(EnrolmentError, match="exists already"):
        FleetFolder.create(folder.path, "dunes", "north")
    assert snapshot(folder.path) == before


def test_a_device_is_not_enrolled_over_another(folder):
    folder.enrol("a")
    before = snapshot(folder.path)
    with pytest.raises(EnrolmentError, match="enrolled already"):
        folder.enrol("a")
    assert snapshot(folder.path) == before


def test_release_keys_that_are_there_are_never_overwritten(tmp_path):
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "root-1.pem").write_text("precious")
    FleetFolder.create(tmp_path, "dunes", "north")
    assert (tmp_path / "offline" / "root-1.pem").read_text() == "precious"
    assert (tmp_path / "offline" / "root-2.pem").exists()


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "-a", "a" * 49, "a\n", "+", "#"])
def test_a_name_that_no_topic_can_bear_is_refused(folder, name):
    with pytest.raises(EnrolmentError, match="not usable"):
        folder.enrol(name)
    with pytest.raises(EnrolmentError, match="not usable"):
        FleetFolder.create(folder.path / "new", name, "north")
    assert not (folder.path / "devices").exists()


def test_no_device_can_take_the_name_that_the_broker_knows_the_aggregator_by(folder):
    with pytest.raises(EnrolmentError, match="the aggregator's own name"):
        folder.enrol("aggregator")
    assert not (folder.path / "devices" / "aggregator").exists()


def test_a_folder_that_is_no_fleets_says_what_to_run(tmp_path):
    with pytest.raises(EnrolmentError, match="marram-cloud init"):
        FleetFolder(tmp_path).enrol("a")


def test_a_place_that_cannot_be_written_is_an_error_with_a_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnrolmentError, match="file"):
        FleetFolder.create(tmp_path / "file" / "fleet", "dunes", "north")


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_a_damaged_authority_is_named(folder, name):
    (folder.path / name).write_bytes(b"damaged")
    with pytest.raises(EnrolmentError, match="damaged"):
        folder.enrol("a")


def test_an_authority_without_its_key_enrols_nobody(folder):
    (folder.path / "ca.key").unlink()
    with pytest.raises(EnrolmentError, match=r"ca\.key"):
        folder.enrol("a")


def test_the_key_of_another_authority_is_refused(folder, tmp_path):
    other = FleetFolder.create(tmp_path / "other", "dunes", "north")
    (folder.path / "ca.key").write_bytes((other.path / "ca.key").read_bytes())
    with pytest.raises(EnrolmentError, match="not the key of ca"):
        folder.enrol("a")


def test_the_brokers_certificate_is_believed_for_its_names_and_no_others(folder):
    path = folder.issue_broker(("broker.example", "127.0.0.1"))
    device, _ = folder.enrol("a")
    names = authority_names(path)
    assert names == ({"broker.example"}, {"127.0.0.1"})
    assert handshake(path, load(device).tls(), "broker.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(path, load(device).tls(), "other.example")


def test_a_device_of_another_fleet_does_not_believe_the_broker(folder, tmp_path):
    path = folder.issue_broker(("broker.example",))
    other, _ = FleetFolder.create(tmp_path / "other", "dunes", "north").enrol("a")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(path, load(other).tls(), "broker.example")


# ---- lists of revoked certificates


def test_a_new_fleet_has_an_empty_list(folder):
    found = folder.revocations()
    assert (found.number, found.serials) == (1, frozenset())


def test_revoking_names_all_certificates_of_a_device_and_only_its(folder):
    _, first = folder.enrol("a")
    folder.enrol("b")
    (folder.path / "devices" / "a").rename(folder.path / "old")
    _, second = folder.enrol("a")
    found = folder.revoke(["a"])
    assert (found.number, found.serials) == (2, {first.serial_number, second.serial_number})
    assert folder.revoke(["b"]).number == 3
    assert folder.write_revocations().serials == folder.revocations().serials > found.serials


def test_a_device_of_a_fleet_without_records_is_revoked_by_its_files_and_by_what_a_ledger_knows(folder):
    _, here = folder.enrol("a")
    (folder.path / "enrolment.db").unlink()
    elsewhere = authority.load(folder.path).issue(
        Subject("dunes", "north", "device", "a"), authority.new_key().public_key()
    )
    found = folder.revoke(["a"], lambda name: [elsewhere])
    assert found.serials == {here.serial_number, elsewhere.serial_number}


def test_records_that_were_lost_bring_nobody_back_and_the_number_still_rises(folder):
    _, certificate = folder.enrol("a")
    before = folder.revoke(["a"])
    (folder.path / "enrolment.db").unlink()
    after = folder.write_revocations()
    assert after.serials == {certificate.serial_number}
    assert after.number > before.number


def test_a_list_that_is_damaged_is_not_replaced_by_one_that_knows_less(folder):
    (folder.path / "ca.crl").write_bytes(b"damaged")
    with pytest.raises(EnrolmentError, match=r"ca\.crl"):
        folder.write_revocations()
    assert (folder.path / "ca.crl").read_bytes() == b"damaged"


def test_a_name_that_nobody_has_is_an_error_and_revokes_nobody_else(folder):
    folder.enrol("a")
    with pytest.raises(EnrolmentError, match="no device 'nobody': nothing was revoked"):
        folder.revoke(["a", "nobody"])
    assert folder.revocations().number == 1


def test_a_list_is_written_anew_after_a_week_or_when_it_is_missing(folder, monkeypatch):
    folder.keep_revocations()
    assert folder.revocations().number == 1
    (folder.path / "ca.crl").unlink()
    folder.keep_revocations()
    assert folder.revocations().number == 2
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 8 * DAY)
    folder.keep_revocations()
    assert folder.revocations().number == 3


def test_lists_made_at_once_have_numbers_of_their_own(folder):
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda _: folder.write_revocations().number, range(8)))
    # Each reads the file after its own turn: a later one may stand there by then, never an earlier one.
    assert max(numbers) == folder.revocations().number == 9


# ---- renewal


def test_renewal_gives_the_same_key_and_names_more_time(folder):
    broker = folder.issue_broker(("broker.example", "127.0.0.1"))
    paths = [folder.path / "aggregator" / "device.crt", broker / "server.crt"]
    before = [x509.load_pem_x509_certificate(path.read_bytes()) for path in paths]
    assert [path for path, _ in folder.renew_own()] == [path.parent for path in paths]
    after = [x509.load_pem_x509_certificate(path.read_bytes()) for path in paths]
    for old, new in zip(before, after, strict=True):
        assert new.serial_number != old.serial_number
        assert (new.subject, new.public_key()) == (old.subject, old.public_key())
        for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage):
            assert new.extensions.get_extension_for_class(kind) == old.extensions.get_extension_for_class(
                kind
            )
    assert load(folder.path / "aggregator", role="aggregator").certificate == after[0]


def test_the_certificate_alone_is_enough_to_renew_it(folder, tmp_path):
    copied = tmp_path / "copy"
    copied.mkdir()
    shutil.copy(folder.path / "aggregator" / "device.crt", copied)
    new = folder.renew(copied)
    assert certificates.subject_of(new).role == "aggregator"
    assert sorted(path.name for path in copied.iterdir()) == ["device.crt"]


def test_a_stolen_aggregators_key_is_revoked_and_made_anew(folder):
    old = load(folder.path / "aggregator", role="aggregator").certificate
    assert folder.revoke(["aggregator"]).serials == {old.serial_number}
    with pytest.raises(EnrolmentError, match=r"was revoked: move .* away"):
        folder.renew_own()
    (folder.path / "aggregator").rename(folder.path / "stolen")
    folder.renew_own()
    new = load(folder.path / "aggregator", role="aggregator").certificate
    assert new.public_key() != old.public_key()
    assert new.serial_number not in folder.revocations().serials


def test_what_this_authority_did_not_issue_is_not_renewed(folder, tmp_path):
    other = FleetFolder.create(tmp_path / "other", "dunes", "north")
    with pytest.raises(EnrolmentError, match="not issued by this fleet's authority"):
        folder.renew(other.path / "aggregator")
    with pytest.raises(EnrolmentError, match="nothing to renew here"):
        folder.renew(folder.path)


def test_the_enrolment_servers_certificate_is_made_anew_for_other_hosts_only(folder):
    path = folder.keep_server(("localhost",))
    before = path.read_bytes()
    assert folder.keep_server(("localhost",)).read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folder.keep_server(("localhost", "127.0.0.1"))
    assert path.read_bytes() != before


def test_the_enrolment_servers_certificate_is_made_anew_in_the_last_third_of_its_life(folder, monkeypatch):
    before = folder.keep_server(("localhost",)).read_bytes()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 500 * DAY)
    assert folder.keep_server(("localhost",)).read_bytes() != before


# ---- the broker's configuration


def test_the_brokers_files_are_complete_and_follow_the_list(folder):
    with pytest.raises(EnrolmentError, match="name its hosts"):
        folder.write_broker(())
    path = folder.write_broker(("broker.example",))
    assert sorted(one.name for one in path.iterdir()) == [
        "acl", "ca.crl", "ca.crt", "marram.conf", "server.crt", "server.key",
    ]  # fmt: skip
    certificate = (path / "server.crt").read_bytes()
    assert folder.write_broker((), port=1234) == path
    assert "listener 1234" in (path / "marram.conf").read_text()
    assert (path / "server.crt").read_bytes() == certificate
    folder.enrol("a")
    folder.revoke(["a"])
    assert (path / "ca.crl").read_bytes() == (folder.path / "ca.crl").read_bytes()


def test_the_example_in_packaging_is_what_the_command_writes(folder):
    path, example = folder.write_broker(("broker.example",)), ROOT / "packaging" / "broker"
    for name in ("marram.conf", "acl"):
        assert (example / name).read_text() == (path / name).read_text(), name


@pytest.mark.parametrize("days", [0, -1, 100_000])
def test_a_lifetime_that_makes_no_sense_is_refused(tmp_path, days):
    with pytest.raises(EnrolmentError, match="days of a device's certificate"):
        FleetFolder.create(tmp_path / "fleet", "dunes", "north", device_days=days)
    assert not (tmp_path / "fleet").exists()


def authority_names(path):
    certificate = x509.load_pem_x509_certificate((path / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return set(names.get_values_for_type(x509.DNSName)), addresses


def handshake(broker, client_context, host):
    """A TLS handshake in memory that wants a certificate of both sides; what the broker saw of the device."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(broker / "server.crt", broker / "server.key")
    context.load_verify_locations(broker / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        done = 0
        for side in (client, server):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == 2:
            return server.getpeercert()
    raise AssertionError("the handshake did not end")


def test_a_private_file_is_private_from_its_first_byte_on(tmp_path):
    authority.write_private(tmp_path / "deep" / "key", b"secret")
    assert stat.S_IMODE((tmp_path / "deep" / "key").stat().st_mode) == 0o600
    with pytest.raises(EnrolmentError):
        authority.write_private(tmp_path / "deep" / "key", b"other")
    assert (tmp_path / "deep" / "key").read_bytes() == b"secret"
