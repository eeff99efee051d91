# The images of Resident. `docker build .` builds `service`; `--target` builds another:
#   service      serves on CPUs: no compiler, PyTorch, load tests or pip
#   service-gpu  the same with ONNX Runtime for CUDA
#   training     trains and publishes, with PyTorch
#   proxy        nginx for TLS and several replicas (docker compose --profile proxy)
# Versions and hashes of everything that pip installs are in requirements/.

# Optional features, like --build-arg EXTRAS="grpc heif"; requirements/extras lists them.
ARG EXTRAS=
# Pin the base by digest: --build-arg BASE_IMAGE=python:3.11-slim-bookworm@sha256:…
ARG BASE_IMAGE=python:3.11-slim-bookworm

# What all stages have. `make test-containers` removes untagged images by this label.
FROM ${BASE_IMAGE} AS labelled
LABEL org.opencontainers.image.vendor=Resident \
      org.opencontainers.image.licenses=Apache-2.0

# One user for all containers, because they share the volumes. Its group is 0, so that
# `--user "$(id -u):0"` can write to new volumes too.
FROM labelled AS base
RUN useradd --system --uid 10001 --gid 0 --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin resident \
 && find /usr -depth \( -name ensurepip -o -path '*-packages/pip*' \
      -o -path '*-packages/setuptools*' -o -path '*-packages/pkg_resources*' \
      -o -path '*-packages/_distutils_hack*' -o -name distutils-precedence.pth \
      -o -path '*-packages/wheel*' -o -path '*/bin/pip*' \) \
      -exec rm -rf {} +
WORKDIR /app
# The history of an alias records LOGNAME, because a user given by `--user` has no name.
ENV PATH=/opt/resident/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LOGNAME=resident

FROM labelled AS builder
RUN python -m venv --without-pip /opt/resident
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    INSTALL="python -m pip --python /opt/resident/bin/python install --require-hashes"

# The last step removes tests and tools of dependencies that serving never imports.
FROM builder AS service-environment
COPY requirements/service.txt .
RUN $INSTALL -r service.txt
ARG EXTRAS
COPY requirements/extras extras
RUN for extra in $EXTRAS; do $INSTALL -r "extras/$extra.txt" || exit 1; done \
 && cd /opt/resident/lib/python3*/site-packages \
 && rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools \
      onnxruntime/datasets numpy/distutils numpy/f2py numpy/_core/include numpy/_core/lib \
 && find . \( -type d -name tests -o -name '*.py[ix]' \) -prune -exec rm -rf {} +

FROM builder AS service-gpu-environment
ARG EXTRAS
COPY requirements/service-gpu.txt .
COPY requirements/extras extras
RUN $INSTALL --no-deps -r service-gpu.txt \
 && for extra in $EXTRAS; do $INSTALL --no-deps -r "extras/$extra.txt" || exit 1; done

FROM builder AS training-environment
COPY requirements/training.txt .
RUN $INSTALL -r training.txt

# Byte code is compiled here: the root file system of a container is read-only.
FROM labelled AS service-code
WORKDIR /app
COPY model_store model_store
COPY service service
RUN python -m compileall -q model_store service

FROM labelled AS training-code
WORKDIR /app
COPY model_store model_store
COPY training training
RUN python -m compileall -q model_store training

FROM base AS service-base
RUN install --directory --owner 10001 --group 0 --mode 0770 /models /cache /keys
ENV SERVICE_HOST=0.0.0.0 \
    SERVICE_STORE=/models \
    SERVICE_CACHE=/cache/resident \
    SERVICE_KEYS=/keys/keys.json
USER 10001:0
EXPOSE 8000
VOLUME /models /cache /keys
# Isolated and without site-packages, the check takes about 12 ms of CPU time.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-I", "-S", "/app/service/healthcheck.py"]
ENTRYPOINT ["python", "-m", "service"]

FROM service-base AS service-gpu
COPY --from=service-gpu-environment /opt/resident /opt/resident
COPY --from=service-code /app /app
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Resident service (GPU)" \
      org.opencontainers.image.description="Serves residual image classifiers over HTTP" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION

# torch.compile needs a C compiler on a GPU.
FROM base AS training
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner 10001 --group 0 --mode 0770 /models /runs
COPY --from=training-environment /opt/resident /opt/resident
COPY --from=training-code /app /app
# The default directory of runs, `runs`, is the volume /runs.
WORKDIR /
ENV PYTHONPATH=/app HOME=/tmp SERVICE_STORE=/models
USER 10001:0
VOLUME /models /runs
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Resident training" \
      org.opencontainers.image.description="Trains residual image classifiers and publishes them" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION
ENTRYPOINT ["python", "-m", "training"]

FROM base AS proxy
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends nginx-light \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/proxy /etc/resident-proxy
USER 10001:0
EXPOSE 8443
STOPSIGNAL SIGQUIT
LABEL org.opencontainers.image.title="Resident proxy" \
      org.opencontainers.image.description="nginx: TLS and retries in front of Resident replicas"
ENTRYPOINT ["sh", "/etc/resident-proxy/start.sh"]

# The last stage is what `docker build .` builds.
FROM service-base AS service
COPY --from=service-environment /opt/resident /opt/resident
COPY --from=service-code /app /app
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Resident service" \
      org.opencontainers.image.description="Serves residual image classifiers over HTTP" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION
