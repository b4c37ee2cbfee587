# syntax=docker/dockerfile:1

# Postern in a container.
#
#   docker build -t postern .
#   docker run --read-only --tmpfs /tmp -v postern-data:/var/lib/postern \
#     -v ./config.yaml:/etc/postern/config.yaml:ro -e POSTERN_SECRET_KEY -p 8000:8000 postern
#
# Runs as an unprivileged user (uid 10001), writes nowhere but in /var/lib/postern, drains on SIGTERM.
# The working directory is that volume, so `store: sqlite:///data/postern.db` lies in it.  The status
# listener is loopback by default, which is where the health check asks.
# Give `docker stop` more time than `drain.delay` + `drain.timeout`: `--stop-timeout 40`.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /src

# The compiler of the hot path stays in this stage.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*

# What we stand on, first: it changes seldom.  Hashes are checked, and of it nothing is compiled from source.
COPY requirements.lock requirements-build.lock ./
# The compiler reads the types of what the hot path imports, so the builder's own environment holds it, too.
RUN python -m pip install --require-hashes --only-binary :all: -r requirements-build.lock -r requirements.lock \
 && python -m venv /opt/postern \
 && /opt/postern/bin/python -m pip install --require-hashes --only-binary :all: -r requirements.lock

COPY pyproject.toml setup.py README.md ./
COPY gateway gateway
COPY policies policies
COPY upstream_stub upstream_stub
# The wheel is built, its hot path compiled, by the pinned setuptools and mypy; then pip leaves the image's
# environment: nothing is installed there at run time.  Bytecode is written now, because nothing can be written then.
RUN POSTERN_COMPILE=1 python -m pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
 && /opt/postern/bin/python -m pip install --no-deps --no-index /wheels/postern-*.whl \
 && /opt/postern/bin/python -m pip uninstall --yes pip \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/postern/lib \
 && /opt/postern/bin/postern version

FROM python:${PYTHON}-slim
RUN groupadd --system --gid 10001 postern \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/postern --shell /usr/sbin/nologin postern \
 && install -d -m 0700 -o 10001 -g 10001 /var/lib/postern \
 && install -d -m 0755 /etc/postern
COPY --from=build /opt/postern /opt/postern
ENV PATH=/opt/postern/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/postern
VOLUME /var/lib/postern
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Without a proxy handler: a proxy named in the environment is not asked for the loopback address.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8007/status/ready', timeout=2)"]
ENTRYPOINT ["postern"]
CMD ["run", "--config", "/etc/postern/config.yaml"]
