"""Responses: output strength of the layers (He et al. 2015, section 4.2, figure 7)."""

from collections.abc import Sequence

from training.experiments.experiment_report import ExperimentReport, ReportSection
from training.experiments.laboratory import TWIN_FAMILIES, Laboratory
from training.experiments.responses_figures import draw_responses, layer_table, summary_table
from training.experiments.responses_measurements import measure_network
from training.experiments.responses_verdicts import CLAIM, METHOD, SOURCES, verdicts
from training.experiments.run_description import describe_runs, experiment_command
from training.experiments.sample_images import SampleTestImages
from training.statistics import join_values


def run_experiment(
    laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int], images: int
) -> ExperimentReport:
    """Train the networks and measure their responses. Raises TrainingError."""
    names = [f"{family}{depth}" for depth in depths for family in TWIN_FAMILIES]
    runs = laboratory.train_all(names, seeds)
    test_images = SampleTestImages(laboratory, runs[names[0], seeds[0]], images)
    responses = [
        measure_network(laboratory, [runs[name, seed] for seed in seeds], test_images)
        for name in names
    ]
    mean = "" if len(seeds) == 1 else "; means over the seeds"
    arguments = ("--depths", join_values(depths, ","), "--images", images)
    return ExperimentReport(
        name="responses",
        title="Responses: how much does each layer change?",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(responses),
        sections=[
            ReportSection(
                "Responses of the layers",
                [METHOD.format(len(test_images))],
                [
                    draw_responses(
                        "responses-in-order",
                        f"Responses in the order of the layers, plain networks dashed{mean}",
                        responses,
                    ),
                    draw_responses(
                        "responses-by-size",
                        f"Responses from large to small, plain networks dashed{mean}",
                        responses,
                        by_size=True,
                    ),
                ],
                [summary_table(responses)],
                [layer_table(responses, seeds)],
            )
        ],
        run_description=describe_runs(laboratory, runs.values()),
        commands=[experiment_command(laboratory, "responses", *arguments, seeds=seeds)],
    )
