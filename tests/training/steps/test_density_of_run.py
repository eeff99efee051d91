"""The density of a run: what happens to a network that has nearly diverged."""

import torch

from training.run.data import open_run_data
from training.run.directory import Run
from training.run.weights import BEST_WEIGHTS, read_weights, serialise
from training.steps.density import DENSITY_FILE, fit_run_density
from training.steps.export import export


def test_logits_that_overflow_in_a_square_give_no_density(run_copy: Run) -> None:
    """Logits of 1e21 are finite in float32, and their variance is not."""
    trained = read_weights(run_copy.path / BEST_WEIGHTS)
    with torch.no_grad():
        trained.network.get_parameter("fc.weight").mul_(1e21)
    run_copy.write(BEST_WEIGHTS, serialise(trained))
    export(run_copy)
    fitted = fit_run_density(run_copy, open_run_data(run_copy))
    assert fitted.density is None
    assert "overflow" in fitted.notice
    assert not (run_copy.path / DENSITY_FILE).exists()
