# etcd as the stack runs it: not root, its data in a directory of its own.
#
# ETCD is an image with etcd and etcdctl in /usr/local/bin; docker/etcd-debian.Dockerfile makes one from any BASE.
ARG ETCD=gcr.io/etcd-development/etcd:v3.5.21
FROM ${ETCD}
COPY --chown=65532:65532 docker/etcd /
ENV ETCDCTL_API=3
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/etcd"]
