"""The service's errors and the documents that they become."""

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
    OverloadedError,
    ServiceError,
    describe,
    problem,
    status_of,
)


def tree(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(kind for child in root.__subclasses__() for kind in tree(child))]


def test_every_error_of_the_tree_is_drawn_in_the_docstring() -> None:
    """The tree at the top of the module names every class, its status and its default code."""
    for kind in tree(ServiceError):
        assert kind.__name__ in (service_errors.__doc__ or "")
    for kind in tree(ServiceError)[1:]:
        if kind is not EveryImageFailedError:
            (line,) = (
                line
                for line in (service_errors.__doc__ or "").splitlines()
                if kind.__name__ in line
            )
            assert str(int(kind.status)) in line


def test_codes_are_unique() -> None:
    """A default code names one class of error, in the service and among the images' errors together."""
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
    """An image's error has a status too, and stands in a result as code, status and detail."""
    assert status_of(error) == status
    assert describe(error) == {"code": error.code, "status": status, "detail": "x"}


def test_problem_is_what_rfc_9457_asks() -> None:
    """A problem has type, title, status and detail, and our code; `errors` only where several images failed."""
    document = problem(413, "body_too_large", "too much")
    assert document == {
        "type": "urn:resident:error:body_too_large",
        "title": "Request Entity Too Large",
        "status": 413,
        "detail": "too much",
        "code": "body_too_large",
    }
    assert problem(400, "x", "y", [{"code": "z"}])["errors"] == [{"code": "z"}]


def test_images_that_fail_alike_give_their_own_status() -> None:
    """When every image has the same trouble the request has it; when they differ it is a 400 that lists them in order."""
    alike = EveryImageFailedError([TooManyPixelsError("a"), TooManyPixelsError("b")])
    assert (alike.status, alike.code) == (413, "too_many_pixels")
    different = EveryImageFailedError(
        [TooManyPixelsError("a"), BadRequestError("b", code="malformed_base64")]
    )
    assert (different.status, different.code) == (400, "no_image_classified")
    assert [error["code"] for error in different.errors] == ["too_many_pixels", "malformed_base64"]
