# deepnmf in a container; docs/docker.md says how to use it.
#   docker build -t deepnmf .                       enhance on a CPU
#   docker build -t deepnmf:gpu --target gpu .      enhance, train, evaluate and export on an NVIDIA GPU
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY deepnmf_cli deepnmf_cli
COPY models models
COPY data/recipes data/recipes
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# PESQ has no wheels: its compiler stays in this stage.
FROM python:${PYTHON}-slim AS pesq
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y build-essential \
    && rm -rf /var/lib/apt/lists/* \
    && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels "pesq>=0.0.4"

FROM python:${PYTHON}-slim AS user
RUN useradd --create-home --uid 1000 deepnmf && mkdir /sound && chown deepnmf /sound
WORKDIR /sound
ENTRYPOINT ["deepnmf"]
CMD ["--help"]

# torch brings CUDA along; the driver comes from the host (docker run --gpus all).
FROM user AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=from=wheel,source=/wheels,target=/wheels --mount=from=pesq,source=/wheels,target=/pesq \
    pip install --no-cache-dir --find-links /pesq "$(echo /wheels/deepnmf-*.whl)[train,evaluate,export]"
USER 1000

FROM user AS cpu
RUN --mount=from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir /wheels/deepnmf-*.whl
USER 1000
