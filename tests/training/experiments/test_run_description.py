"""Data, arithmetic and commands that a report states."""

from dataclasses import replace

import pytest

from training.experiments.laboratory import Laboratory
from training.experiments.run_description import (
    describe_runs,
    experiment_command,
    is_cifar10,
    publish_command,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", True),
        ("CIFAR-10", True),
        ("CIFAR-10 (JPEG)", True),
        ("cifar100", False),
        ("cifar10-lt", False),
        ("cifar10+mine", False),
    ],
)
def test_only_cifar10_and_its_copies_are_compared_with_the_paper(
    laboratory: Laboratory, name: str, *, expected: bool
) -> None:
    named = replace(laboratory)
    named.__dict__["images"] = replace(laboratory.images, name=name)
    assert is_cifar10(named) is expected


def test_a_description_states_what_the_runs_used(laboratory: Laboratory) -> None:
    description = describe_runs(laboratory, [laboratory.train("resnet20", 0)])
    assert description["data"] == "digits: 1,259 train, 179 validation, 359 test"
    assert description["length"] == "2 epochs, 12 iterations of 128 images"
    assert description["seeds"] == "0"
    assert description["arithmetic"].split(",")[0] in {"fp32", "bf16"}
    assert "None" not in description["arithmetic"]


def test_commands_state_all_options_and_no_path(laboratory: Laboratory) -> None:
    request = replace(
        laboratory.request, data=("/home/somebody/images",), image_size=(32, 32), precision="fp32"
    )
    other = replace(laboratory, request=request)
    assert experiment_command(other, "ablation", "--depth", 56, seeds=(0, 1)) == (
        "python -m training experiment ablation --data images --image-size 32 "
        "--set iterations=12 --precision fp32 --depth 56 --seeds 0,1"
    )
    run = laboratory.train("resnet20", 0)
    expected = f"python -m training resume {laboratory.runs.name}/{run.directory.run_id}"
    assert publish_command(laboratory, run) == expected
