"""Admission: room for bodies and for images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from service.admission import Admission
from service.errors import OverloadedError, TooLargeError


@contextmanager
def body(admission: Admission, *chunks: int) -> Iterator[None]:
    """A body whose chunks have arrived."""
    with admission.upload() as hold:
        for chunk in chunks:
            hold(chunk)
        yield


@pytest.fixture
def admission() -> Admission:
    return Admission(max_upload_bytes=100, max_queue_size=4)


def test_room_is_given_back(admission: Admission) -> None:
    """What a request held is free again when it ends, also by an error."""
    with body(admission, 60), admission.queue(3):
        assert (admission.upload_bytes, admission.images) == (60, 3)
    with pytest.raises(ValueError, match="ends"), body(admission, 60), admission.queue(3):
        raise ValueError("ends")
    assert (admission.upload_bytes, admission.images) == (0, 0)


def test_queue_is_filled_to_its_limit_and_not_beyond(admission: Admission) -> None:
    """The last free place is given; one image more is refused and changes no count."""
    with admission.queue(3), admission.queue(1):
        with pytest.raises(OverloadedError), admission.queue(1):
            pass
        assert admission.images == 4


@pytest.mark.parametrize(
    "hold", [lambda admission: admission.queue(2), lambda admission: body(admission, 50)], ids=["images", "bytes"]
)
def test_overload_says_when_to_come_again(admission: Admission, hold: Callable[[Admission], object]) -> None:
    """A refusal carries Retry-After in whole seconds."""
    with admission.queue(3), body(admission, 80), pytest.raises(OverloadedError) as caught, hold(admission):
        pass
    assert int(caught.value.headers["Retry-After"]) >= 1


def test_request_that_never_fits_is_too_large(admission: Admission) -> None:
    """More images than the whole queue holds are not told to come again."""
    with pytest.raises(TooLargeError) as caught, admission.queue(5):
        pass
    assert caught.value.code == "too_many_images"


def test_bodies_share_their_budget(admission: Admission) -> None:
    """Bodies are held up to the budget together; the next is refused before it is read."""
    with body(admission, 60), body(admission, 40):
        with pytest.raises(OverloadedError), body(admission, 1):
            pass
        assert admission.upload_bytes == 100


def test_lone_body_over_the_budget_is_taken(admission: Admission) -> None:
    """A single body larger than the budget is still answered when nothing else is held: it could never come in otherwise."""
    with body(admission, 101):
        assert admission.upload_bytes == 101


def test_full_queue_refuses_bodies(admission: Admission) -> None:
    """When no image could be queued anyway, no body is read."""
    with admission.queue(4), pytest.raises(OverloadedError), body(admission, 1):
        pass
    assert admission.upload_bytes == 0


def test_a_promise_holds_no_room(admission: Admission) -> None:
    """A body of which nothing has come yet keeps no other client out."""
    with admission.upload(), body(admission, 50, 50):
        assert admission.upload_bytes == 100


def test_a_body_that_grows_past_the_budget_is_refused(admission: Admission) -> None:
    """Room is asked for chunk by chunk, and all of it is given back."""
    with body(admission, 60):
        with pytest.raises(OverloadedError), body(admission, 30, 30):
            pass
        assert admission.upload_bytes == 60
