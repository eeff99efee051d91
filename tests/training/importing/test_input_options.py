"""What is said of a network's pixels, and which other readings of them are tried."""

import pytest
from onnx import TensorProto

from training.importing.input_options import other_readings
from training.importing.input_spec import Convention, PixelRange
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
            PixelRange(
                "RGB", 1.0, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)
            ),  # tf's, in grey levels
            ["BGR instead", "--preset torchvision", "--preset caffe", "--preset zero-one"],
        ),
        (
            PixelRange("RGB", 1.0, (123.68, 116.779, 103.939)),
            ["BGR instead", "--preset torchvision", "--preset tf", "--preset zero-one"],
        ),
    ],
)
def test_other_readings_differ_from_the_own_one_and_from_each_other(
    own: PixelRange, names: list[str]
) -> None:
    """The more are tried, the more must one of them be better by: the same one twice would hide a wrong one."""
    readings = other_readings(Convention("NCHW", TensorProto.FLOAT, own))
    assert list(readings) == names


def test_of_bytes_only_the_channels_can_be_turned() -> None:
    """Their range stands inside the network."""
    assert list(other_readings(Convention("NCHW", TensorProto.UINT8, PixelRange("BGR")))) == [
        "RGB instead"
    ]
