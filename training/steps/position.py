"""The position of a training in its run, which a checkpoint stores."""

from dataclasses import dataclass, field
from typing import Any

from training.errors import RunError
from training.learning.determinism import DeterminismInfo
from training.learning.learner import Learner
from training.run.checkpoint import CHECKPOINT_FILE, load_checkpoint
from training.run.directory import Run, damaged_file_error


@dataclass
class Position:
    """The position that a checkpoint stores. The field names are part of the checkpoint format.

    Attributes:
        step: Steps since the start of the run.
        seen: Number of images of this epoch that were trained on.
        tally: Sum of the losses and number of correct answers over these images.
        history: The metrics of each finished epoch.
    """

    step: int = 0
    seen: int = 0
    tally: list[float] = field(default_factory=lambda: [0.0, 0.0])
    history: list[dict[str, Any]] = field(default_factory=list)


def restore(run: Run, learner: Learner, determinism: DeterminismInfo) -> tuple[Position, str]:
    """Load the newest checkpoint, if there is one. Return the position and a message for the user.

    Raises:
        RunError: The checkpoint is damaged or belongs to another configuration.
    """
    state = load_checkpoint(run)
    if state is None:
        return Position(), ""
    try:
        _require_same_values(run, state["config"])
        learner.load_state_dict(state["learner"])
        differences = determinism.differences(state["environment"])
        position = Position(**state["position"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged_file_error(run.path / CHECKPOINT_FILE, error) from None
    notice = f"resumed at step {position.step}"
    if differences:
        notice += (
            "; the weights will not be bit-identical to those of an uninterrupted run, because of: "
            + ", ".join(differences)
        )
    return position, notice


def _require_same_values(run: Run, began_with: dict[str, Any]) -> None:
    values = run.config.training_values
    # The place of the data may change: `check.json` states the digest of the images.
    names = (values.keys() | began_with.keys()) - {"data"}
    if changed := sorted(name for name in names if values.get(name) != began_with.get(name)):
        raise RunError(
            f"{', '.join(changed)} in {run.path}/config.json changed since the run began. "
            "Restore the values, or start a new run"
        )
