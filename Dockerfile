# The images of Muslin's services: ipam, endpoint, policy, node, and cli for jobs and operators (make images).
#
# BASE is any Debian or Ubuntu that has python3, 3.11 or later; another registry's copy of it will do as well.
ARG BASE=python:3.12-slim

# What the others take from: the virtual environment, and the plugin, one static file if this Python can be built in.
FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      gcc libc6-dev libexpat1-dev libpython3-dev python3 python3-venv zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml requirements.lock ./
COPY docker/environment.sh docker/
RUN docker/environment.sh dependencies /opt/muslin \
 && docker/environment.sh certs /opt/muslin /opt/certs
COPY LICENSE README.md ./
COPY muslin muslin
COPY services services
COPY shim shim
COPY scripts/build_shim.py scripts/
RUN docker/environment.sh muslin /opt/muslin \
 && /opt/muslin/bin/python scripts/build_shim.py --auto

FROM ${BASE} AS runtime
COPY --from=build /opt/muslin /opt/muslin
COPY muslin/rpc/probe.py /opt/muslin/bin/muslin-probe
RUN install -d -o 65532 -g 65532 -m 0700 /run/muslin /var/lib/muslin
ENV PATH=/opt/muslin/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
WORKDIR /
USER 65532:65532

FROM runtime AS ipam
ENTRYPOINT ["python", "-P", "-m", "services.ipam"]
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s CMD ["muslin-probe", "/run/muslin/ipam.sock"]

FROM runtime AS endpoint
ENTRYPOINT ["python", "-P", "-m", "services.endpoint"]
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s CMD ["muslin-probe", "/run/muslin/endpoint.sock"]

FROM runtime AS policy
ENTRYPOINT ["python", "-P", "-m", "services.policy"]
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s CMD ["muslin-probe", "/run/muslin/policy.sock"]

# Root, for netlink and nf_tables; which capabilities that leaves it is said where it is run.
FROM runtime AS node
USER root
RUN install -d -o root -g root -m 0700 /run/muslin /var/lib/muslin /var/log/muslin
COPY --from=build /src/build/cni/muslin /opt/cni/bin/muslin
# On a cluster's node the host's plugins are mounted over these: from here they are installed there.
COPY --from=build /src/build/cni/muslin /usr/local/lib/muslin/muslin
COPY docker/status.sh /usr/local/bin/muslin-status
# For `muslin cluster node`, whose PYTHONPATH this is.
COPY --from=build /opt/certs /opt/certs
COPY docker/machine.sh /usr/local/bin/muslin-machine
ENTRYPOINT ["python", "-P", "-m", "services.node"]
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s CMD ["muslin-probe", "/run/muslin/muslin.sock"]

# What makes certificates is here, and for nodes' own keys in the image of nodes.
FROM runtime AS cli
COPY --from=build /opt/certs /opt/certs
COPY docker/operator.sh /usr/local/bin/muslin-operator
ENV PYTHONPATH=/opt/certs
ENTRYPOINT ["muslin"]
