"""The errors of training, one tree.

::

    TrainingError
    ├── DataError           the data can not be trained on as it is
    ├── RecipeError         a recipe file with an unknown or missing value
    ├── RunError            a run's directory is missing a step, or was made with another configuration
    ├── DivergedError       the loss is not finite any more
    ├── InterruptedRunError a person or a supervisor stopped the run; its checkpoint is written
    ├── ResumeProofError    a killed and resumed training did not come to the same bits
    ├── InitialWeightsError          weights to begin with that can not be had, or are another network's
    ├── CalibrationError    another run's values that do not hold for this one
    ├── ExportError         the exported graph is not the contract's
    ├── ForeignModelError   a foreign network (or what came with it) that can not be imported as it is
    ├── QuantizationError       a version that can not be had in another precision, or not here
    └── GateError           a check failed that nobody waived: nothing was published
"""


class TrainingError(Exception):
    """Root of the tree: the command line shows these in one line, without a traceback."""


class DataError(TrainingError):
    """The data can not be trained on as it is."""


class RecipeError(TrainingError):
    """A recipe with an unknown, missing or impossible value."""


class RunError(TrainingError):
    """A run's directory that lacks what a step needs, or belongs to another configuration."""


class DivergedError(TrainingError):
    """The loss became NaN or infinite."""


class InterruptedRunError(TrainingError):
    """The run was stopped on purpose, after its checkpoint was written."""


class ResumeProofError(TrainingError):
    """A training that was killed and resumed did not come to the weights of an unbroken one."""


class InitialWeightsError(TrainingError):
    """Weights to begin with that can not be had, or are another network's."""


class CalibrationError(TrainingError):
    """Another run's calibration that can not be taken, or does not hold on this run's test split."""


class ExportError(TrainingError):
    """The exported graph does not follow the contract of a version."""


class ForeignModelError(TrainingError):
    """A foreign network, or what came with it, that can not be imported as it is."""


class QuantizationError(TrainingError):
    """A version that can not be computed in another precision, or whose labelled images are not known."""


class GateError(TrainingError):
    """A check failed that nobody waived; nothing was published."""
