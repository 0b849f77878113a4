"""A signature says who made a package, of these very bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ai.package import SIGNATURE, Package, read_package
from ai.seal import renew
from ai.signature import message, sign, signer
from config.errors import ModelError, ModelFileError

PackageMaker = Callable[..., Package]


class Keys:
    """A key pair as two PEM files."""

    def __init__(self, folder: Path, name: str) -> None:
        key = Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}.key", folder / f"{name}.pem"
        encoding = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.private.write_bytes(key.private_bytes(*encoding))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.public.write_bytes(public)


@pytest.fixture
def author(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "author")


def test_the_author_is_told_by_one_of_the_trusted_keys(
    make_package: PackageMaker, author: Keys, tmp_path: Path
) -> None:
    package, other = make_package(), Keys(tmp_path, "other")
    name = sign(package, author.private)
    again = read_package(package.folder)
    assert again.digest == package.digest
    assert signer(again, [other.public, author.public]) == name
    assert len(name) == 16
    for trusted in ([], [other.public]):
        with pytest.raises(ModelFileError, match="none of the keys"):
            signer(again, trusted)


def test_an_unsigned_or_changed_package_is_told(make_package: PackageMaker, author: Keys) -> None:
    package = make_package()
    with pytest.raises(ModelFileError, match="is not signed"):
        signer(package, [author.public])
    sign(package, author.private)
    manifest = package.folder / "model.toml"
    manifest.write_text(manifest.read_text().replace("A test.", "Another test."))
    changed = renew(package.folder, package.folder)
    with pytest.raises(ModelFileError, match="none of the keys"):
        signer(changed, [author.public])


def test_a_signature_does_not_hold_for_another_package(
    make_package: PackageMaker, author: Keys
) -> None:
    first, second = make_package(), make_package(version="1.0.1")
    assert message(first) != message(second)
    sign(first, author.private)
    (second.folder / SIGNATURE).write_bytes((first.folder / SIGNATURE).read_bytes())
    with pytest.raises(ModelFileError, match="none of the keys"):
        signer(second, [author.public])


@pytest.mark.parametrize("content", [b"", b"no base64!", b"\xff\xfe", b"AAAA\n"])
def test_what_is_no_signature_is_refused(
    make_package: PackageMaker, author: Keys, content: bytes
) -> None:
    package = make_package()
    (package.folder / SIGNATURE).write_bytes(content)
    with pytest.raises(ModelFileError):
        signer(read_package(package.folder), [author.public])


def test_a_link_is_no_signature(make_package: PackageMaker, author: Keys, tmp_path: Path) -> None:
    package = make_package()
    sign(package, author.private)
    (package.folder / SIGNATURE).rename(tmp_path / "elsewhere.sig")
    (package.folder / SIGNATURE).symlink_to(tmp_path / "elsewhere.sig")
    with pytest.raises(ModelFileError, match="leads elsewhere"):
        signer(package, [author.public])


def test_files_that_hold_no_such_key_are_named(make_package: PackageMaker, tmp_path: Path) -> None:
    package, path = make_package(), tmp_path / "key.pem"
    curve = generate_private_key(SECP256R1())
    locked = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    wrong = [
        b"no PEM",
        curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        Ed25519PrivateKey.generate().private_bytes(*locked),
    ]
    for content in wrong:
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"key\.pem"):
            sign(package, path)
    (package.folder / SIGNATURE).write_bytes(b"AAAA")
    public = curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for content in (b"no PEM", public):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"key\.pem"):
            signer(package, [path])
