# The CPU image by default. Another wheel index gives another torch:
#   docker build --build-arg TORCH_INDEX_URL=<index> .
# The base is pinned by tag. For a build that can be repeated bit for bit, pin its digest as well:
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:<digest> .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/venv
# torch alone first: its layer is the large one, and it changes with constraints.txt only.
COPY constraints.txt ./
RUN /opt/venv/bin/pip install --index-url "${TORCH_INDEX_URL}" --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY service service
# pip compiles what it installs, so a read-only image starts as fast as a writable one.
RUN /opt/venv/bin/pip install --constraint constraints.txt '.[all]'

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Modelyard" \
      org.opencontainers.image.description="Trains, versions and serves PyTorch models over HTTP as data." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --system --gid 10001 modelyard \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin modelyard \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/modelyard
COPY --from=builder /opt/venv /opt/venv
# Nothing is written outside the store and /tmp: the root file system may be read-only.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MODELYARD_HOST=0.0.0.0 \
    MODELYARD_STORE=/var/lib/modelyard
# An empty folder of root's: settings also come from a `.env` in the working directory, and nobody can leave one here.
WORKDIR /opt/modelyard
VOLUME /var/lib/modelyard
EXPOSE 8000
USER 10001:10001
STOPSIGNAL SIGTERM
# Not urllib: it would ask a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('MODELYARD_PORT', '8000')), timeout=3); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["modelyard"]
CMD ["serve"]
