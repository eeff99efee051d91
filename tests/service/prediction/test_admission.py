"""Admission: room for bodies, and room and time for images."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.engine.priority import BULK, INTERACTIVE, ImageCount, Priority
from service.errors import OverloadedError, TooLargeError
from service.prediction.admission import Admission, ModelCapacity, UploadBudget


@contextmanager
def body(budget: UploadBudget, *chunks: int) -> Iterator[None]:
    """A body whose chunks have arrived."""
    with budget.upload() as hold:
        for chunk in chunks:
            hold(chunk)
        yield


@pytest.fixture
def budget() -> UploadBudget:
    return UploadBudget(100)


@pytest.fixture
def admission() -> Admission:
    """Four places, and a second an image."""
    return Admission(ModelCapacity(4), ImageCount(), lambda ahead, images, _: float(ahead + images))


def test_room_is_given_back(budget: UploadBudget, admission: Admission) -> None:
    """What a request held is free again when it ends, also by an error."""
    with body(budget, 60), admission.queue(3):
        assert (budget.held_bytes, admission.images) == (60, 3)
    with (
        pytest.raises(ValueError, match="ends"),
        body(budget, 60),
        admission.queue(3, priority=BULK),
    ):
        raise ValueError("ends")
    assert (budget.held_bytes, admission.images) == (0, 0)


@pytest.mark.parametrize("priority", [INTERACTIVE, BULK])
def test_queue_is_filled_to_its_limit_and_not_beyond(
    admission: Admission, priority: Priority
) -> None:
    """The last free place is given; one image more is refused, also before its body, and changes no count."""
    with admission.queue(3):
        admission.check_room(priority)
        with admission.queue(1, priority=priority):
            with pytest.raises(OverloadedError), admission.queue(1, priority=priority):
                pass
            with pytest.raises(OverloadedError):
                admission.check_room(priority)
            assert admission.images == 4


def test_bulk_never_takes_the_room_of_interactive_images(admission: Admission) -> None:
    """A queue that is full of bulk is empty for them."""
    with admission.queue(4, priority=BULK):
        admission.check_room(INTERACTIVE)
        with admission.queue(4, priority=INTERACTIVE):
            assert admission.images == 8


def test_overload_says_when_to_come_again(budget: UploadBudget, admission: Admission) -> None:
    """A refusal carries Retry-After in whole seconds: by the predicted wait where images wait."""
    with body(budget, 80), pytest.raises(OverloadedError) as caught, body(budget, 50):
        pass
    assert caught.value.headers["Retry-After"] == "1"
    with admission.queue(3), pytest.raises(OverloadedError) as caught, admission.queue(2):
        pass
    assert caught.value.headers["Retry-After"] == "3"


def test_request_that_never_fits_is_too_large(admission: Admission) -> None:
    """More images than the whole queue holds are not told to come again."""
    with pytest.raises(TooLargeError) as caught, admission.queue(5):
        pass
    assert caught.value.code == "too_many_images"


def test_what_would_be_late_is_refused_with_its_wait(admission: Admission) -> None:
    """Two seconds of work do not fit in one and a half; in two they do."""
    with admission.queue(1):
        with (
            pytest.raises(OverloadedError, match="would take 2,000 ms, and 1,500 ms are left"),
            admission.queue(1, 1.5),
        ):
            pass
        with (
            pytest.raises(OverloadedError, match="would take 2,100 ms"),
            admission.queue(1, 2.0, decode_seconds=0.1),
        ):
            pass
        with admission.queue(1, 2.0):
            assert admission.images == 2


def test_an_idle_version_is_tried_whatever_is_predicted(admission: Admission) -> None:
    """Only a run can correct a prediction that is too dark."""
    with admission.queue(1, 0.001):
        assert admission.images == 1


def test_interactive_does_not_wait_behind_bulk(admission: Admission) -> None:
    """Bulk ahead counts for bulk alone: interactive images are taken first."""
    with admission.queue(3, priority=BULK):
        with pytest.raises(OverloadedError), admission.queue(1, 1.0, BULK):
            pass
        with admission.queue(1, 1.0, INTERACTIVE):
            assert admission.images == 4


def test_interactive_waits_for_the_bulk_that_runs() -> None:
    """What bulk there is does not fill its queue, but is in the wait that is predicted."""
    admission = Admission(
        ModelCapacity(4),
        ImageCount(),
        lambda ahead, images, priority: (
            float(ahead + images) + (3.0 if priority == INTERACTIVE else 0.0)
        ),
    )
    with admission.queue(4, priority=BULK):
        with (
            pytest.raises(OverloadedError, match="would take 4,000 ms, and 3,500 ms are left"),
            admission.queue(1, 3.5),
        ):
            pass
        with admission.queue(1, 4.0):
            assert admission.images == 5


def test_versions_share_the_room_of_their_model() -> None:
    """But not the wait: only the images of a version itself are ahead of its new ones."""
    room = ModelCapacity(4)
    one, other = (
        Admission(room, ImageCount(), lambda ahead, images, _: float(ahead + images))
        for _ in range(2)
    )
    with one.queue(3), other.queue(1, 1.0):
        assert (one.images, other.images) == (3, 1)
        for admission in (one, other):
            with pytest.raises(OverloadedError, match="4 images wait already; 4 are allowed"):
                admission.check_room()
            with (
                pytest.raises(OverloadedError, match="4 images wait already, and 1 more"),
                admission.queue(1),
            ):
                pass
    with other.queue(4):
        assert (one.images, other.images) == (0, 4)


def test_bodies_share_their_budget(budget: UploadBudget) -> None:
    """What one body holds another can not, byte by byte."""
    with body(budget, 60):
        with body(budget, 40):
            assert budget.held_bytes == 100
        with pytest.raises(OverloadedError), body(budget, 30, 11):
            pass
        assert budget.held_bytes == 60


def test_a_body_alone_is_always_taken(budget: UploadBudget) -> None:
    """A budget below the largest body must not make that body impossible."""
    with body(budget, 60, 60):
        assert budget.held_bytes == 120
        with pytest.raises(OverloadedError), body(budget):
            pass
