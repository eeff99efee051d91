"""The served side of an ONNX import: the free batch and the pooled head, each tried and kept only where numbers agree."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import onnx

from model_store.errors import ModelRunError
from model_store.manifest import Outputs, Preprocessing
from model_store.preprocessing import Pixels
from model_store.session import Logits
from training.errors import ForeignModelError
from training.gates.gate import EXPORT_MAX_BATCH_SIZE
from training.importing.assembly import assemble
from training.importing.candidate import input_of, open_session
from training.importing.foreign_file import ForeignFile
from training.importing.foreign_graph import fold, free_batch, upgrade
from training.importing.head import PooledHead, find_answer, find_pooled_head
from training.importing.import_report import ImportReport
from training.importing.input_spec import Convention
from training.importing.probes import tolerance_of
from training.run.inference import run_in_batches
from training.steps.export import OUTPUT_NAMES

TRIED_BATCH: Final = 3  # neither one nor, mostly, the file's own


@dataclass(frozen=True)
class ServedGraph:
    """Makes served graphs of a file, and holds them against what the original answers (`expected`) for the probes."""

    file: ForeignFile
    output: str
    convention: Convention
    spec: Preprocessing
    probes: Pixels
    expected: Logits
    kind: Literal["logits", "probabilities"]

    def find_network(self, report: ImportReport) -> tuple[onnx.ModelProto, int]:
        """The network without preamble, and the batches that it takes: any where the graph allows it, else single images.

        Raises ForeignModelError where it answers otherwise than the original.
        """
        fixed = self.file.input.shape[0] if self.file.input.shape else None
        network = fold(upgrade(self.file, report), report)
        checked = f"{TRIED_BATCH} images at once get their own answers"
        if self._agrees(network, TRIED_BATCH):
            said = (
                "the file leaves it free"
                if fixed is None
                else f"the file fixes it at {fixed}, and nothing in the graph needs that"
            )
            report.add("batch", "free", "checked", f"{said}; {checked}")
            return network, EXPORT_MAX_BATCH_SIZE
        freed = onnx.ModelProto()
        freed.CopyFrom(network)
        if free_batch(freed, fixed or 1) and self._agrees(freed, TRIED_BATCH):
            report.add(
                "batch",
                "free",
                "changed",
                f"reshapes to a batch of {fixed or 1} were freed; {checked}",
            )
            return freed, EXPORT_MAX_BATCH_SIZE
        if self._agrees(network, 1):
            advice = "the graph works for single images alone, which is slow under load; export it with a free batch"
            report.add("batch", "1", "missing", advice)
            return network, 1
        reason = "brought up to date it answers otherwise than before; export it with another opset"
        if fixed is not None and fixed > 1:
            reason = f"it works in batches of {fixed} alone; export it with a free batch"
        raise ForeignModelError(f"{self.file.path}: {reason}")

    def find_head(
        self, network: onnx.ModelProto, report: ImportReport
    ) -> tuple[PooledHead, float] | None:
        """The pooled head and its error, where the graph has one and mean(features) x weight + bias are the logits."""
        head = find_pooled_head(
            network.graph, find_answer(network.graph, self.output).logits, self.expected.shape[1]
        )
        if not isinstance(head, str):
            try:
                error, bound = self._identity_error(network, head), tolerance_of(self.expected)
            except (ModelRunError, ForeignModelError) as problem:
                head = str(problem).splitlines()[0]
            else:
                if error <= bound:
                    layer = (
                        "the maps are the classes' own"
                        if head.own_maps
                        else f"a {head.layout} map through one linear layer"
                    )
                    evidence = f"{layer}; mean x weight + bias are the logits within {error:.2g}"
                    report.add("features", head.features, "checked", evidence)
                    return head, error
                head = f"mean({head.features}) x weight + bias are off the logits by {error:.3g}, allowed is {bound:.3g}"
        report.add("features", "none", "missing", f"no class-activation maps: {head}")
        return None

    def assemble(self, network: onnx.ModelProto, head: PooledHead | None) -> tuple[bytes, Outputs]:
        """The served graph's bytes, and what its outputs are called."""
        logits, features = OUTPUT_NAMES
        value, classes = find_answer(network.graph, self.output).logits, self.expected.shape[1]
        model = assemble(
            network,
            self.file.input.name,
            self.convention,
            input_of(self.spec),
            value,
            classes,
            head,
        )
        outputs = Outputs(logits=logits, kind=self.kind, features=features if head else None)
        return model.SerializeToString(deterministic=True), outputs

    def _identity_error(self, network: onnx.ModelProto, head: PooledHead) -> float:
        model, outputs = self.assemble(network, head)
        session = open_session(model, input_of(self.spec), outputs)
        maps = np.concatenate(
            [session.run_with_features(probe[np.newaxis])[1] for probe in self.probes]
        )
        channels = head.weight.shape[1]
        if maps.ndim != 4 or maps.shape[1] != channels:
            raise ForeignModelError(
                f"{head.features} is {list(maps.shape[1:])} for an image, no map of {channels} channels"
            )
        return float(np.abs(maps.mean((2, 3)) @ head.weight.T + head.bias - self.expected).max())

    def _agrees(self, network: onnx.ModelProto, size: int) -> bool:
        """Whether batches of this size get the original's answers."""
        model, outputs = self.assemble(network, None)
        try:
            found = run_in_batches(
                open_session(model, input_of(self.spec), outputs), self.probes, size
            )
        except ModelRunError:
            return False
        return found.shape == self.expected.shape and bool(
            np.abs(found - self.expected).max() <= tolerance_of(self.expected)
        )
