"""The original file as its maker ran it: ONNX Runtime and numpy, and nothing of the graph that is served."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from model_store.preprocessing import Pixels
from model_store.session import Logits
from training.errors import ForeignModelError
from training.importing.foreign_file import ForeignFile
from training.importing.foreign_graph import OLDEST_RUN, quiet_options, upgrade
from training.importing.head import Answer
from training.importing.import_report import ImportReport
from training.importing.input_spec import Convention


class OriginalFile:
    """Answers for uint8 RGB images `[n, h, w, 3]` under any convention, in batches of the size that the file asks for."""

    def __init__(self, file: ForeignFile, answer: Answer, report: ImportReport) -> None:
        """Load the file; one too old for ONNX Runtime is upgraded, and nothing else, first. Raises ForeignModelError."""
        proto = onnx.ModelProto()
        if file.opset >= OLDEST_RUN:
            proto.CopyFrom(file.proto)
        else:
            proto.CopyFrom(upgrade(file, ImportReport("")))
            reason = f"nothing here computes opset {file.opset}, so answers are held against the upgraded file, not the file itself"
            report.add("the upgrade", "right", "assumed", reason)
        self._input, self._answer = file.input, answer
        self._names = [answer.output]
        if answer.before_softmax:
            self._names.append(answer.before_softmax)
            if answer.before_softmax not in {value.name for value in proto.graph.output}:
                proto.graph.output.append(onnx.ValueInfoProto(name=answer.before_softmax))
        try:
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(), quiet_options(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            raise ForeignModelError(
                f"{file.path} can not be run: {str(error).splitlines()[0][:300]}"
            ) from error
        self._batch = file.input.shape[0] if file.input.shape and file.opset >= OLDEST_RUN else None

    def run(self, pixels: Pixels, convention: Convention) -> tuple[Logits, Logits]:
        """Logits and the file's own output, float32 `[n, classes]`: two of the same where it closes with no softmax."""
        size = self._batch or 1
        chunks = [
            self._run_one(pixels[start : start + size], size, convention)
            for start in range(0, len(pixels), size)
        ]
        output, *before = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        return before[0] if before else output, output

    def _run_one(self, pixels: Pixels, size: int, convention: Convention) -> list[Logits]:
        padded = np.concatenate([pixels, np.repeat(pixels[-1:], size - len(pixels), axis=0)])
        try:
            results: list[NDArray[Any]] = self._session.run(
                self._names, {self._input.name: convention.apply(padded)}
            )
        except Exception as error:  # as above
            shape = convention.apply(padded).shape
            raise ForeignModelError(
                f"the network can not be run on an input of {list(shape)}: {str(error).splitlines()[0][:300]}; "
                "--size and --layout say what it takes"
            ) from error
        return [
            np.asarray(result, np.float32).reshape(size, -1)[: len(pixels)] for result in results
        ]
