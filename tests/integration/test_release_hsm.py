"""Release keys in a token: a model whose releases only SoftHSM can sign."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from marram_cloud.releases.repository.layout import Layout

from tests.support import models
from tests.support.tokens import SoftHsm


def test_a_model_whose_release_key_is_in_a_token(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    with SoftHsm(tmp_path / "token") as token:
        key = f"hsm:1?label=marram&module={token.module}"

        def run(*arguments: object, pin: str = "1234") -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "marram_cloud.cli", *map(str, arguments)]
            environment = os.environ | token.environment | {"MARRAM_PIN": pin}
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=60, check=False
            )

        def release(*arguments: object, pin: str = "1234") -> subprocess.CompletedProcess[str]:
            place = ("--repository", folder / "repository", "--online", folder / "online")
            return run("release", *arguments, *place, pin=pin)

        assert run("init", folder, "--fleet", "f").returncode == 0
        der = tmp_path / "public.der"
        command = ["pkcs11-tool", "--module", str(token.module), "--read-object", "--type", "pubkey"]
        subprocess.run(
            [*command, "--id", "01", "-o", str(der)], env=os.environ | token.environment, check=True,
            capture_output=True, timeout=60,
        )  # fmt: skip
        public = tmp_path / "token.pem"
        public.write_bytes(
            load_der_public_key(der.read_bytes()).public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
        )
        targets = folder / "offline" / "targets-1.pem"
        added = release("add-model", "tiny", "--public", public, "--key", targets, key)
        assert added.returncode == 0, added.stderr
        model = tmp_path / "tiny.onnx"
        model.write_bytes(models.classifier())
        release("publish")

        for wrong, words in (
            (f"hsm:9?label=marram&module={token.module}", "could not find"),
            (f"hsm:1?label=other&module={token.module}", "No PKCS#11 token"),
            ("hsm:1?label=marram&module=/nowhere.so", "nowhere.so"),
            ("hsm:x", "expected hsm:"),
        ):
            done = release("sign", model, "--model", "tiny", "--version", "1", "--key", wrong)
            assert (done.returncode, words in done.stderr) == (1, True), done.stderr
        done = release("sign", model, "--model", "tiny", "--version", "1", "--key", key, pin="9999")
        assert (done.returncode, "the PIN is wrong" in done.stderr) == (1, True), done.stderr

        done = release("sign", model, "--model", "tiny", "--version", "1", "--key", key)
        assert done.returncode == 0, done.stderr
        assert "published: tiny" in release("publish").stdout
    state = Layout(folder / "repository").load()
    assert "tiny/1.onnx" in state.roles["tiny"].signed.targets
