"""Gates: checks that an export must pass before it is published."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pydantic import ValidationError

from model_store.command_line import as_called
from model_store.files import sha256_of
from model_store.manifest import Check
from model_store.session import Session
from model_store.store import ModelStore
from training.errors import GateError, RunError
from training.gates.checks import at_least
from training.gates.parity import exploded_logits, parity_checks
from training.gates.preprocessing import accuracy_checks, golden_checks
from training.gates.vs_live_version import compare_with_live
from training.gates.vs_previous_version import SIGNIFICANCE, compare_with_previous
from training.gates.waivers import check_waivers
from training.run.data import RunData
from training.run.directory import Run, damaged_file_error
from training.run.weights import PREVIOUS_WEIGHTS
from training.steps.density import DENSITY_RECORD, read_density
from training.steps.export import CLASSIFIER_FILE, MODEL_FILE, OUTPUTS, graph_files, model_input
from training.steps.golden import GOLDEN_FILE, read_golden

GATES_FILE: Final = "gates.json"
NOT_WORSE_CHECK: Final = "not_worse"


def gate(
    run: Run,
    data: RunData,
    waivers: Mapping[str, str] | None = None,
    store: ModelStore | None = None,
) -> tuple[Check, ...]:
    """Run all checks, and write `gates.json` with the digests of the checked files and notices.

    Args:
        run: A run that has been exported.
        data: Its data.
        waivers: Reasons by the names of checks that may fail.
        store: The store whose live version the export is compared with.

    Raises:
        GateError: A waiver names an unknown check.
        ModelStoreError: The live version cannot be read.
    """
    waivers = waivers or {}
    check_waivers(waivers)
    digests, notices = _digests(run), list(exploded_logits(run))
    session = Session(run.file(MODEL_FILE, "export"), model_input(run), OUTPUTS)
    results = [
        *parity_checks(run, data, session),
        *accuracy_checks(run, data, session),
        *golden_checks(run, data, session),
        *_density_checks(run),
        *_retraining_checks(run, data),
        *(compare_with_live(run, data, session, store, notices.append) if store else ()),
    ]
    checks = apply_waivers(results, waivers)
    dumped = [check.model_dump() for check in checks]
    run.write_json(GATES_FILE, {"files": digests, "checks": dumped, "notices": notices})
    return checks


def read_notices(run: Run) -> tuple[str, ...]:
    """Return the notices of `gate` for the user; call `read_checks` first."""
    return tuple(run.read_json(GATES_FILE, "gate").get("notices", ()))


def apply_waivers(checks: Iterable[Check], waivers: Mapping[str, str]) -> tuple[Check, ...]:
    """Return the checks. Each failed check that has a waiver gets its reason."""
    return tuple(
        check
        if check.passed or check.check not in waivers
        else check.model_copy(update={"waived": waivers[check.check]})
        for check in checks
    )


def read_checks(run: Run) -> tuple[Check, ...]:
    """Return the results of `gate` for the files as they are now.

    Raises:
        RunError: `gate` has not run, or a file has changed since.
    """
    values = run.read_json(GATES_FILE, "gate")
    try:
        gated = values["files"]
        checks = tuple(Check.model_validate(check) for check in values["checks"])
    except (KeyError, TypeError, ValidationError) as error:
        raise damaged_file_error(run.path / GATES_FILE, error) from None
    if changed := sorted(
        name for name, digest in _digests(run).items() if gated.get(name) != digest
    ):
        raise RunError(
            f"{', '.join(changed)} changed after the gates; "
            f"run `{as_called('training gate')} {run.path}` again"
        )
    return checks


def require_passed(checks: tuple[Check, ...]) -> None:
    """Raise GateError if a check failed and was not waived."""
    if failed := [check.check for check in checks if not check.passed and not check.waived]:
        raise GateError(
            f"not published: {', '.join(failed)} failed. Fix the cause, or publish with "
            f"--waive {failed[0]}='REASON'"
        )


def _digests(run: Run) -> dict[str, str]:
    """Return the hex SHA-256 of each file that a publish would seal."""
    images = [path for block in read_golden(run) for path in (block.image, block.pixels)]
    density = read_density(run).density
    files = [DENSITY_RECORD, density.file] if density else []
    return {
        name: sha256_of(run.file(name, "export"))
        for name in (*graph_files(run), CLASSIFIER_FILE, GOLDEN_FILE, *images, *files)
    }


def _density_checks(run: Run) -> Iterator[Check]:
    fitted = read_density(run)
    if fitted.density and fitted.check:
        yield fitted.check


def _retraining_checks(run: Run, data: RunData) -> Iterator[Check]:
    if run.has(PREVIOUS_WEIGHTS):
        comparison = compare_with_previous(run, data)
        detail = (
            f"probability of {comparison.lost} losses against {comparison.gained} gains if the "
            "model is no worse than the previous version (McNemar, one-sided)"
        )
        yield at_least(NOT_WORSE_CHECK, comparison.p_worse, SIGNIFICANCE, detail)
