"""Debian as a folder: a minimal system with systemd and a broker, made once and then kept in build/roots."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOTS = ROOT / "build/roots"
SUITES = {12: "bookworm", 13: "trixie"}

_PACKAGES = (
    "systemd,systemd-sysv,dbus,libpam-systemd,python3,iproute2,procps,init-system-helpers,"
    "mosquitto,mosquitto-clients,openssl,libfaketime"
)
_ARM64 = "python3,init-system-helpers,systemd-standalone-sysusers,libstdc++6,zlib1g"
"""Under emulation no systemd boots; what the package needs is there."""
_MASKED = (
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
    "modprobe@.service",
    "systemd-modules-load.service",
    "console-getty.service",
    "getty.target",
    "getty-static.service",
    "mosquitto.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "e2scrub_all.timer",
)


def why_not() -> str:
    """Why no system can be booted here; empty when it can."""
    if os.geteuid() != 0:
        return "booting a system in namespaces of its own needs root"
    if shutil.which("mmdebstrap") is None:
        return "mmdebstrap is missing; install it with: sudo apt-get install -y mmdebstrap"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], check=False)
    return "this machine lets nobody make namespaces" if tried.returncode else ""


def debian(release: int) -> Path:
    """The folder with that release; made on the first use, in half a minute."""
    key = hashlib.sha256(f"{_PACKAGES} {_MASKED}".encode()).hexdigest()[:8]
    root = ROOTS / f"debian-{release}-{key}"
    with one_at_a_time(f"debian-{release}"):
        if not root.exists():
            making = ROOTS / f"making-{release}"
            shutil.rmtree(making, ignore_errors=True)
            _bootstrap(SUITES[release], making, _PACKAGES)
            _settle(making)
            making.rename(root)
    return root


def debian_arm64(release: int) -> Path:
    """The same for 64-bit ARM, whose programs qemu then emulates; ten minutes, and a chroot only."""
    root = ROOTS / f"debian-{release}-arm64"
    with one_at_a_time(root.name):
        _emulate_arm64()
        if not root.exists():
            making = ROOTS / f"making-{release}-arm64"
            shutil.rmtree(making, ignore_errors=True)
            _bootstrap(SUITES[release], making, _ARM64, "--arch=arm64", "--mode=root")
            making.rename(root)
    return root


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Of all test processes."""
    ROOTS.mkdir(parents=True, exist_ok=True)
    with (ROOTS / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _emulate_arm64() -> None:
    """Have the kernel run programs for 64-bit ARM with qemu-user-static."""
    handler = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
    assert handler.exists(), "qemu-user-static is missing: sudo apt-get install -y qemu-user-static arch-test"
    kinds = Path("/proc/sys/fs/binfmt_misc")
    if not (kinds / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(kinds)], check=True)
    if not (kinds / "qemu-aarch64").exists():
        (kinds / "register").write_bytes(handler.read_bytes())


def _bootstrap(suite: str, folder: Path, packages: str, *more: str) -> None:
    options = ["--variant=minbase", f"--include={packages}", "--dpkgopt=force-unsafe-io", "--quiet", *more]
    done = subprocess.run(
        ["mmdebstrap", *options, suite, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _settle(root: Path) -> None:
    """What a minimal system lacks, and what cannot run in namespaces, or would disturb."""
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/machine-id").write_text("")
    for unit in _MASKED:
        place = root / "etc/systemd/system" / unit
        place.unlink(missing_ok=True)
        place.symlink_to("/dev/null")
