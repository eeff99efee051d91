"""Images per second under full load: the machine's limits, Resident and its peers."""

from collections.abc import Sequence

import numpy as np
from contenders import Contender, Limit, RoundResult, Served, measure_in_rounds
from machine import cores
from options import Options
from results import spread, table, write_section
from sides import MAX_BATCH_SIZE, OURS
from workloads import Workload, resnet20, resnet50

HEAD = (
    "side",
    "how it runs",
    "images/s",
    "of ONNX Runtime alone",
    "speed of Resident relative to it",
    "core ms per image",
    "p50 ms",
    "p99 ms",
    "MB",
    "failed",
)
METHOD = (
    "Full load of `wrk` (one thread) on the same cores, which sends the same images repeatedly. "
    "Each side is restarted for each round, warmed up and measured for {seconds:g} s; sides "
    "alternate (A B C ...), n = {rounds}. Median (minimum to maximum). Ratios are computed round "
    "by round, against the limit of the same precision. Peers that batch take up to {batch}. "
    "All sides run in the fastest of a few setups (workers x threads) and answer every image like "
    "the model's file. Core ms are the CPU time of a side on all cores, without `wrk`. MB are "
    "proportional: shared memory counts once."
)


def measure_resnet20(options: Options) -> None:
    """Measure with 32 and 64 connections."""
    workload = resnet20()
    peers = [Served(peer, workload, options) for peer in options.peers]
    _measure([*_ours_and_limits(workload, options), *peers], (32, 64), options)


def measure_resnet50(options: Options) -> None:
    """Measure fp32 and INT8 in one run, for twice the time."""
    options = options.with_seconds_times(2)
    fp32, int8 = resnet50(), resnet50("int8")
    peers = [Served(peer, fp32, options) for peer in options.peers]
    _measure(
        [*_ours_and_limits(fp32, options), *_ours_and_limits(int8, options), *peers], (16,), options
    )


def _measure(contenders: Sequence[Contender], connections: Sequence[int], options: Options) -> None:
    figures, missing = measure_in_rounds(contenders, connections, options.rounds)
    lines = [
        METHOD.format(seconds=options.seconds, rounds=options.rounds, batch=MAX_BATCH_SIZE),
        "",
    ]
    for place, number in enumerate(connections):
        at = {key: [each[place] for each in rounds] for key, rounds in figures.items()}
        lines += [f"### {number} connections", "", *_report(contenders, at)]
    lines += [f"Missing: {name} {why}.\n" for name, why in missing.items()]
    write_section(contenders[0].workload.title, lines)


def _ours_and_limits(workload: Workload, options: Options) -> list[Contender]:
    return [
        Limit(workload, options, decode=False),
        Limit(workload, options, decode=True),
        Served(OURS, workload, options),
    ]


def _report(contenders: Sequence[Contender], figures: dict[str, list[RoundResult]]) -> list[str]:
    rates = {
        key: np.array([figure.images_per_second for figure in rounds])
        for key, rounds in figures.items()
    }
    rows = []
    for contender in contenders:
        if contender.key not in figures:
            continue
        precision, own = contender.workload.precision, rates[contender.key]
        ours = rates.get(f"{OURS.key}-{precision}")
        served = isinstance(contender, Served)
        rows.append(
            [
                f"{contender.name}, {precision}",
                contender.how,
                spread(own, "{:.0f}" if own.max() > 200 else "{:.1f}"),
                spread(own / rates[f"raw-{precision}"]),
                ""
                if ours is None or contender.key == f"{OURS.key}-{precision}"
                else spread(ours / own),
                spread(np.array([figure.core_milliseconds for figure in figures[contender.key]])),
                *(
                    _median(figures[contender.key], name) if served else ""
                    for name in ("p50", "p99", "megabytes")
                ),
                str(sum(figure.failed for figure in figures[contender.key])) if served else "",
            ]
        )
    costs = {
        key: np.array([figure.core_milliseconds for figure in rounds])
        for key, rounds in figures.items()
    }
    verdicts = [
        line
        for precision in ("fp32", "int8")
        for line in _verdict(contenders, rates, costs, precision)
    ]
    return [*table(HEAD, rows), "", *verdicts]


def _verdict(
    contenders: Sequence[Contender],
    rates: dict[str, np.ndarray],
    costs: dict[str, np.ndarray],
    precision: str,
) -> list[str]:
    ours = rates.get(f"{OURS.key}-{precision}")
    if ours is None:
        return []
    raw, decode = rates[f"raw-{precision}"], rates[f"decode-{precision}"]
    cost = 1e3 * cores() * (1 / ours - 1 / raw)
    extra = costs[f"{OURS.key}-{precision}"] - costs[f"raw-{precision}"]
    text = (
        f"Resident in {precision}: {spread(ours / raw)} of the throughput of ONNX Runtime alone, "
        f"{spread(ours / decode)} of decoding + ONNX Runtime. A request uses {spread(cost)} ms "
        f"of core more than the model alone with `wrk`, and {spread(extra)} ms without"
    )
    peers = [
        each
        for each in contenders
        if isinstance(each, Served) and each.side is not OURS and each.key in rates
    ]
    if peers:
        best = max(peers, key=lambda peer: float(np.median(rates[peer.key])))
        text += f". It has {spread(ours / rates[best.key])} times the throughput of the best peer "
        text += f"({best.name}, {best.workload.precision})"
    return [f"**{text}.**", ""]


def _median(rounds: Sequence[RoundResult], name: str) -> str:
    return f"{np.median([getattr(each, name) for each in rounds]):.3g}"
