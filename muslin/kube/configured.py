"""Credentials that a CNI configuration names, as Calico's plugin reads them.

`policy.k8s_*` go before what `kubernetes.kubeconfig` says, each for itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from muslin.cni.netconf import Kubernetes
from muslin.kube import kubeconfig
from muslin.kube.access import Access, Load, content, token

__all__ = ["loader"]

_SOURCE = "the CNI configuration"


def loader(conf: Kubernetes) -> Load | None:
    """Reads what the configuration names, each time anew; None if it names no API server."""
    if not conf.kubeconfig and not conf.api_root:
        return None
    return lambda: _load(conf)


def _load(conf: Kubernetes) -> Access:
    """Raises MuslinError that names the key and the file."""
    certificate, key, ca = (
        content(Path(name), what) if name else b"" for name, what in (
            (conf.client_certificate, "policy.k8s_client_certificate"), (conf.client_key, "policy.k8s_client_key"),
            (conf.certificate_authority, "policy.k8s_certificate_authority")))
    bearer = token(conf.auth_token.strip(), "policy.k8s_auth_token") if conf.auth_token else ""
    if not conf.kubeconfig:
        return Access(conf.api_root, _SOURCE, ca=ca, certificate=certificate, key=key, token=bearer)
    access = kubeconfig.load(Path(conf.kubeconfig))
    return replace(access, server=conf.api_root or access.server, ca=ca or access.ca,
                   insecure=access.insecure and not ca, certificate=certificate or access.certificate,
                   key=key or access.key, token=bearer or access.token)
