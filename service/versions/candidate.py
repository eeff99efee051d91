"""A version to try, and the key of everything that its trial depends on."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import onnxruntime

from model_store import __version__
from model_store.graph_cache import cpu_description
from model_store.providers import describe_devices
from model_store.store import ModelStore
from service.engine.options import EngineOptions
from service.host.memory_limit import memory_limit

_FORMAT: Final = 2


@dataclass(frozen=True)
class Candidate:
    """A version to try.

    Attributes:
        store: The store that has it.
        model: The name of its model.
        number: Its number. Another number with the same digest may be damaged.
        digest: Its digest.
        options: How it is going to run, with its tuned settings.
        promotions: How often an alias was moved to it.
    """

    store: ModelStore
    model: str
    number: int
    digest: str
    options: EngineOptions
    promotions: int = 0

    @cached_property
    def key(self) -> str:
        """The sha256 of everything that the outcome of a trial depends on, but the limits."""
        options = self.options
        parts = [
            *(_FORMAT, __version__, onnxruntime.__version__, onnxruntime.get_build_info()),
            *(self.model, self.number, self.digest),
            *(cpu_description(), memory_limit(), describe_devices(options.session.providers)),
            *(options.precision, options.max_batch_size),
            *(options.session.providers, options.session.intra_op_num_threads),
            *(options.session.concurrent_runs, options.session.gpu_memory_bytes),
            options.lone_threads,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
