"""Who made a package: a detached Ed25519 signature (RFC 8032) over its digest.

What is signed is ``medai-node model package``, the reference and the digest in hex, each ended by a
line feed; ``model.sig`` holds the 64 bytes in base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from ai.package import SIGNATURE, Package
from config.errors import ModelError, ModelFileError


def message(package: Package) -> bytes:
    """The bytes that are signed; the digest covers every file, ``model.toml`` among them."""
    lines = ("medai-node model package", package.manifest.reference, package.digest)
    return "".join(f"{line}\n" for line in lines).encode()


def sign(package: Package, private_key: Path) -> str:
    """Writes ``model.sig`` into the package; gives the name of the key.

    Args:
        package: As its author seals it.
        private_key: An Ed25519 key, PEM (PKCS #8), without a password.

    Raises:
        ModelError: The file holds no such key.
        OSError: The key cannot be read, or the signature not written.
    """
    try:
        key = load_pem_private_key(private_key.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ModelError(f"{private_key} holds no private key without a password, PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelError(f"{private_key} is no Ed25519 key")
    made = base64.b64encode(key.sign(message(package))) + b"\n"
    (package.folder / SIGNATURE).write_bytes(made)
    return key_name(key.public_key())


def signer(package: Package, trusted: Sequence[Path]) -> str:
    """The name of the trusted key that signed a package.

    Args:
        package: Any package.
        trusted: Files with one Ed25519 public key each, PEM.

    Raises:
        ModelFileError: It is not signed, or by none of these keys.
        ModelError: A file holds no such key.
        OSError: A file cannot be read.
    """
    reference, found = package.manifest.reference, package.signature()
    if found is None:
        raise ModelFileError(f"{reference} is not signed")
    try:
        signature = base64.b64decode(found.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ModelFileError(f"{SIGNATURE} of {reference} is no signature") from error
    for path in trusted:
        key = _public_key(path)
        try:
            key.verify(signature, message(package))
        except InvalidSignature:
            continue
        return key_name(key)
    raise ModelFileError(f"{reference} is signed by none of the keys that are trusted here")


def key_name(key: Ed25519PublicKey) -> str:
    """How a key is called in lists and in the audit chain: SHA-256 of its 32 bytes, shortened."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ModelError(f"{path} holds no public key, PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ModelError(f"{path} is no Ed25519 key")
    return key
