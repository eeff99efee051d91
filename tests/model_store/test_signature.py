"""Signed versions open; unsigned, changed and foreign ones are refused."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from signing_keys import write_keys
from store_factory import PLAIN_FILES, plain_fields, publish_plain, rewrite_manifest

from model_store.__main__ import main
from model_store.errors import KeyFileError, ManifestError, SignatureError
from model_store.manifest import SIGNATURE_NAME
from model_store.signature import SigningKey, TrustedKeys
from model_store.store import ModelStore


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "publisher")


def signing(store: ModelStore, private: Path) -> ModelStore:
    return ModelStore(store.root, builtin_root=None, signing_key=SigningKey.read(private))


def trusting(store: ModelStore, public: Path) -> ModelStore:
    return ModelStore(store.root, builtin_root=None, trusted_keys=TrustedKeys.read(public))


def test_signed_version_opens(store: ModelStore, keys: tuple[Path, Path]) -> None:
    """With the key, and also without: the signature is no unlisted file."""
    private, public = keys
    number = publish_plain(signing(store, private))
    for reader in (store, trusting(store, public)):
        with reader.open("m", number) as version:
            assert version.digest


def test_unsigned_version_is_refused(store: ModelStore, keys: tuple[Path, Path]) -> None:
    number = publish_plain(store)
    with pytest.raises(SignatureError, match="not signed"):
        trusting(store, keys[1]).open("m", number)


def test_version_of_another_publisher_is_refused(
    store: ModelStore, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    stranger, _ = write_keys(tmp_path, "stranger")
    number = publish_plain(signing(store, stranger))
    with pytest.raises(SignatureError, match="not trusted"):
        trusting(store, keys[1]).open("m", number)


@pytest.mark.parametrize("damage", ["manifest", "signature", "short", "long", "link", "folder"])
def test_changed_version_is_refused(
    store: ModelStore, keys: tuple[Path, Path], damage: str
) -> None:
    number = publish_plain(signing(store, keys[0]))
    directory = store.root / "m" / str(number)
    signature = directory / SIGNATURE_NAME
    data = signature.read_bytes()
    if damage == "manifest":
        rewrite_manifest(directory, {"class_names": ["other", "names"]})
    elif damage == "signature":
        signature.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif damage == "short":
        signature.write_bytes(data[:-1])
    elif damage == "long":
        signature.write_bytes(data + b"\0")
    else:
        signature.unlink()
        if damage == "link":
            (directory.parent / "elsewhere").write_bytes(data)
            signature.symlink_to(directory.parent / "elsewhere")
        else:
            signature.mkdir()
    with pytest.raises(SignatureError):
        trusting(store, keys[1]).open("m", number)


def test_version_copied_under_another_model_is_refused(
    store: ModelStore, keys: tuple[Path, Path]
) -> None:
    """Its signature is good, but it was signed as a version of another model."""
    number = publish_plain(signing(store, keys[0]))
    shutil.copytree(store.root / "m", store.root / "other")
    with pytest.raises(ManifestError, match="'m'"):
        trusting(store, keys[1]).open("other", number)


def test_signature_of_another_version_is_refused(
    store: ModelStore, keys: tuple[Path, Path]
) -> None:
    first = publish_plain(signing(store, keys[0]))
    second = publish_plain(store, class_names=("other", "names"))
    folder = store.root / "m"
    shutil.copy(folder / str(first) / SIGNATURE_NAME, folder / str(second))
    with pytest.raises(SignatureError):
        trusting(store, keys[1]).open("m", second)


def test_keys_rotate(store: ModelStore, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """While both keys are trusted, versions of both serve; then only those of the new one."""
    new_private, new_public = write_keys(tmp_path, "new")
    old = publish_plain(signing(store, keys[0]))
    new = publish_plain(signing(store, new_private))
    both = tmp_path / "both.pem"
    both.write_bytes(keys[1].read_bytes() + b"\n" + new_public.read_bytes())
    for number in (old, new):
        trusting(store, both).open("m", number).close()
    trusting(store, new_public).open("m", new).close()
    with pytest.raises(SignatureError):
        trusting(store, new_public).open("m", old)


def test_mounted_secret_may_be_a_link(
    store: ModelStore, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """As Kubernetes mounts them."""
    link = tmp_path / "link.pem"
    link.symlink_to(keys[1])
    assert trusting(store, link)


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "stranger"])
def test_verify_checks_signatures(
    store: ModelStore, keys: tuple[Path, Path], tmp_path: Path, *, trusted: bool
) -> None:
    """`model_store verify --public-key` fails for a version of another publisher."""
    private = keys[0] if trusted else write_keys(tmp_path, "stranger")[0]
    publish_plain(signing(store, private))
    command = ["--store", str(store.root), "verify", "m", "--no-run", "--json"]
    result = CliRunner().invoke(main, [*command, "--public-key", str(keys[1])])
    assert result.exit_code == (0 if trusted else 1)
    assert json.loads(result.stdout)[0].get("error") == (None if trusted else "SignatureError")


def encrypted_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def other_kind() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "content", [b"", b"no key", encrypted_key(), other_kind(), b"x" * 65537, None]
)
def test_unusable_key_file(tmp_path: Path, content: bytes | None) -> None:
    """Each file is read as a private and as a public key. `None` stands for a missing file."""
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyFileError, match=r"key\.pem"):
        SigningKey.read(path)
    with pytest.raises(KeyFileError, match=r"key\.pem"):
        TrustedKeys.read(path)


def test_private_key_is_no_public_key(keys: tuple[Path, Path]) -> None:
    """Nor the reverse. Public keys with text after them are rejected too."""
    private, public = keys
    with pytest.raises(KeyFileError):
        TrustedKeys.read(private)
    with pytest.raises(KeyFileError):
        SigningKey.read(public)
    public.write_bytes(public.read_bytes() + b"# old key\n")
    with pytest.raises(KeyFileError):
        TrustedKeys.read(public)


def test_no_file_of_a_version_is_named_as_its_signature(store: ModelStore) -> None:
    with pytest.raises(ManifestError, match=SIGNATURE_NAME):
        store.publish("m", plain_fields(), {**PLAIN_FILES, SIGNATURE_NAME: b"x"})
