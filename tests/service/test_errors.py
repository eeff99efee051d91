"""The errors of the service and their problem details."""

import pytest

from model_store import errors as store_errors
from model_store.errors import (
    ImageCorruptError,
    ImageError,
    ImageUnsupportedError,
    NotAnImageError,
    TooManyPixelsError,
)
from service import errors as service_errors
from service.errors import (
    BadRequestError,
    EveryImageFailedError,
    FailedImageError,
    OverloadedError,
    ServiceError,
    describe,
    problem,
    status_of,
)


def tree(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(kind for child in root.__subclasses__() for kind in tree(child))]


def test_docstring_lists_every_error() -> None:
    """The module's docstring names every error class with its status."""
    for kind in tree(ServiceError):
        assert kind.__name__ in (service_errors.__doc__ or "")
    for kind in tree(ServiceError)[1:]:
        if kind not in {EveryImageFailedError, FailedImageError}:
            (line,) = (
                line
                for line in (service_errors.__doc__ or "").splitlines()
                if kind.__name__ in line
            )
            assert str(int(kind.status)) in line


def test_codes_are_unique() -> None:
    """No two error classes share a default code."""
    codes = [kind.default_code for kind in tree(ServiceError)[1:]] + [
        kind.code for kind in tree(store_errors.ImageError)[1:]
    ]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotAnImageError("x"), 400),
        (ImageCorruptError("x"), 400),
        (TooManyPixelsError("x"), 413),
        (ImageUnsupportedError("x"), 415),
        (OverloadedError("x"), 429),
    ],
)
def test_each_error_has_its_status(error: ServiceError | ImageError, status: int) -> None:
    """Image errors have a status too, and are described by code, status and detail."""
    assert status_of(error) == status
    assert describe(error) == {"code": error.code, "status": status, "detail": "x"}


def test_problem_follows_rfc_9457() -> None:
    """A problem has type, title, status, detail and code; errors only for several images."""
    document = problem(413, "body_too_large", "too much")
    assert document == {
        "type": "urn:resident:error:body_too_large",
        "title": "Request Entity Too Large",
        "status": 413,
        "detail": "too much",
        "code": "body_too_large",
    }
    assert problem(400, "x", "y", [{"code": "z"}])["errors"] == [{"code": "z"}]


def test_images_that_fail_alike_share_their_status() -> None:
    """Images that fail alike share their code, others are listed in a 400."""
    alike = EveryImageFailedError([TooManyPixelsError("a"), TooManyPixelsError("b")])
    assert (alike.status, alike.code) == (413, "too_many_pixels")
    different = EveryImageFailedError(
        [TooManyPixelsError("a"), BadRequestError("b", code="malformed_base64")]
    )
    assert (different.status, different.code) == (400, "no_image_classified")
    assert [error["code"] for error in different.errors] == ["too_many_pixels", "malformed_base64"]
