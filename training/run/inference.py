"""Runs many images in batches, through a network or an ONNX Runtime session."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from model_store.preprocessing import Pixels
from model_store.session import Embeddings, Logits, Session
from training.data.image_set import Indices
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.learning.normalization import Normalization
from training.run.data import RunData


def run_in_batches(session: Session, pixels: Pixels, batch_size: int) -> Logits:
    """Return the logits, float32 `[n, classes]`, of uint8 images `[n, height, width, 3]`."""
    return np.concatenate(
        [
            session.run(pixels[start : start + batch_size])
            for start in range(0, len(pixels), batch_size)
        ]
    )


def run_with_embeddings(
    session: Session, pixels: Pixels, batch_size: int
) -> tuple[Logits, Embeddings]:
    """Return the logits `[n, classes]` and embeddings `[n, dims]` of uint8 images."""
    logits, embeddings = zip(
        *(
            session.run_with_embedding(pixels[start : start + batch_size])
            for start in range(0, len(pixels), batch_size)
        ),
        strict=True,
    )
    return np.concatenate(logits), np.concatenate(embeddings)


@torch.inference_mode()
def predict(
    network: nn.Module,
    chunks: Iterable[Pixels],
    normalize: Normalization,
    process: DistributedProcess = SINGLE_PROCESS,
) -> Tensor:
    """Compute logits in evaluation mode and fp32.

    Args:
        network: Takes normalized images and returns logits.
        chunks: Batches of uint8 images `[k, height, width, 3]`.
        normalize: The normalization that the network was trained with.
        process: Says which device to use.

    Returns:
        float32 `[n, classes]` on the CPU.
    """
    network.eval()
    normalize = normalize.to(process.device)
    return torch.cat(
        [
            network(normalize(torch.from_numpy(chunk).to(process.device))).float().cpu()
            for chunk in chunks
        ]
    )


def predict_split(
    network: nn.Module,
    data: RunData,
    indices: Indices,
    normalize: Normalization,
    process: DistributedProcess = SINGLE_PROCESS,
) -> Tensor:
    """Compute the logits of these images, float32 `[n, classes]`; each process computes a share."""
    own = indices[process.rank :: process.world_size]
    if not len(own):
        own_logits = torch.zeros((0, len(data.images.class_names)))
    else:
        own_logits = predict(network, data.chunks(own), normalize, process)
    return process.gather_rows(own_logits, len(indices))
