"""Priority of an image: interactive images run first, bulk images fill the rest of a batch."""

from typing import Final, Literal

Priority = Literal[1, 2]
INTERACTIVE: Final = 1
BULK: Final = 2
