"""Tokens that hold a key behind PKCS#11: SoftHSM, and a TPM in software.

    with SoftHsm(tmp_path) as token:
        token.source, token.environment

Both are Debian's; ``scripts/setup test`` installs them.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from tests.support.mosquitto import free_port
from tests.support.processes import eventually

_PIN = "1234"


class SoftHsm:
    """One token with a P-256 key. environment: what a process needs to find it."""

    module = Path("/usr/lib/softhsm/libsofthsm2.so")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        folder.mkdir(parents=True)
        (folder / "pin").write_text(f"{_PIN}\n")
        self.source = self.uri(f"pin-source=file:{folder / 'pin'}")

    def uri(self, query: str, token: str = "marram", module: Path | None = None) -> str:
        return f"pkcs11:token={token};object=device?module-path={module or self.module}&{query}"

    def __enter__(self) -> SoftHsm:
        tokens, config = self.folder / "tokens", self.folder / "softhsm2.conf"
        tokens.mkdir()
        config.write_text(f"directories.tokendir = {tokens}\nlog.level = ERROR\n")
        self.environment = {"SOFTHSM2_CONF": str(config)}
        self._make_key()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs."""

    def _make_key(self) -> None:
        named, officer, user = ("--token-label", "marram"), ("--so-pin", "5678"), ("--pin", _PIN)
        self._tool("--init-token", "--slot-index", "0", "--label", "marram", *officer)
        self._tool(*named, "--login", "--login-type", "so", *officer, "--init-pin", *user)
        kind = ("--key-type", "EC:prime256v1", "--label", "device", "--id", "01")
        self._tool(*named, "--login", *user, "--keypairgen", *kind)

    def _tool(self, *arguments: str) -> None:
        self._run("pkcs11-tool", "--module", str(self.module), *arguments)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | self.environment,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


class Tpm(SoftHsm):
    """The same in a TPM: swtpm on loopback ports, and tpm2-pkcs11."""

    module = Path("/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so")

    def __enter__(self) -> Tpm:
        port, store, state = _pair(), self.folder / "store", self.folder / "tpm"
        store.mkdir()
        state.mkdir()
        tcti = f"swtpm:host=127.0.0.1,port={port}"
        self.environment = {
            "TPM2_PKCS11_STORE": str(store),
            "TPM2_PKCS11_TCTI": tcti,
            "TPM2TOOLS_TCTI": tcti,
            "TSS2_LOG": "all+none",
        }
        server, control = (f"type=tcp,bindaddr=127.0.0.1,port={one}" for one in (port, port + 1))
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", server]
        command += ["--ctrl", control, "--flags", "not-need-init,startup-clear"]
        with (self.folder / "swtpm.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually("the TPM listens", lambda: self._listens(port + 1))
            self._make_key()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def flush(self) -> None:
        """What the kernel's resource manager does for /dev/tpmrm0: forget what ended processes had loaded."""
        self._run("tpm2_flushcontext", "-t")

    def _tool(self, *arguments: str) -> None:
        super()._tool(*arguments)
        self.flush()

    def _listens(self, port: int) -> bool:
        assert self._process.poll() is None, (self.folder / "swtpm.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0


def _pair() -> int:
    """A free port whose next one is free too: there the TPM's control channel is looked for."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
