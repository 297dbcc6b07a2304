"""The OpenSSL that Python's own ssl module runs on, called directly.

Neither ``ssl`` nor ``cryptography`` can use a key that stays in a token. OpenSSL can, by an engine. A key
that is loaded so must be handed to the very libssl that ``ssl`` links, so its functions are looked up through
the ``_ssl`` module.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
import sys
from ctypes import c_char_p, c_int, c_size_t, c_ulong, c_void_p
from functools import cache
from typing import Any

from marram.errors import IdentityError

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ENGINE_by_id": (c_void_p, (c_char_p,)),
    "ENGINE_ctrl_cmd_string": (c_int, (c_void_p, c_char_p, c_char_p, c_int)),
    "ENGINE_init": (c_int, (c_void_p,)),
    "ENGINE_free": (c_int, (c_void_p,)),
    "ENGINE_load_private_key": (c_void_p, (c_void_p, c_char_p, c_void_p, c_void_p)),
    "UI_null": (c_void_p, ()),
    "EVP_sha256": (c_void_p, ()),
    "EVP_MD_CTX_new": (c_void_p, ()),
    "EVP_MD_CTX_free": (None, (c_void_p,)),
    "EVP_DigestSignInit": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)),
    "EVP_DigestSign": (c_int, (c_void_p, c_char_p, ctypes.POINTER(c_size_t), c_char_p, c_size_t)),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "i2d_PUBKEY": (c_int, (c_void_p, ctypes.POINTER(c_void_p))),
    "CRYPTO_free": (None, (c_void_p, c_char_p, c_int)),
    "ERR_get_error": (c_ulong, ()),
    "ERR_error_string_n": (None, (c_ulong, c_char_p, c_size_t)),
    "SSL_CTX_use_certificate_chain_file": (c_int, (c_void_p, c_char_p)),
    "SSL_CTX_use_PrivateKey": (c_int, (c_void_p, c_void_p)),
    "SSL_CTX_check_private_key": (c_int, (c_void_p,)),
}


class LibraryError(IdentityError):
    """OpenSSL refused; ``said`` holds its reasons."""

    def __init__(self, what: str) -> None:
        self.said = _said()
        super().__init__(f"{what}: {self.said or 'OpenSSL gives no reason'}")


@cache
def library() -> ctypes.CDLL:
    """Raises IdentityError where Python's OpenSSL cannot be reached."""
    place = getattr(_ssl, "__file__", None)
    try:
        found = ctypes.CDLL(place)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError, TypeError) as error:
        raise IdentityError(
            f"this Python ({sys.executable}) does not use a shared OpenSSL 3, so that it cannot use keys in "
            f"tokens ({error}); use Debian's own python3, or keep the key in a file"
        ) from error
    return found


def _said() -> str:
    """Empties this thread's queue of errors."""
    words, text = [], ctypes.create_string_buffer(256)
    while code := library().ERR_get_error():
        library().ERR_error_string_n(code, text, len(text))
        # error:410000A0:PKCS#11 module::PIN incorrect
        words.append(text.value.decode(errors="replace").rpartition(":")[2])
    return "; ".join(dict.fromkeys(words))


@cache
def engine(name: str, module: str) -> int | None:
    """A started engine, kept as long as the process; None when it is not installed. Raises LibraryError."""
    lib = library()
    found = lib.ENGINE_by_id(name.encode())
    if not found:
        _said()
        return None
    chosen = not module or lib.ENGINE_ctrl_cmd_string(found, b"MODULE_PATH", module.encode(), 0)
    if not chosen or not lib.ENGINE_init(found):
        error = LibraryError(f"the engine {name} does not start")
        lib.ENGINE_free(found)
        raise error
    return int(found)


def from_engine(handle: int, uri: str, pin: str) -> int:
    """An EVP_PKEY by an engine. pin: "" for none. Raises LibraryError."""
    lib = library()
    # Not in the URI: libp11 prints that when it fails.
    if pin:
        lib.ENGINE_ctrl_cmd_string(handle, b"PIN", pin.encode(), 0)
    key = lib.ENGINE_load_private_key(handle, uri.encode(), lib.UI_null(), None)
    if not key:
        raise LibraryError("the key cannot be opened")
    return int(key)


def public_der(key: int) -> bytes:
    """The SubjectPublicKeyInfo of an EVP_PKEY. Raises LibraryError."""
    lib, out = library(), c_void_p()
    size = lib.i2d_PUBKEY(key, ctypes.byref(out))
    if size <= 0:
        raise LibraryError("its public key cannot be read")
    try:
        return ctypes.string_at(out.value or 0, size)
    finally:
        lib.CRYPTO_free(out, b"", 0)


def sign_sha256(key: int, data: bytes) -> bytes:
    """The signature as the key's algorithm forms it: for ECDSA in DER. Raises LibraryError."""
    lib = library()
    context = lib.EVP_MD_CTX_new()
    try:
        if lib.EVP_DigestSignInit(context, None, lib.EVP_sha256(), None, key) != 1:
            raise LibraryError("the token does not sign")
        size = c_size_t(512)
        signature = ctypes.create_string_buffer(size.value)
        if lib.EVP_DigestSign(context, signature, ctypes.byref(size), data, len(data)) != 1:
            raise LibraryError("the token does not sign")
        return signature.raw[: size.value]
    finally:
        lib.EVP_MD_CTX_free(context)


def use_for_tls(context: ssl.SSLContext, certificate: str, key: int) -> None:
    """Give the key, and the certificates of a PEM file, to an ssl context. Raises LibraryError."""
    lib = library()
    # PySSLContext begins, after what every object begins with, with its SSL_CTX * (Modules/_ssl.c).
    pointer = c_void_p.from_address(id(context) + object.__basicsize__).value
    if lib.SSL_CTX_use_certificate_chain_file(pointer, certificate.encode()) != 1:
        raise LibraryError(f"{certificate}: cannot be used for TLS")
    if lib.SSL_CTX_use_PrivateKey(pointer, key) != 1 or lib.SSL_CTX_check_private_key(pointer) != 1:
        raise LibraryError(f"{certificate}: the token's key cannot be used with it")
