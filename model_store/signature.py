"""Ed25519 signatures of manifests: who published a version, and that nobody changed it since.

A manifest names its model and the sha256 of every other file, so its signature covers the whole
version. It is in `manifest.sig` beside the manifest: 64 bytes over a fixed prefix and the bytes of
`manifest.json`. Keys are PEM files, as `openssl genpkey -algorithm ed25519` writes them.

A signature does not cover the version's number or aliases. Someone who can write to the store can
still choose among the signed versions of a model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True

from model_store.errors import KeyFileError, SignatureError
from model_store.files import open_regular, read_open_file

MAX_KEY_FILE_BYTES: Final = 64 * 1024
_PURPOSE: Final = b"Resident manifest, Ed25519, format 1\n"
_PEM_END: Final = b"-----END PUBLIC KEY-----"


class SigningKey:
    """The private key of a publisher.

    Args:
        key: Its 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """Read a PEM file with an unencrypted Ed25519 private key.

        Raises:
            KeyFileError: The file cannot be read or holds something else, or the package
                `cryptography` is missing.
        """
        _require_cryptography()
        try:
            key = serialization.load_pem_private_key(_read(path), password=None)
        except (TypeError, ValueError):
            raise KeyFileError(
                f"{path} must be an unencrypted private key in PEM; make one with "
                "openssl genpkey -algorithm ed25519 -out FILE"
            ) from None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise KeyFileError(f"{path} must be an Ed25519 key, got a private key of another kind")
        return cls(key.private_bytes_raw())

    def sign(self, manifest: bytes) -> bytes:
        """The content of `manifest.sig`."""
        return ed25519.Ed25519PrivateKey.from_private_bytes(self._key).sign(_PURPOSE + manifest)


class TrustedKeys:
    """Public keys of the publishers whose versions may be opened.

    Several keys make a rotation possible: add the new key, sign with it, then take the old one out.

    Args:
        keys: 32 bytes each.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def read(cls, path: Path) -> "TrustedKeys":
        """Read a file with one or more Ed25519 public keys in PEM, one after the other.

        Raises:
            KeyFileError: The file cannot be read or contains anything but such keys, or the package
                `cryptography` is missing.
        """
        _require_cryptography()
        *blocks, rest = _read(path).split(_PEM_END)
        if not blocks or rest.strip():
            raise KeyFileError(f"{path} must hold public keys in PEM and nothing after them")
        keys = []
        for number, block in enumerate(blocks, start=1):
            try:
                key = serialization.load_pem_public_key(block.lstrip() + _PEM_END)
            except ValueError:
                raise KeyFileError(f"{path}: key {number} is not a public key in PEM") from None
            if not isinstance(key, ed25519.Ed25519PublicKey):
                raise KeyFileError(f"{path}: key {number} is not an Ed25519 key")
            keys.append(key.public_bytes_raw())
        return cls(keys)

    def check(self, version: str, manifest: bytes, signature: bytes | None) -> None:
        """Check that one of the keys signed this manifest.

        Args:
            version: Name of the version, for the message.
            manifest: The bytes of `manifest.json`.
            signature: The bytes of `manifest.sig`, or None if there is no such file.

        Raises:
            SignatureError: None of the keys signed it.
        """
        if signature is None:
            raise SignatureError(f"{version} is not signed, and only signed versions are allowed")
        if not any(_is_signed(key, signature, manifest) for key in self._keys):
            raise SignatureError(
                f"{version} is signed with a key that is not trusted, or was changed after it "
                "was signed"
            )


def _is_signed(key: bytes, signature: bytes, manifest: bytes) -> bool:
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(key).verify(signature, _PURPOSE + manifest)
    except InvalidSignature:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        with open_regular(path, follow_links=True) as file:  # mounted secrets are links
            return read_open_file(file, path, MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error


def _require_cryptography() -> None:
    if not _INSTALLED:
        raise KeyFileError("signatures need the package cryptography: pip install '.[signatures]'")
