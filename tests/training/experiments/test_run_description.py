"""How an experiment was run: what its report says of data, arithmetic and commands."""

from dataclasses import replace

import pytest

from training.experiments.laboratory import Laboratory
from training.experiments.run_description import command, describe, is_cifar10, publishing


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("cifar10", True),
        ("CIFAR-10", True),
        ("CIFAR-10 (JPEG)", True),
        ("cifar100", False),
        ("cifar10-lt", False),
        ("cifar10+mine", False),
    ],
)
def test_the_paper_s_figures_stand_beside_its_own_data_alone(
    laboratory: Laboratory, name: str, *, holds: bool
) -> None:
    """Or a copy that says in brackets what is different."""
    named = replace(laboratory)
    named.__dict__["images"] = replace(laboratory.images, name=name)
    assert is_cifar10(named) is holds


def test_a_report_says_what_the_training_said(laboratory: Laboratory) -> None:
    """Sizes, length, seeds and the arithmetic of the runs, not of the machine that writes the report."""
    runs = [laboratory.train("resnet20", 0)]
    said = describe(laboratory, runs)
    assert said["data"] == "digits: 1,259 train, 179 validation, 359 test"
    assert said["length"] == "2 epochs, 12 iterations of 128 images"
    assert said["seeds"] == "0"
    assert said["arithmetic"].split(",")[0] in {"fp32", "bf16"}
    assert "None" not in said["arithmetic"]


def test_commands_name_what_a_run_depends_on_and_no_path(laboratory: Laboratory) -> None:
    """Typed again, they find the same runs."""
    other = replace(
        laboratory,
        wish=replace(
            laboratory.wish, data=("/home/somebody/pictures",), image_size=32, precision="fp32"
        ),
    )
    typed = command(other, "lesions", "--depth", "56", seeds=(0, 1))
    assert typed.startswith(
        "python -m training experiment lesions --data pictures --image-size 32 --set iterations=12 --precision fp32"
    )
    assert typed.endswith("--depth 56 --seeds 0,1")
    run = laboratory.train("resnet20", 0)
    assert (
        publishing(laboratory, run)
        == f"python -m training resume {laboratory.runs.name}/{run.directory.run_id}"
    )
