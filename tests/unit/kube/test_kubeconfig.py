"""kubeconfigs as their users write them, and what is said about those that can not be used."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import InvalidArgument, IOFailure, MuslinError, NotFound, Unsupported
from muslin.kube.access import Access
from muslin.kube.kubeconfig import load

KUBELET = """
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: https://10.0.0.1:6443/
  name: kubernetes
contexts:
- context:
    cluster: kubernetes
    user: system:node:one
  name: system:node:one@kubernetes
current-context: system:node:one@kubernetes
kind: Config
preferences: {{}}
users:
- name: system:node:one
  user:
    client-certificate: pki/client.pem
    client-key: pki/client.pem
"""


def config(place: Path, user: Any = None, cluster: Any = None, **top: Any) -> Path:
    document = {"apiVersion": "v1", "kind": "Config", "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": "https://x:6443"} if cluster is None else cluster}],
                "users": [{"name": "u", "user": user or {}}], **top}
    path = place / "config"
    path.write_text(json.dumps(document))
    return path


def test_a_kubelets(tmp_path: Path) -> None:
    """Paths are relative to the file; data is base64."""
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki/client.pem").write_text("both")
    path = tmp_path / "kubelet.conf"
    path.write_text(KUBELET.format(ca=base64.b64encode(b"authority").decode()))
    assert load(path) == Access("https://10.0.0.1:6443", f"kubeconfig {path}", ca=b"authority", certificate=b"both",
                                key=b"both")


def test_which_of_two_counts(tmp_path: Path) -> None:
    """Data in the file before another file; a token's file before the token; no authority if none is looked at."""
    (tmp_path / "token").write_text(" from-file \n")
    data = base64.b64encode(b"inline").decode()
    access = load(config(tmp_path, {"token": "inline", "tokenFile": "token", "client-certificate-data": data,
                                    "client-certificate": "none", "client-key-data": data},
                         {"server": "https://x", "insecure-skip-tls-verify": True, "tls-server-name": "api",
                          "certificate-authority": "none"}))
    assert (access.token, access.certificate, access.insecure, access.ca, access.server_name) == (
        "from-file", b"inline", True, b"", "api")


def test_one_context_need_not_be_named(tmp_path: Path) -> None:
    assert load(config(tmp_path, **{"current-context": ""})).server == "https://x:6443"


@pytest.mark.parametrize(("changed", "kind", "message"), [
    ({"user": {"exec": {"command": "aws"}}}, Unsupported, "user.exec: programs that make credentials are not run"),
    ({"user": {"auth-provider": {"name": "x"}}}, Unsupported, "providers of credentials are not supported"),
    ({"user": {"username": "a", "password": "secret"}}, Unsupported, "names and passwords are not supported"),
    ({"user": {"as": "root"}}, Unsupported, "impersonation is not supported"),
    ({"user": {"client-certificate-data": "YQ=="}}, InvalidArgument, "there is no client key; certificate and key"),
    ({"user": {"client-key-data": "%"}}, InvalidArgument, r"client-key-data'\]: not base64"),
    ({"user": {"client-key": "none"}}, NotFound, r"client-key'\]: .*none does not exist"),
    ({"user": {"tokenFile": "."}}, InvalidArgument, "tokenFile: .* is a directory; name a file"),
    ({"user": {"tokenFile": "/dev/null"}}, InvalidArgument, "tokenFile: /dev/null is no regular file"),
    ({"user": {"tokenFile": "config/x"}}, IOFailure, "tokenFile: .*config/x: Not a directory"),
    ({"user": {"tokenFile": "config"}}, InvalidArgument, "not a token: it holds white space"),
    ({"user": {"token": "a b"}}, InvalidArgument, "not a token"),
    ({"cluster": {"server": "x:6443"}}, InvalidArgument, "server 'x:6443' is not a URL; write it as https://host:6443"),
    ({"cluster": {"server": "https://x:y"}}, InvalidArgument, "server 'https://x:y'"),
    ({"cluster": {"server": "https://a@x"}}, InvalidArgument, "a host, a port and a path, and no more"),
    ({"cluster": {}}, InvalidArgument, "cluster 'k' has no server"),
    ({"cluster": {"server": "https://x", "proxy-url": "http://p"}}, Unsupported, "proxies are not supported"),
    ({"cluster": {"server": "http://x"}, "user": {"token": "abc"}}, InvalidArgument, "a token is not sent to http://x"),
    ({"current-context": "d"}, InvalidArgument, "contexts: there is no context 'd'; there is 'c'"),
    ({"contexts": []}, InvalidArgument, "there is no context 'c'; there is none"),
    ({"contexts": [], "current-context": None}, InvalidArgument, "current-context: missing; name one of contexts"),
    ({"users": None}, InvalidArgument, "there is no user 'u'"),
    ({"apiVersion": "v2"}, InvalidArgument, "apiVersion: 'v2' is not supported; a kubeconfig says v1"),
    ({"kind": "Pod"}, InvalidArgument, "kind: 'Pod' is not supported; a kubeconfig says Config"),
])
def test_what_can_not_be_used_is_named(tmp_path: Path, changed: Any, kind: type[MuslinError], message: str) -> None:
    with pytest.raises(kind, match=message):
        load(config(tmp_path, **changed))


def test_secrets_do_not_show(tmp_path: Path) -> None:
    """Neither in an error, nor in the text of what was read."""
    secret = "s3cr3t"
    for user in ({"token": f"{secret} x"}, {"token": [secret]}, {"token": {"a": secret}}):
        with pytest.raises(InvalidArgument) as caught:
            load(config(tmp_path, user))
        assert secret not in str(caught.value)
    key = base64.b64encode(secret.encode()).decode()
    access = load(config(tmp_path, {"token": secret, "client-key-data": key, "client-certificate-data": key}))
    assert secret not in repr(access)
    assert secret not in str(access)


@pytest.mark.parametrize("content", [b"", b"---\na: 1\n---\nb: 2\n", b"[]", b"a: [", b"\xff\xfe", b"null", b"x"])
def test_what_is_no_kubeconfig(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config").write_bytes(content)
    with pytest.raises(InvalidArgument, match="kubeconfig"):
        load(tmp_path / "config")


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                        ["name", "cluster", "user", "context", "server", "token", "tokenFile", "client-key", "exec"]),
                        inner, max_size=3), max_leaves=12)


@given(clusters=JSON, users=JSON, contexts=JSON, current=JSON)
def test_whatever_is_in_it_there_is_an_error_with_a_name_or_none(
        tmp_path_factory: pytest.TempPathFactory, clusters: Any, users: Any, contexts: Any, current: Any) -> None:
    place = tmp_path_factory.mktemp("k")
    path = config(place, clusters=clusters, users=users, contexts=contexts, **{"current-context": current})
    try:
        load(path)
    except MuslinError as problem:
        said = problem.message
    else:
        said = "kubeconfig"
    assert "kubeconfig" in said
