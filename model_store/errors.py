"""The errors of the model store, one tree.

::

    ModelStoreError
    ├── StoreUnreadableError        the root (or a model's folder) can not be listed
    ├── InvalidNameError            a model, alias or version name that is not canonical
    ├── ModelNotFoundError
    ├── VersionNotFoundError
    ├── AliasError                  no such alias, nothing to roll back to, a damaged event
    │   └── StoreReadOnlyError      the alias can not be moved, for the store can not be written from here
    ├── ManifestError               not JSON, an unknown field, a value out of its domain, another schema version
    ├── VersionCorruptError         what lies on disk is not what was sealed
    │   ├── FileMissingError
    │   ├── FileAlteredError        size or sha256 differ
    │   ├── FileUnlistedError       something was added after the seal
    │   └── PathEscapesError        a path or link that leaves the version's directory
    ├── PublishError
    ├── ModelRunError               ONNX Runtime refuses the file, or its inputs and outputs are not the manifest's
    ├── ProviderError               an execution provider that is not installed or does not start
    ├── ProofError
    │   ├── DecodeProofError        a stored image does not decode to the stored pixels
    │   └── NumericsProofError      stored pixels do not give training's logits
    └── ImageError                  bytes that are not an image we can classify; each class carries a stable `code`
        ├── NotAnImageError
        ├── ImageTruncatedError
        ├── ImageCorruptError
        ├── ImageUnsupportedError
        └── TooManyPixelsError
"""


class ModelStoreError(Exception):
    """Root of the tree: catch this to catch everything that the store raises on purpose."""


class StoreUnreadableError(ModelStoreError):
    """The store can not be listed. Never reported as an empty store: that would unload every model."""


class InvalidNameError(ModelStoreError):
    """A name that is not canonical, so two spellings could mean one thing."""


class ModelNotFoundError(ModelStoreError):
    """No published and no built-in version of this model."""


class VersionNotFoundError(ModelStoreError):
    """The model exists, this version of it does not."""


class AliasError(ModelStoreError):
    """An alias that does not exist, can not be moved as asked, or whose history is damaged."""


class StoreReadOnlyError(AliasError):
    """An alias that can not be moved because the store can not be written from here."""


class ManifestError(ModelStoreError):
    """A manifest that does not follow the contract; the message names the field."""


class VersionCorruptError(ModelStoreError):
    """A version whose files are not the ones that were sealed."""


class FileMissingError(VersionCorruptError):
    """The manifest lists a file that is not there."""


class FileAlteredError(VersionCorruptError):
    """A file's size or sha256 is not the sealed one."""


class FileUnlistedError(VersionCorruptError):
    """A file that the manifest does not list: a sealed version never grows."""


class PathEscapesError(VersionCorruptError):
    """A path or link that leads out of the version's directory."""


class PublishError(ModelStoreError):
    """A version that could not be published; the store is as it was."""


class ModelRunError(ModelStoreError):
    """ONNX Runtime can not load or run the model, or its signature is not the manifest's."""


class ProviderError(ModelStoreError):
    """An execution provider that was asked for by name and is not to be had; the message says what to install."""


class ProofError(ModelStoreError):
    """The golden proof failed: this version would not answer here as it did in training."""


class DecodeProofError(ProofError):
    """A stored image, decoded here, is not the image that training saw."""


class NumericsProofError(ProofError):
    """Stored pixels, run here, do not give the logits that training gave."""


class ImageError(ModelStoreError):
    """Bytes that can not be classified. `code` is stable: clients may match on it."""

    code = "image_error"


class NotAnImageError(ImageError):
    """No known image signature."""

    code = "not_an_image"


class ImageTruncatedError(ImageError):
    """The image's data ends before the image does."""

    code = "truncated_image"


class ImageCorruptError(ImageError):
    """A known signature, but the data behind it can not be decoded."""

    code = "corrupt_image"


class ImageUnsupportedError(ImageError):
    """A real image of a kind that we do not decode (HEIC, 32-bit pixels, Lab)."""

    code = "unsupported_image"


class TooManyPixelsError(ImageError):
    """More pixels than allowed, by the header alone or after the resize."""

    code = "too_many_pixels"
