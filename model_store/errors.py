"""The exceptions of the model store.

::

    ModelStoreError
    ├── StoreUnreadableError
    ├── InvalidNameError
    ├── ModelNotFoundError
    ├── VersionNotFoundError
    ├── AliasError
    │   └── StoreReadOnlyError
    ├── ManifestError
    ├── VersionCorruptError
    │   ├── FileMissingError
    │   ├── FileAlteredError
    │   ├── FileUnlistedError
    │   └── PathEscapesError
    ├── SignatureError
    ├── KeyFileError
    ├── PublishError
    ├── ModelRunError
    ├── ProviderError
    ├── ProofError
    │   ├── DecodeProofError
    │   └── NumericsProofError
    └── ImageError
        ├── NotAnImageError
        ├── ImageTruncatedError
        ├── ImageCorruptError
        ├── ImageUnsupportedError
        ├── ImageTooExpensiveError
        └── TooManyPixelsError
"""


class ModelStoreError(Exception):
    """Base of all exceptions that the model store raises on purpose."""


class StoreUnreadableError(ModelStoreError):
    """A directory or file of the store cannot be read. It is never treated as an empty store."""


class InvalidNameError(ModelStoreError):
    """A model, alias or version name is not valid."""


class ModelNotFoundError(ModelStoreError):
    """The model has no published and no built-in version."""


class VersionNotFoundError(ModelStoreError):
    """The model exists, but not this version."""


class AliasError(ModelStoreError):
    """An alias does not exist, cannot be moved like this, or has a damaged history."""


class StoreReadOnlyError(AliasError):
    """An alias cannot be moved, because the store is read-only for this process."""


class ManifestError(ModelStoreError):
    """A manifest is not valid. The message names the fields."""


class VersionCorruptError(ModelStoreError):
    """The files of a version are not the ones that were sealed."""


class FileMissingError(VersionCorruptError):
    """A file that the manifest lists is missing."""


class FileAlteredError(VersionCorruptError):
    """The size or the sha256 of a file is not the sealed one."""


class FileUnlistedError(VersionCorruptError):
    """A file is not listed in the manifest, so it was added after sealing."""


class PathEscapesError(VersionCorruptError):
    """A path or link leads out of the version's directory."""


class SignatureError(ModelStoreError):
    """A version is not signed with a trusted key, or was changed after it was signed."""


class KeyFileError(ModelStoreError):
    """A file of signing keys cannot be used."""


class PublishError(ModelStoreError):
    """A version could not be published. The store is unchanged."""


class ModelRunError(ModelStoreError):
    """ONNX Runtime cannot load or run the model, or its inputs or outputs are not as declared."""


class ProviderError(ModelStoreError):
    """A named execution provider is not installed or does not start."""


class ProofError(ModelStoreError):
    """The golden proof failed: the version gives other answers here than in training."""


class DecodeProofError(ProofError):
    """A golden image does not decode to the stored pixels."""


class NumericsProofError(ProofError):
    """The stored pixels of a golden image do not give the expected logits."""


class ImageError(ModelStoreError):
    """Bytes are not an image that can be classified. `code` is stable, so clients may match it."""

    code = "image_error"


class NotAnImageError(ImageError):
    """The bytes do not begin with the signature of a supported format."""

    code = "not_an_image"


class ImageTruncatedError(ImageError):
    """The data ends before the image does."""

    code = "truncated_image"


class ImageCorruptError(ImageError):
    """The format is supported, but the data cannot be decoded."""

    code = "corrupt_image"


class ImageUnsupportedError(ImageError):
    """An image of a kind that is not decoded: HEIC, 32-bit pixels, Lab."""

    code = "unsupported_image"


class TooManyPixelsError(ImageError):
    """The image has more pixels than allowed, by its header or after the resize."""

    code = "too_many_pixels"


class ImageTooExpensiveError(ImageError):
    """Decoding takes more time or memory than any real image of this size."""

    code = "image_too_expensive"
