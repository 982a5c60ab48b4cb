# etcd from Debian's packages, for docker/etcd.Dockerfile where its public image can not be had.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends etcd-client etcd-server \
 && rm -rf /var/lib/apt/lists/* \
 && ln -s /usr/bin/etcd /usr/bin/etcdctl /usr/local/bin/
