"""Converts a version to another precision, for `quantize` and for the option `--int8`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from model_store.errors import ModelStoreError
from model_store.store import ModelStore
from model_store.version import Version
from training.display import TrainingDisplay
from training.errors import TrainingError
from training.quantization.publication import open_source_version, publish_variant
from training.quantization.quantized_variant import QuantizationSettings, QuantizedVariant
from training.quantization.refusal import describe_refusal
from training.quantization.variants import make_variant
from training.quantization.version_data import open_version_data
from training.run.data import RunData
from training.steps.publish import Published
from training.tables import sensitivity_table


def convert(
    display: TrainingDisplay,
    version: Version,
    data: RunData,
    settings: QuantizationSettings,
    waivers: Mapping[str, str],
) -> QuantizedVariant:
    """Convert a version, and print the effect on accuracy, size and speed."""
    quantized = make_variant(version, data, settings, waivers, display.count)
    if quantized.sensitivities:
        display.show(sensitivity_table(quantized.sensitivities, quantized.fp32_layers))
    display.show_checks(quantized.checks)
    display.say(quantized.describe_effect(len(data.split.test)))
    for sentence in describe_refusal(quantized, data.images, settings):
        display.say(sentence)
    return quantized


def add_int8(
    display: TrainingDisplay,
    store: ModelStore,
    model: str,
    fp32: Published,
    sources: Sequence[str],
    data_dir: Path | None = None,
    *,
    promote: bool,
) -> Published:
    """Convert the fp32 version that was just published, and publish the next version with INT8.

    If a check fails or the network cannot be converted, print why and return the fp32 version.
    """
    display.announce(f"int8 of {model}/{fp32.version}")
    try:
        with open_source_version(store, f"{model}/{fp32.version}") as version:
            data = open_version_data(version, sources, data_dir, display.count("reading"))
            quantized = convert(display, version, data, QuantizationSettings(), {})
            if quantized.passed:
                return publish_variant(version, quantized, store, promote=promote)
    except (TrainingError, ModelStoreError) as error:
        display.say(f"not converted: {error}")
    display.say(f"{model} version {fp32.version} is published in fp32 only")
    return fp32
