# One image for all services, and a second target with the traffic tools of the robot factory.
#   docker build -t sluice:0.1.0 --target sluice .
#   docker build -t sluice-plant:0.1.0 --target sluice --build-arg REQUIREMENTS=plant .   # with `sluice plant`
#   docker build -t sluice-factory:0.1.0 --target factory .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG REQUIREMENTS=services
# The time of everything that is built here, so that the same sources give the same layers.
ARG SOURCE_DATE_EPOCH=1700000000
WORKDIR /src
RUN python3 -m venv /opt/sluice
COPY requirements/${REQUIREMENTS}.txt requirements.txt
RUN /opt/sluice/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY services services
# The build backend is not pinned by hash, so it is installed in this stage only.
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --quiet "setuptools>=77" wheel \
 && /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/sluice/bin/pip install --no-cache-dir --no-compile --no-deps /wheels/*.whl \
 && /opt/sluice/bin/pip uninstall --yes --quiet setuptools pip \
 # Compile for a quick start, except for 1,500 types of Kubernetes's client that are never loaded.
 && /opt/sluice/bin/python -m compileall -q --invalidation-mode unchecked-hash \
      -x '/kubernetes/(aio/)?client/(api|models)/(?!__init__)' /opt/sluice/lib \
 && find /opt/sluice -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

FROM ${PYTHON_IMAGE} AS sluice
COPY --from=build /opt/sluice /opt/sluice
ENV PATH=/opt/sluice/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MALLOC_ARENA_MAX=2
USER 65532:65532
ENTRYPOINT ["sluice"]

FROM ${PYTHON_IMAGE} AS factory
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends iperf3 && rm -rf /var/lib/apt/lists/*
USER 65532:65532
CMD ["iperf3", "--version"]
