# dynexport in a container, for one of three machines:
#
#   docker build -t dynexport .                                  converts; no GPU needed
#   docker build --build-arg BASE=server -t dynexport:server .   TensorRT on a GPU server
#   docker build --build-arg BASE=jetson -t dynexport:jetson .   TensorRT on a Jetson with JetPack 6
#
# BASE names one of the three stages cpu, server and jetson below; what the machines differ in stands
# there and nowhere else. docs/docker.md tells how to run them and what was tried.

ARG BASE=cpu

# Pinned by tag. To pin by digest, append what
#   docker buildx imagetools inspect IMAGE --format '{{.Manifest.Digest}}'
# prints, as in IMAGE@sha256:..., here or with --build-arg.
ARG CPU_IMAGE=python:3.11.17-slim-bookworm
# TensorRT 11.1, CUDA 13.3, Ubuntu 24.04, Python 3.12; x86-64 and Arm servers
ARG SERVER_IMAGE=nvcr.io/nvidia/tensorrt:26.07-py3
# JetPack 6: TensorRT 10.3, CUDA 12.6, Ubuntu 22.04, Python 3.10
ARG JETSON_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.4.0


# The wheel, the lists of what it needs, and a pip that is the same on every base.
FROM ${CPU_IMAGE} AS wheel
WORKDIR /source
COPY requirements.txt ./
RUN python3 -m venv /tools \
    && /tools/bin/pip install --no-cache-dir -c requirements.txt setuptools \
    && /tools/bin/pip install --no-cache-dir --no-deps --target /pip pip==26.3
COPY pyproject.toml docker/dependencies.py ./
RUN python3 dependencies.py pyproject.toml /needs
COPY README.md LICENSE ./
COPY dynexport dynexport
COPY models models
COPY calibration calibration
RUN /tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .


FROM ${CPU_IMAGE} AS cpu
ENV DYNEXPORT_EXTRAS="convert cpu rtx"


# The device side needs no PyTorch; TensorRT and its Python bindings are the image's.
FROM ${SERVER_IMAGE} AS server
ENV DYNEXPORT_EXTRAS="cpu cuda"
RUN python3 -c "import tensorrt"


FROM ${JETSON_IMAGE} AS jetson
ENV DYNEXPORT_EXTRAS="cpu cuda"
# The bindings of JetPack's own TensorRT, which PyPI does not have. Does nothing if they are there.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-libnvinfer=10.3.0.30-1+cuda12.5 \
    && rm -rf /var/lib/apt/lists/*


# Everything but dynexport itself: a change of its code neither downloads nor ships this again.
FROM ${BASE} AS environment
# PyPI's PyTorch for x86-64 brings gigabytes of CUDA; this index has the same version without.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY --from=wheel /pip /pip
COPY --from=wheel /needs /needs
COPY requirements.txt /
# The system's packages stay visible, for TensorRT's bindings. NVIDIA's images may pin packages of
# their own through PIP_CONSTRAINT: here requirements.txt does.
RUN unset PIP_CONSTRAINT \
    && python3 -m venv --without-pip --system-site-packages /opt/dynexport \
    && for name in core ${DYNEXPORT_EXTRAS}; do set -- "$@" -r "/needs/${name}.txt"; done \
    && /opt/dynexport/bin/python /pip/pip install --no-cache-dir \
       -c /requirements.txt --build-constraint /requirements.txt "$@" \
    # headers and C++ tests of PyTorch, a tenth of the image: for who compiles against it
    && rm -rf /opt/dynexport/lib/python3.*/site-packages/torch/include \
       /opt/dynexport/lib/python3.*/site-packages/torch/test


FROM ${BASE} AS image
LABEL org.opencontainers.image.title="dynexport" \
      org.opencontainers.image.description="Deploy dynamically sparse vision models" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
# The number is clear of those that the bases give away; on a Jetson, the group video owns the GPU.
RUN useradd --uid 10001 --user-group --no-create-home --groups video dynexport \
    && install --directory --owner dynexport --group dynexport /work
COPY --from=environment /opt/dynexport /opt/dynexport
RUN --mount=type=bind,from=wheel,source=/pip,target=/pip \
    --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/dynexport/bin/python /pip/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
# Caches go where any user may write, whoever `docker run --user` names.
ENV PATH=/opt/dynexport/bin:${PATH} HOME=/tmp
# By number, so that a cluster can see that it is not root; without a group, so that video counts.
USER 10001
WORKDIR /work
VOLUME /work
HEALTHCHECK --interval=5m --timeout=1m CMD ["dynexport", "doctor"]
ENTRYPOINT ["dynexport"]
CMD ["--help"]
