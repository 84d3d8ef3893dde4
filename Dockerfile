# One image for all services, and a second target with the traffic tools of the robot factory.
#   docker build -t sluice:0.1.0 --target sluice .
#   docker build -t sluice-plant:0.1.0 --target sluice --build-arg REQUIREMENTS=plant .   # with `sluice plant`
#   docker build -t sluice-factory:0.1.0 --target factory .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# The build backend is not pinned by hash, so it is installed in a stage of its own.
FROM ${PYTHON_IMAGE} AS wheel
# The time of everything that is built here, so that the same sources give the same layers.
ARG SOURCE_DATE_EPOCH=1700000000
WORKDIR /src
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --quiet "setuptools>=77" wheel
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY services services
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv /opt/sluice
# What all images need comes first, so that they share its layers.
# Compile for a quick start, except for 1,500 types of Kubernetes's client that are never loaded.
COPY requirements/services.txt ./
RUN /opt/sluice/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes -r services.txt \
 && /opt/sluice/bin/python -m compileall -q --invalidation-mode unchecked-hash \
      -x '/(pip|setuptools)/|/kubernetes/(aio/)?client/(api|models)/(?!__init__)' /opt/sluice/lib
ARG REQUIREMENTS=services
COPY requirements/${REQUIREMENTS}.txt requirements.txt
RUN cmp -s services.txt requirements.txt || { touch before \
 && /opt/sluice/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes -r requirements.txt \
 && find /opt/sluice/lib -name '*.py' -cnewer before \
    | /opt/sluice/bin/python -m compileall -q --invalidation-mode unchecked-hash -i -; }
ARG SOURCE_DATE_EPOCH=1700000000
COPY --from=wheel /wheels /wheels
RUN /opt/sluice/bin/pip install --no-cache-dir --no-compile --no-deps --disable-pip-version-check /wheels/*.whl \
 && /opt/sluice/bin/pip uninstall --yes --quiet setuptools pip \
 && /opt/sluice/bin/python -m compileall -q --invalidation-mode unchecked-hash \
      /opt/sluice/lib/python3.*/site-packages/services /opt/sluice/lib/python3.*/site-packages/schemas \
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
