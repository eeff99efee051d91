"""The targets of `make fuzz`, on valid inputs, on damaged ones and on what was found before."""

import sys
from pathlib import Path

import numpy as np
import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
sys.path.append(str(FUZZ))

from seeds import seeds_of  # noqa: E402  tests/fuzz has no package
from targets import TARGETS  # noqa: E402

CASES = sorted(path.relative_to(FUZZ / "cases") for path in (FUZZ / "cases").glob("*/*"))
DAMAGED = 40


@pytest.mark.parametrize("target", TARGETS)
def test_valid_and_damaged_inputs(target: str) -> None:
    """Bytes changed, inserted and cut; from a seed, so that a failure comes again."""
    generator = np.random.default_rng(list(TARGETS).index(target))
    seeds = seeds_of(target)
    for seed in seeds:
        TARGETS[target](seed)
    for _ in range(DAMAGED):
        data = bytearray(seeds[generator.integers(len(seeds))])
        for place in generator.integers(0, len(data), generator.integers(1, 6)):
            data[place] = generator.integers(0, 256)
        start, stop = sorted(generator.integers(0, len(data), 2))
        piece = data[start:stop]
        TARGETS[target](bytes(data))
        TARGETS[target](bytes(data[:stop]))
        TARGETS[target](bytes(data[:start] + piece + data[start:]))


def test_found_cases_stay_fixed() -> None:
    """Each file of `tests/fuzz/cases/TARGET` made its target fail once."""
    for case in CASES:
        TARGETS[case.parent.name]((FUZZ / "cases" / case).read_bytes())


def test_targets_have_seeds() -> None:
    assert all(seeds_of(target) for target in TARGETS)
    assert {case.parent.name for case in CASES} <= set(TARGETS)
