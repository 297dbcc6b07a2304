"""The folders that ``marram-cloud init`` and ``enrol`` write: a fleet, its aggregator, its devices.

A fleet folder holds ``fleet.json``, the authority (``ca.key``, ``ca.crt``), its list of revoked certificates
(``ca.crl``, PEM) and its records (``enrolment.db``), the release ``repository/`` with its ``offline/`` and
``online/`` keys and ``root.json``, which devices trust releases by, ``aggregator/`` (an identity),
``devices/NAME/`` of those enrolled here, ``broker/`` (its configuration and TLS files) and ``enrolment/``
(the enrolment server's).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from marram.errors import WireError
from marram.link.identity import Identity
from marram.link.identity import load as load_identity
from marram.storage import replace_file, sync_folder
from marram.wire import certificates, revocation
from marram.wire.certificates import Subject
from marram.wire.revocation import RevocationList
from marram.wire.topics import Topics, check_name

from marram_cloud.enrolment import authority, broker, revocations
from marram_cloud.enrolment.authority import AGGREGATOR, DEVICE_DAYS, LEAF_DAYS, Authority, EnrolmentError
from marram_cloud.enrolment.registry import Registry, open_registry
from marram_cloud.releases.repository import create as repository
from marram_cloud.releases.repository.create import Quorums

_DAY = 86400.0


class Fleet(msgspec.Struct, frozen=True):
    """``fleet.json``. device_days: lifetime of a certificate that a device gets by EST."""

    fleet: str
    region: str
    device_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = DEVICE_DAYS


@dataclass(frozen=True)
class FleetFolder:
    """A fleet's files."""

    path: Path

    @property
    def fleet(self) -> Fleet:
        try:
            return msgspec.json.decode((self.path / "fleet.json").read_bytes(), type=Fleet)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise EnrolmentError(
                f"{self.path}: is not a fleet's folder; run `marram-cloud init` first"
            ) from error

    @staticmethod
    def create(
        path: Path,
        fleet: str,
        region: str,
        device_days: int = DEVICE_DAYS,
        models: Sequence[str] = (),
    ) -> FleetFolder:
        """Make the authority, the release repository with its keys and the aggregator's identity.

        models: that will be released. Raises EnrolmentError, RepositoryError.
        """
        try:
            check_name("fleet", fleet)
            check_name("region", region)
        except ValueError as error:
            raise EnrolmentError(str(error)) from error
        about = _fleet(fleet, region, device_days)
        made = authority.create(path, fleet)
        root = repository.create(
            path / "repository", path / "offline", path / "online", models, Quorums(), datetime.now(UTC)
        )
        (path / "root.json").write_bytes(root)
        (path / "fleet.json").write_bytes(msgspec.json.encode(about) + b"\n")
        folder = FleetFolder(path)
        folder._make_aggregator(made)
        folder.write_revocations()
        return folder

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        """What the authority has done, open for the block. Raises EnrolmentError, StorageError."""
        _ = self.fleet
        with open_registry(self.path) as registry:
            yield registry

    def check_aggregator(self, identity: Identity) -> None:
        """Raise EnrolmentError unless devices enrolled here are of this aggregator's fleet and region."""
        about, subject = self.fleet, identity.subject
        if (about.fleet, about.region) != (subject.fleet, subject.region):
            raise EnrolmentError(
                f"{self.path}: is of fleet {about.fleet!r}, region {about.region!r}, but the configured "
                f"aggregator ({identity.folder}) of fleet {subject.fleet!r}, region {subject.region!r}"
            )
        if certificates.der(authority.load(self.path).certificate) != certificates.der(identity.authority):
            raise EnrolmentError(
                f"{self.path}: has another authority (ca.crt) than the configured aggregator "
                f"({identity.folder}), although fleet and region have the same names"
            )

    def enrol(
        self,
        name: str,
        register: Callable[[x509.Certificate], None] = lambda certificate: None,
        days: float = LEAF_DAYS,
    ) -> tuple[Path, x509.Certificate]:
        """Make a device's identity folder. Raises EnrolmentError when there is one of that name.

        register: puts the certificate on record; what it raises leaves the name free for another try.
        days: lifetime of the certificate.
        """
        target = self._folder_of(name)
        if target.exists():
            raise EnrolmentError(
                f"{target}: device {name!r} is enrolled already; take another name, "
                "or, to give it a new key, revoke it and move this folder away"
            )
        about = self.fleet
        subject = Subject(about.fleet, about.region, "device", name)
        made = target.with_name(f".{name}.new")
        shutil.rmtree(made, ignore_errors=True)
        try:
            certificate = self._identity(authority.load(self.path), made, subject, days)
            register(certificate)
            made.rename(target)
        except OSError as error:
            raise EnrolmentError(f"{target}: cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
        sync_folder(target.parent)
        return target, certificate

    def enrolled(self, name: str) -> x509.Certificate | None:
        """The certificate of a device that has its files here, or None. Raises IdentityError."""
        target = self._folder_of(name)
        return load_identity(target).certificate if target.exists() else None

    def issue_broker(self, hosts: tuple[str, ...]) -> Path:
        """A TLS server certificate for the region's broker: ``broker/{server.key,server.crt,ca.crt}``."""
        target = self.path / "broker"
        key = authority.new_key()
        certificate = authority.load(self.path).issue_server(hosts, key.public_key())
        authority.write_private(target / "server.key", authority.private_pem(key))
        (target / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        shutil.copy(self.path / "ca.crt", target / "ca.crt")
        return target

    def write_broker(
        self, hosts: tuple[str, ...], files: Path = broker.FILES, port: int = broker.PORT
    ) -> Path:
        """Mosquitto's configuration and access rules in ``broker/``, with its TLS files if it has none.

        files: where the folder's files will be on the broker's machine. Raises EnrolmentError.
        """
        about, target = self.fleet, self.path / "broker"
        if not (target / "server.crt").exists():
            if not hosts:
                raise EnrolmentError(
                    f"{target}: the broker has no certificate yet: name its hosts with --host, "
                    "as devices reach it"
                )
            self.issue_broker(hosts)
        replace_file(target / "marram.conf", broker.configuration(files, port).encode())
        replace_file(target / "acl", broker.access_rules(Topics(about.fleet, about.region)).encode())
        if not (self.path / "ca.crl").exists():
            self.write_revocations()
        shutil.copy(self.path / "ca.crl", target / "ca.crl")
        return target

    def keep_server(self, hosts: tuple[str, ...]) -> Path:
        """The enrolment server's key and certificate, one file: made, and made anew for other hosts or in the
        last third of its life."""
        path = self.path / "enrolment" / "server.pem"
        if path.exists():
            certificate = _read_certificate(path)
            if set(_hosts(certificate)) == set(hosts) and not _in_last_third(certificate, time.time()):
                return path
        key = authority.new_key()
        certificate = authority.load(self.path).issue_server(hosts, key.public_key())
        # One file, so that the key and its certificate can never be of two different times.
        pem = authority.private_pem(key) + certificate.public_bytes(Encoding.PEM)
        replace_file(path, pem, mode=0o600)
        return path

    def renew(self, folder: Path) -> x509.Certificate:
        """A new certificate in place of the one in ``folder`` (an identity, or the broker's), for the same
        key and names. The folder may be a copy without the key. Raises EnrolmentError."""
        paths = [folder / name for name in ("device.crt", "server.crt") if (folder / name).exists()]
        if not paths:
            raise EnrolmentError(f"{folder}: holds neither device.crt nor server.crt: nothing to renew here")
        old, issuer = _read_certificate(paths[0]), authority.load(self.path)
        try:
            certificates.check_issued(old, issuer.certificate, old.not_valid_before_utc.timestamp())
            key = certificates.public_key(old)
            subject = certificates.subject_of(old) if paths[0].name == "device.crt" else None
        except WireError as error:
            raise EnrolmentError(f"{paths[0]}: {error}") from error
        with self.registry() as registry, registry.transaction():
            if registry.is_revoked(old):
                raise EnrolmentError(f"{paths[0]}: was revoked: move {folder} away to have it made anew")
            if subject is None:
                new = issuer.issue_server(_hosts(old), key)
            else:
                new = issuer.issue(subject, key)
                registry.record(subject.name, new, time.time())
        replace_file(paths[0], new.public_bytes(Encoding.PEM))
        return new

    def renew_own(self) -> list[tuple[Path, x509.Certificate]]:
        """Renew the aggregator's and the broker's certificate here; an aggregator whose folder was moved away
        gets a new key."""
        if not (self.path / AGGREGATOR).exists():
            self._make_aggregator(authority.load(self.path))
        folders = [self.path / AGGREGATOR, self.path / "broker"]
        return [(folder, self.renew(folder)) for folder in folders if folder.exists()]

    # ---- revocation

    def revoke(
        self, names: Sequence[str], more: Callable[[str], list[x509.Certificate]] = lambda name: []
    ) -> RevocationList:
        """Revoke all certificates of these devices (or of the aggregator), and write the list.

        more: certificates of a name that are known elsewhere. Raises EnrolmentError for an unknown name.
        """
        now = time.time()
        with self.registry() as registry, registry.transaction():
            for name in names:
                files = [self.path / "devices" / name / "device.crt"] if name != AGGREGATOR else []
                known = [*more(name), *(_read_certificate(file) for file in files if file.exists())]
                for certificate in known:
                    registry.record(name, certificate, now)
                if not registry.of_device(name):
                    raise EnrolmentError(
                        f"there is no device {name!r}: nothing was revoked; "
                        "`marram-cloud enrolment certificates` lists them"
                    )
                registry.revoke(name, now)
            self._write_revocations(registry, now)
        return self.revocations()

    def write_revocations(self) -> RevocationList:
        """Write the list anew: with what is revoked now, and good for another year."""
        return self.revoke(())

    def keep_revocations(self) -> None:
        """Write the list anew when it is older than a week, or missing."""
        with self.registry() as registry:
            fresh = registry.last_list() + 7 * _DAY > time.time()
        if not (fresh and (self.path / "ca.crl").exists()):
            self.write_revocations()

    def revocations(self) -> RevocationList:
        """The list as it stands in ``ca.crl``. Raises EnrolmentError."""
        path = self.path / "ca.crl"
        try:
            return revocation.read(path.read_bytes(), authority.load(self.path).certificate)
        except OSError as error:
            raise EnrolmentError(f"{path}: {error.strerror}; `marram-cloud revoke` writes it") from error
        except WireError as error:
            raise EnrolmentError(f"{path}: {error}; move it away and run `marram-cloud revoke`") from error

    def _write_revocations(self, registry: Registry, now: float) -> None:
        """The caller holds the transaction, so that a list never takes the place of a newer one."""
        path, least = self.path / "ca.crl", 1
        revoked = dict(registry.revoked(now - 30 * _DAY))
        if path.exists():
            # Records that were lost, or are an older copy, must not bring anybody back.
            old = self.revocations()
            least = old.number + 1
            revoked |= {serial: now for serial in old.serials if not registry.knows(serial)}
        number = registry.next_list(now, least)
        content = revocations.make(authority.load(self.path), revoked.items(), number, now)
        replace_file(path, content)
        if (self.path / "broker").exists():
            replace_file(self.path / "broker" / "ca.crl", content)

    # ---- parts

    def _folder_of(self, name: str) -> Path:
        return self.path / "devices" / check_device(name)

    def _make_aggregator(self, issuer: Authority) -> None:
        about = self.fleet
        subject = Subject(about.fleet, about.region, "aggregator", AGGREGATOR)
        self._identity(issuer, self.path / AGGREGATOR, subject, LEAF_DAYS)

    def _identity(self, issuer: Authority, target: Path, subject: Subject, days: float) -> x509.Certificate:
        key = authority.new_key()
        certificate = issuer.issue(subject, key.public_key(), days)
        with self.registry() as registry, registry.transaction():
            registry.record(subject.name, certificate, time.time())
        authority.write_private(target / "device.key", authority.private_pem(key))
        (target / "device.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        (target / "ca.crt").write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
        shutil.copy(self.path / "root.json", target / "root.json")
        return certificate


def check_device(name: str) -> str:
    """A name that a device may have. Raises EnrolmentError."""
    try:
        check_name("device", name)
    except ValueError as error:
        raise EnrolmentError(str(error)) from error
    if name == AGGREGATOR:
        # The name in a certificate is the user name at the broker and part of the client's name there.
        raise EnrolmentError(f"{name!r} is the aggregator's own name; take another for the device")
    return name


def _fleet(fleet: str, region: str, device_days: int) -> Fleet:
    try:
        return msgspec.convert({"fleet": fleet, "region": region, "device_days": device_days}, Fleet)
    except msgspec.ValidationError as error:
        raise EnrolmentError(f"days of a device's certificate: {error}") from error


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EnrolmentError(f"{path}: is no certificate that can be read: {error}") from error


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def _in_last_third(certificate: x509.Certificate, now: float) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return datetime.fromtimestamp(now, UTC) > begin + (end - begin) * 2 / 3
