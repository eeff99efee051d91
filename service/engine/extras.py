"""The outputs of a model that only some requests ask for.

A batch is run with those that its images ask for, and each combination is one number.
"""

from typing import Final

Extras = int  # not an enum: those take microseconds per image
NO_EXTRAS: Final[Extras] = 0
EMBEDDING: Final[Extras] = 1
FEATURES: Final[Extras] = 2
ALL_EXTRAS: Final[tuple[Extras, ...]] = (NO_EXTRAS, EMBEDDING, FEATURES, EMBEDDING | FEATURES)
