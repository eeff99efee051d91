"""Images a second under full load: Resident between the limits of the machine and its peers."""

from collections.abc import Sequence

import numpy as np
from contenders import Contender, Figure, Limit, Served, take_turns
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
    "Resident is x as fast",
    "core ms an image",
    "p50 ms",
    "p99 ms",
    "MB",
    "failed",
)
METHOD = (
    "Full load of `wrk` (one thread) on the same cores, which sends the same images again and again. Each side is started anew for "
    "each turn, warmed up, and measured for {seconds:g} s; sides take turns (A B C ...), n = {turns}. Median (least to most); "
    "ratios are taken turn by turn, to the limit of the same precision. Peers that batch take up to {batch} images; all run in the "
    "fastest of a few ways (workers x threads), and answer every image as the model's file does. Core ms are what a side uses of "
    "all cores together, `wrk` not among them. MB are proportional: shared memory counts once."
)


def measure_resnet20(options: Options) -> None:
    """Two loads of the same starts."""
    workload = resnet20()
    peers = [Served(peer, workload, options) for peer in options.peers]
    _measure([*_ours_and_limits(workload, options), *peers], (32, 64), options)


def measure_resnet50(options: Options) -> None:
    """fp32 and INT8 in one run, twice as long."""
    options = options.lasting(2)
    fp32, int8 = resnet50(), resnet50("int8")
    peers = [Served(peer, fp32, options) for peer in options.peers]
    _measure(
        [*_ours_and_limits(fp32, options), *_ours_and_limits(int8, options), *peers], (16,), options
    )


def _measure(contenders: Sequence[Contender], connections: Sequence[int], options: Options) -> None:
    figures, missing = take_turns(contenders, connections, options.turns)
    lines = [METHOD.format(seconds=options.seconds, turns=options.turns, batch=MAX_BATCH_SIZE), ""]
    for place, number in enumerate(connections):
        at = {key: [turn[place] for turn in turns] for key, turns in figures.items()}
        lines += [f"### {number} connections", "", *_report(contenders, at)]
    lines += [f"Missing: {name} {why}.\n" for name, why in missing.items()]
    write_section(contenders[0].workload.title, lines)


def _ours_and_limits(workload: Workload, options: Options) -> list[Contender]:
    return [
        Limit(workload, options, decode=False),
        Limit(workload, options, decode=True),
        Served(OURS, workload, options),
    ]


def _report(contenders: Sequence[Contender], figures: dict[str, list[Figure]]) -> list[str]:
    rates = {
        key: np.array([figure.images_per_second for figure in turns])
        for key, turns in figures.items()
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
                    _middle(figures[contender.key], name) if served else ""
                    for name in ("p50", "p99", "megabytes")
                ),
                str(sum(figure.failed for figure in figures[contender.key])) if served else "",
            ]
        )
    costs = {
        key: np.array([figure.core_milliseconds for figure in turns])
        for key, turns in figures.items()
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
    text = (
        f"Resident in {precision}: {spread(ours / raw)} of ONNX Runtime alone, {spread(ours / decode)} of it with decoding: "
        f"{spread(cost)} ms of core more than the model alone, a request, `wrk` among it, and "
        f"{spread(costs[f'{OURS.key}-{precision}'] - costs[f'raw-{precision}'])} without"
    )
    peers = [
        each
        for each in contenders
        if isinstance(each, Served) and each.side is not OURS and each.key in rates
    ]
    if peers:
        best = max(peers, key=lambda peer: float(np.median(rates[peer.key])))
        text += f"; {spread(ours / rates[best.key])} times the best peer ({best.name}, {best.workload.precision})"
    return [f"**{text}.**", ""]


def _middle(turns: Sequence[Figure], name: str) -> str:
    return f"{np.median([getattr(turn, name) for turn in turns]):.3g}"
