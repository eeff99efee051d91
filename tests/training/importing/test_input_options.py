"""Which alternative input specs an import tries on labelled images."""

import pytest
from onnx import TensorProto

from training.importing.input_options import alternative_specs
from training.importing.input_spec import InputSpec, PixelRange
from training.importing.presets import PRESETS


@pytest.mark.parametrize(
    ("own", "names"),
    [
        (
            PRESETS["torchvision"].range,
            ["BGR instead", "--preset caffe", "--preset tf", "--preset zero-one"],
        ),
        (
            PRESETS["minus-one-one"].range,
            ["BGR instead", "--preset torchvision", "--preset caffe", "--preset zero-one"],
        ),
        (
            # The range of the tf preset, written in grey levels.
            PixelRange("RGB", 1.0, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
            ["BGR instead", "--preset torchvision", "--preset caffe", "--preset zero-one"],
        ),
        (
            PixelRange("RGB", 1.0, (123.68, 116.779, 103.939)),
            ["BGR instead", "--preset torchvision", "--preset tf", "--preset zero-one"],
        ),
    ],
)
def test_alternatives_differ_from_the_own_spec_and_from_each_other(
    own: PixelRange, names: list[str]
) -> None:
    """Each alternative tightens the bound for all (Bonferroni), so none is tried twice."""
    specs = alternative_specs(InputSpec("NCHW", TensorProto.FLOAT, own))
    assert list(specs) == names


def test_the_only_alternative_of_a_uint8_input_is_swapped_channels() -> None:
    """The network scales its bytes itself."""
    assert list(alternative_specs(InputSpec("NCHW", TensorProto.UINT8, PixelRange("BGR")))) == [
        "RGB instead"
    ]
