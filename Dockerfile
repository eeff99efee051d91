# The serving image: the service and the model store, without torch and load tests (.dockerignore).
# Versions and hashes are in requirements/service.txt.
FROM python:3.11-slim-bookworm AS build
COPY requirements/service.txt .
RUN python -m venv /opt/resident \
 && /opt/resident/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r service.txt

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 resident \
 && useradd --system --uid 10001 --gid resident --no-create-home --shell /usr/sbin/nologin resident \
 && install --directory --owner resident --group resident /models /cache /keys \
 && mkdir /config && ln -s /keys /config/resident
COPY --from=build /opt/resident /opt/resident
WORKDIR /app
COPY model_store model_store
COPY service service
RUN /opt/resident/bin/python -m compileall -q model_store service
ENV PATH=/opt/resident/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SERVICE_HOST=0.0.0.0 \
    SERVICE_STORE=/models \
    SERVICE_CACHE=/cache \
    XDG_CONFIG_HOME=/config
# The default file of API keys is /config/resident/keys.json, on the volume /keys. A container without keys starts; set
# SERVICE_KEYS=/keys/keys.json to make a missing file an error.
USER resident
EXPOSE 8000
VOLUME /models /cache /keys
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-m", "service.healthcheck"]
ENTRYPOINT ["python", "-m", "service"]
