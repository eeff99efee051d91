"""The reference: runs the file as its author does, in ONNX Runtime and numpy.

It shares no code with the served graph.
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from model_store.preprocessing import Pixels
from model_store.session import Logits
from training.errors import ForeignModelError
from training.importing.foreign_file import ForeignFile
from training.importing.foreign_graph import OLDEST_RUNNABLE_OPSET, quiet_session_options, upgrade
from training.importing.head import ScoreOutput
from training.importing.import_report import ImportReport
from training.importing.input_spec import InputSpec


class ReferenceModel:
    """Scores uint8 RGB images `[n, h, w, 3]` under any input spec, in the file's batch size."""

    def __init__(self, file: ForeignFile, score_output: ScoreOutput, report: ImportReport) -> None:
        """Load the file. Raises ForeignModelError if ONNX Runtime cannot.

        A file that is too old for ONNX Runtime is upgraded first. All other files stay unchanged.
        """
        proto = onnx.ModelProto()
        runnable = file.opset >= OLDEST_RUNNABLE_OPSET
        if runnable:
            proto.CopyFrom(file.proto)
        else:
            proto.CopyFrom(upgrade(file, ImportReport("")))
            reason = f"ONNX Runtime does not run opset {file.opset}; the upgraded file is compared"
            report.add("the upgrade", "correct", "assumed", reason)
        self._input = file.input
        self._outputs = [score_output.output]
        if score_output.before_softmax:
            self._outputs.append(score_output.before_softmax)
            if score_output.before_softmax not in {value.name for value in proto.graph.output}:
                proto.graph.output.append(onnx.ValueInfoProto(name=score_output.before_softmax))
        try:
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(),
                quiet_session_options(),
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            raise ForeignModelError(
                f"{file.path} cannot be run by ONNX Runtime: {str(error).splitlines()[0][:300]}; "
                "export it again"
            ) from error
        self._batch = file.input.shape[0] if file.input.shape and runnable else None

    def run(self, pixels: Pixels, input_spec: InputSpec) -> tuple[Logits, Logits]:
        """The logits and the file's own output, float32 `[n, classes]`.

        Both are the same if the file does not end in a Softmax.
        """
        size = self._batch or 1
        batches = [
            self._run_batch(pixels[start : start + size], size, input_spec)
            for start in range(0, len(pixels), size)
        ]
        output, *before = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return before[0] if before else output, output

    def _run_batch(self, pixels: Pixels, size: int, input_spec: InputSpec) -> list[Logits]:
        padded = np.concatenate([pixels, np.repeat(pixels[-1:], size - len(pixels), axis=0)])
        values = input_spec.apply(padded)
        try:
            results: list[NDArray[Any]] = self._session.run(
                self._outputs, {self._input.name: values}
            )
        except Exception as error:  # as above
            raise ForeignModelError(
                f"the network cannot be run on an input of {list(values.shape)}: "
                f"{str(error).splitlines()[0][:300]}; state its size and layout with --size and "
                "--layout"
            ) from error
        return [
            np.asarray(result, np.float32).reshape(size, -1)[: len(pixels)] for result in results
        ]
