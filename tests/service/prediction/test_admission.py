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
    """Four places, and one second per image."""
    return Admission(ModelCapacity(4), ImageCount(), lambda ahead, images, _: float(ahead + images))


def test_bytes_and_places_are_released(budget: UploadBudget, admission: Admission) -> None:
    """What a request holds is released when it ends, also with an error."""
    with body(budget, 60), admission.admit(3):
        assert (budget.held_bytes, admission.images) == (60, 3)
    with (
        pytest.raises(ValueError, match="ends"),
        body(budget, 60),
        admission.admit(3, priority=BULK),
    ):
        raise ValueError("ends")
    assert (budget.held_bytes, admission.images) == (0, 0)


@pytest.mark.parametrize("priority", [INTERACTIVE, BULK])
def test_queue_is_filled_to_its_limit_and_not_beyond(
    admission: Admission, priority: Priority
) -> None:
    """The last place is given; one more image is rejected and changes no count."""
    with admission.admit(3):
        admission.check_queue(priority)
        with admission.admit(1, priority=priority):
            with pytest.raises(OverloadedError), admission.admit(1, priority=priority):
                pass
            with pytest.raises(OverloadedError):
                admission.check_queue(priority)
            assert admission.images == 4


def test_bulk_never_takes_the_places_of_interactive_images(admission: Admission) -> None:
    """A queue that is full of bulk images is empty for interactive ones."""
    with admission.admit(4, priority=BULK):
        admission.check_queue(INTERACTIVE)
        with admission.admit(4, priority=INTERACTIVE):
            assert admission.images == 8


def test_overload_says_when_to_retry(budget: UploadBudget, admission: Admission) -> None:
    """A rejection has Retry-After in whole seconds, by the predicted wait if images wait."""
    with body(budget, 80), pytest.raises(OverloadedError) as caught, body(budget, 50):
        pass
    assert caught.value.headers["Retry-After"] == "1"
    with admission.admit(3), pytest.raises(OverloadedError) as caught, admission.admit(2):
        pass
    assert caught.value.headers["Retry-After"] == "3"


def test_request_larger_than_the_queue_is_too_large(admission: Admission) -> None:
    """More images than the queue holds could never be admitted, so there is no Retry-After."""
    with pytest.raises(TooLargeError) as caught, admission.admit(5):
        pass
    assert caught.value.code == "too_many_images"
    assert "Retry-After" not in caught.value.headers


def test_request_that_would_miss_its_deadline_is_rejected_with_its_wait(
    admission: Admission,
) -> None:
    """Two seconds of work fit in a deadline of 2 s and not in one of 1.5 s."""
    with admission.admit(1):
        with (
            pytest.raises(OverloadedError, match=r"2,000 ms.*1,500 ms"),
            admission.admit(1, 1.5),
        ):
            pass
        with (
            pytest.raises(OverloadedError, match="2,100 ms"),
            admission.admit(1, 2.0, decode_seconds=0.1),
        ):
            pass
        with admission.admit(1, 2.0):
            assert admission.images == 2


def test_rejection_by_the_deadline_says_when_to_retry() -> None:
    """After the seconds by which the images would be late; a deadline that passed is 0 ms away."""
    admission = Admission(ModelCapacity(4), ImageCount(), lambda *_: 20.0)
    with admission.admit(1):
        for remaining, retry, milliseconds in ((5.5, "15", "5,500"), (-3.0, "23", "0")):
            with (
                pytest.raises(OverloadedError, match=f" {milliseconds} ms") as caught,
                admission.admit(1, remaining),
            ):
                pass
            assert caught.value.headers["Retry-After"] == retry


def test_an_idle_version_admits_whatever_is_predicted(admission: Admission) -> None:
    """Only a run can correct a prediction that is too high."""
    with admission.admit(1, 0.001):
        assert admission.images == 1


def test_interactive_does_not_wait_behind_bulk(admission: Admission) -> None:
    """Bulk images that wait count for bulk only: interactive images overtake them."""
    with admission.admit(3, priority=BULK):
        with pytest.raises(OverloadedError), admission.admit(1, 1.0, BULK):
            pass
        with admission.admit(1, 1.0, INTERACTIVE):
            assert admission.images == 4


def test_interactive_waits_for_the_bulk_that_runs() -> None:
    """Bulk does not fill the interactive queue, but a running bulk batch is part of the wait."""
    admission = Admission(
        ModelCapacity(4),
        ImageCount(),
        lambda ahead, images, priority: (
            float(ahead + images) + (3.0 if priority == INTERACTIVE else 0.0)
        ),
    )
    with admission.admit(4, priority=BULK):
        with (
            pytest.raises(OverloadedError, match=r"4,000 ms.*3,500 ms"),
            admission.admit(1, 3.5),
        ):
            pass
        with admission.admit(1, 4.0):
            assert admission.images == 5


def test_versions_share_the_capacity_of_their_model() -> None:
    """They do not share the wait: only images of the same version are ahead."""
    capacity = ModelCapacity(4)
    one, other = (
        Admission(capacity, ImageCount(), lambda ahead, images, _: float(ahead + images))
        for _ in range(2)
    )
    with one.admit(3), other.admit(1, 1.0):
        assert (one.images, other.images) == (3, 1)
        for admission in (one, other):
            with pytest.raises(OverloadedError, match=r"4 of 4 .* 1 "):
                admission.check_queue()
            with (
                pytest.raises(OverloadedError, match="4 of 4"),
                admission.admit(1),
            ):
                pass
    with other.admit(4):
        assert (one.images, other.images) == (0, 4)


def test_bodies_share_their_budget(budget: UploadBudget) -> None:
    """Bytes that one body holds are not available to another."""
    with body(budget, 60):
        with body(budget, 40):
            assert budget.held_bytes == 100
        with pytest.raises(OverloadedError), body(budget, 30, 11):
            pass
        assert budget.held_bytes == 60


@pytest.mark.parametrize("unit", [1, 10_000])
def test_a_body_alone_is_always_taken(unit: int) -> None:
    """A budget below the largest body must not make that body impossible."""
    budget = UploadBudget(100 * unit)
    with body(budget, 60 * unit, 60 * unit):
        assert budget.held_bytes == 120 * unit
        with pytest.raises(OverloadedError), body(budget):
            pass
