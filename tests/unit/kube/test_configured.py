"""The credentials that a CNI configuration names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from muslin.cni.netconf import Kubernetes, parse
from muslin.errors import InvalidArgument, NotFound
from muslin.kube.configured import loader
from tests.unit.kube.test_kubeconfig import config


def read(**sections: Any) -> Kubernetes:
    return parse(json.dumps({"name": "net", "type": "calico", **sections}).encode()).kubernetes


def test_the_keys() -> None:
    """Those of `policy` count before those of `kubernetes`; what Calico allows behind the server is cut off."""
    policy = {"type": "k8s", "k8s_api_root": "https://a:6443/api/v1/", "k8s_auth_token": "t",
              "k8s_client_certificate": "/c", "k8s_client_key": "/k", "k8s_certificate_authority": "/ca"}
    kubernetes = {"kubeconfig": "/etc/kubernetes/kubelet.conf", "k8s_api_root": "https://b"}
    assert read(policy=policy, kubernetes=kubernetes) == Kubernetes(
        "/etc/kubernetes/kubelet.conf", "https://a:6443", "t", "/c", "/k", "/ca")
    assert read(kubernetes=kubernetes).api_root == "https://b"
    assert read() == Kubernetes()
    assert "t" not in repr(Kubernetes(auth_token="t")).removeprefix("Kubernetes").split("auth_token")


@pytest.mark.parametrize(("given", "root"), [
    ("https://a", "https://a"), ("https://a/", "https://a"), ("https://a/api", "https://a"),
    ("https://a/api/v1", "https://a"), ("https://a/prefix/api/v1/", "https://a/prefix"),
    ("https://a/apical", "https://a/apical")])
def test_what_is_cut_off(given: str, root: str) -> None:
    assert read(policy={"k8s_api_root": given}).api_root == root


@pytest.mark.parametrize("key", ["k8s_api_root", "k8s_auth_token", "k8s_client_certificate", "k8s_client_key",
                                 "k8s_certificate_authority"])
def test_what_is_no_string_is_named_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"policy\.{key} must be a string, not a number"):
        read(policy={key: 12345})


def test_none_is_named() -> None:
    assert loader(Kubernetes(auth_token="t")) is None


def test_each_overrides_what_the_kubeconfig_says(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("pem")
    path = config(tmp_path, {"token": "theirs"}, {"server": "https://x", "insecure-skip-tls-verify": True})
    plain = loader(Kubernetes(kubeconfig=str(path)))
    assert plain is not None
    assert (plain().server, plain().token, plain().insecure) == ("https://x", "theirs", True)
    pem = str(tmp_path / "pem")
    load = loader(Kubernetes(str(path), "https://y", "mine", pem, pem, pem))
    assert load is not None
    access = load()
    assert (access.server, access.token, access.certificate, access.key, access.ca, access.insecure) == (
        "https://y", "mine", b"pem", b"pem", b"pem", False)


def test_files_that_are_missing_are_named_with_their_key(tmp_path: Path) -> None:
    for key, field in (("policy.k8s_client_key", "client_key"), ("policy.k8s_certificate_authority",
                                                                  "certificate_authority")):
        load = loader(Kubernetes(api_root="https://x", **{field: str(tmp_path / "none")}))
        assert load is not None
        with pytest.raises(NotFound, match=f"{key}: .*none does not exist"):
            load()
