"""The service's settings: each one a variable, a flag, and a sentence of advice."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_store.preprocessing import DEFAULT_MAX_PIXELS, PILLOW_MAX_PIXELS
from model_store.store import DEFAULT_ROOT
from service.keys import default_path
from service.precision import PrecisionWish
from service.version_policy import PolicyText

MEBIBYTE = 1024 * 1024


class Settings(BaseSettings):
    """Serve the models of a store over HTTP. Every flag is also a variable: --max-body-bytes is SERVICE_MAX_BODY_BYTES.

    Another command: python -m service keys --help
    """

    model_config = SettingsConfigDict(
        env_prefix="SERVICE_", frozen=True, cli_prog_name="python -m service", cli_kebab_case=True, cli_hide_none_type=True
    )

    host: Annotated[str, Field(description="Address to listen on. 0.0.0.0 opens the service to your network.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")] = 8000
    store: Annotated[
        Path, Field(description="The model store's root. The built-in models lie under it, so an empty one serves too.")
    ] = DEFAULT_ROOT
    store_poll_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="How often the store is looked at for new versions and moved aliases. 0 looks only at the start.",
        ),
    ] = 2.0
    builtin: Annotated[bool, Field(description="Also serve the models that ship with the project.")] = True
    version_policy: Annotated[
        PolicyText,
        Field(
            description="Which versions of a model serve: alias:production (what the alias names, else the newest), "
            "latest:2, versions:1,4 or all. Every version costs memory."
        ),
    ] = "alias:production"
    default_model: Annotated[
        str | None,
        Field(description="The model of /v1/predict. Unset: your only published model, or the built-in one where there is none."),
    ] = None
    keys: Annotated[
        Path,
        Field(
            description="The file of keys that python -m service keys writes. Without a key of scope manage no one loads or "
            "promotes over HTTP; with one of scope predict, predicting needs one too."
        ),
    ] = Field(default_factory=default_path)
    max_body_bytes: Annotated[
        int, Field(ge=1, description="Largest request body. A phone's photo has 3 to 12 MB; base64 adds a third.")
    ] = 32 * MEBIBYTE
    max_upload_bytes: Annotated[
        int, Field(ge=1, description="Bytes of all bodies held at once; more is refused before it is read. Bounds memory.")
    ] = 256 * MEBIBYTE
    max_pixels: Annotated[
        int,
        Field(
            ge=1,
            le=PILLOW_MAX_PIXELS,
            description="Pixels of one image, by its header. A decode worker needs up to 16 bytes for each.",
        ),
    ] = DEFAULT_MAX_PIXELS
    max_images: Annotated[int, Field(ge=1, description="Images in one request. Clients with more send several requests.")] = 64
    max_queue_size: Annotated[
        int, Field(ge=1, description="Images of open requests. More are refused with 429 instead of waiting in vain.")
    ] = 512
    max_batch_size: Annotated[
        int, Field(ge=1, description="Upper bound of a batch; the model's own bound counts where it is lower.")
    ] = 32
    max_queue_delay_seconds: Annotated[
        float,
        Field(ge=0, le=10, description="How long a batch may wait to fill. Leave it 0: batches grow by themselves under load."),
    ] = 0.0
    deadline_seconds: Annotated[
        float, Field(gt=0, description="A request that is not answered by then gets 504, and its images are not computed.")
    ] = 30.0
    body_timeout_seconds: Annotated[
        float, Field(gt=0, description="How long a client may take over its headers, and then over its body; slow senders get 408.")
    ] = 30.0
    shutdown_seconds: Annotated[
        int, Field(ge=0, description="How long open requests may take to end after SIGTERM. Below your supervisor's kill time.")
    ] = 20
    instances: Annotated[
        int | None, Field(ge=1, description="Concurrent runs of a model. Unset: one a CPU of the container, the best throughput.")
    ] = None
    intra_op_num_threads: Annotated[
        int, Field(ge=1, description="Threads of one run. More than 1 serves a lone client faster and many clients slower.")
    ] = 1
    precision: Annotated[
        PrecisionWish,
        Field(
            description="Which variant of a version answers: auto takes the fastest that holds here, measured as it loads; one "
            "that is named and lacking, or fails here, gives way to fp32. Name one where replicas must answer alike."
        ),
    ] = "auto"
    decode_workers: Annotated[
        int | None, Field(ge=1, description="Threads that decode large images. Unset: one a CPU of the container.")
    ] = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="How much is logged to stderr.")] = "info"
    access_log: Annotated[bool, Field(description="One log line a request; costs some throughput under full load.")] = True
