"""Builds the graph to serve. A change is kept only if the scores still match the reference."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import onnx

from model_store.errors import ModelRunError
from model_store.manifest import Outputs, Preprocessing
from model_store.preprocessing import Pixels
from model_store.session import Logits
from training.errors import ForeignModelError
from training.gates.checks import LOGIT_TOLERANCE, scaled_difference
from training.importing.assembly import assemble
from training.importing.candidate import input_size_of, open_session
from training.importing.foreign_file import ForeignFile
from training.importing.foreign_graph import fold_constants, free_batch, upgrade
from training.importing.head import PooledHead, find_pooled_head, find_score_output
from training.importing.import_report import ImportReport
from training.importing.input_spec import InputSpec
from training.run.inference import run_in_batches
from training.steps.export import EXPORT_MAX_BATCH_SIZE, OUTPUT_NAMES

TEST_BATCH: Final = 3  # not 1, and rarely the batch that a file fixes


@dataclass(frozen=True)
class ServedGraphBuilder:
    """Builds graphs from a file and compares their scores on the probes with `expected`."""

    file: ForeignFile
    output: str
    input_spec: InputSpec
    preprocessing: Preprocessing
    probes: Pixels
    expected: Logits
    kind: Literal["logits", "probabilities"]

    def prepare_network(self, report: ImportReport) -> tuple[onnx.ModelProto, int]:
        """The upgraded network without preamble, and its maximum batch size.

        The batch is free if the graph allows it, otherwise 1. Raises ForeignModelError if the
        network's scores do not match the reference in any batch size.
        """
        fixed = self.file.input.shape[0] if self.file.input.shape else None
        network = fold_constants(upgrade(self.file, report), report)
        checked = f"each of {TEST_BATCH} images in one batch gets its own scores"
        if self._agrees(network, TEST_BATCH):
            source = "the batch size is dynamic in the file"
            if fixed is not None:
                source = f"the file states {fixed}, but nothing in the graph needs it"
            report.add("batch", "free", "checked", f"{source}; {checked}")
            return network, EXPORT_MAX_BATCH_SIZE
        freed = onnx.ModelProto()
        freed.CopyFrom(network)
        if free_batch(freed, fixed or 1) and self._agrees(freed, TEST_BATCH):
            evidence = f"reshapes to a batch of {fixed or 1} were freed; {checked}"
            report.add("batch", "free", "changed", evidence)
            return freed, EXPORT_MAX_BATCH_SIZE
        dynamic = any(node.op_type == "DynamicQuantizeLinear" for node in network.graph.node)
        if self._agrees(network, 1):
            evidence = "the graph works for single images only; export it with a dynamic batch size"
            if dynamic:
                evidence = (
                    "the file is dynamically quantized: the images of a batch would share the "
                    "range of their activations; import the float file and use `quantize`"
                )
            report.add("batch", "1", "missing", evidence)
            return network, 1
        if dynamic:
            raise ForeignModelError(
                f"{self.file.path} is dynamically quantized (DynamicQuantizeLinear): it rounds "
                "activations to the range of each input, so small float differences change its "
                "scores too much to verify a copy; import the float file and use `quantize`"
            )
        if fixed is not None and fixed > 1:
            raise ForeignModelError(
                f"{self.file.path} works in batches of {fixed} only, and single images must be "
                "possible; export it with a dynamic batch size"
            )
        raise ForeignModelError(
            f"{self.file.path} returns other scores after the upgrade from opset "
            f"{self.file.opset}; export it with another opset"
        )

    def find_head(
        self, network: onnx.ModelProto, report: ImportReport
    ) -> tuple[PooledHead, float] | None:
        """The pooled head and its error, if pooled features x weight + bias are the logits."""
        logits = find_score_output(network.graph, self.output).logits
        head = find_pooled_head(network.graph, logits, self.expected.shape[1])
        if isinstance(head, str):
            reason = head
        else:
            try:
                error = self._identity_error(network, head)
            except (ModelRunError, ForeignModelError) as problem:
                reason = str(problem).splitlines()[0]
            else:
                if error <= LOGIT_TOLERANCE:
                    layer = f"a {head.layout} map and one linear layer"
                    if head.class_maps:
                        layer = "one map per class"
                    evidence = f"{layer}; mean x weight + bias are the logits within {error:.2g}"
                    report.add("features", head.features, "checked", evidence)
                    return head, error
                reason = (
                    f"mean({head.features}) x weight + bias differ from the logits by "
                    f"{error:.3g}, more than {LOGIT_TOLERANCE:.3g}"
                )
        report.add("features", "none", "missing", f"no class-activation maps: {reason}")
        return None

    def build(self, network: onnx.ModelProto, head: PooledHead | None) -> tuple[bytes, Outputs]:
        logits, features, embedding = OUTPUT_NAMES
        model = assemble(
            network,
            self.file.input.name,
            self.input_spec,
            input_size_of(self.preprocessing),
            find_score_output(network.graph, self.output).logits,
            self.expected.shape[1],
            head,
        )
        outputs = Outputs(logits=logits, kind=self.kind)
        if head:
            outputs = Outputs(logits=logits, kind=self.kind, features=features, embedding=embedding)
        return model.SerializeToString(deterministic=True), outputs

    def _identity_error(self, network: onnx.ModelProto, head: PooledHead) -> float:
        model, outputs = self.build(network, head)
        session = open_session(model, input_size_of(self.preprocessing), outputs)
        maps = np.concatenate(
            [session.run_with_features(probe[np.newaxis])[1] for probe in self.probes]
        )
        channels = head.weight.shape[1]
        if maps.ndim != 4 or maps.shape[1] != channels:
            raise ForeignModelError(
                f"{head.features} has the shape {list(maps.shape[1:])} per image, expected a map "
                f"of {channels} channels"
            )
        embeddings = np.concatenate(
            [session.run_with_embedding(probe[np.newaxis])[1] for probe in self.probes]
        )
        return max(
            scaled_difference(pooled @ head.weight.T + head.bias, self.expected)
            for pooled in (maps.mean((2, 3)), embeddings)
        )

    def _agrees(self, network: onnx.ModelProto, size: int) -> bool:
        """Whether the network's scores in batches of this size match the reference."""
        model, outputs = self.build(network, None)
        try:
            session = open_session(model, input_size_of(self.preprocessing), outputs)
            scores = run_in_batches(session, self.probes, size)
        except ModelRunError:
            return False
        if scores.shape != self.expected.shape:
            return False
        return scaled_difference(scores, self.expected) <= LOGIT_TOLERANCE
