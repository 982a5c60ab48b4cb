"""`muslin cluster`: which node a request is of, what counts as removal, what a runtime is given. Pure."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muslin.cli.certs import authority
from muslin.cli.certs.authority import Authority
from muslin.cli.certs.subjects import Subject
from muslin.cli.cluster import conflist
from muslin.cli.cluster.keeper import subjects
from muslin.cli.cluster.leaving import Fate, removed
from muslin.cli.cluster.requests import Refused, node_of, pod_of
from muslin.kube.installed import Placed, Request

ROOT = Path(__file__).resolve().parents[3]
WHO = "system:serviceaccount:muslin-system:muslin-node"
EXTRA = {"authentication.kubernetes.io/pod-name": ["muslin-node-x"],
         "authentication.kubernetes.io/pod-uid": ["uid-1"]}


def request(**changed: Any) -> Request:
    spec = {"request": "", "signerName": "muslin.dev/node", "username": WHO,
            "usages": ["digital signature", "client auth"], "extra": EXTRA, **changed}
    return msgspec.json.decode(json.dumps({"metadata": {"name": "r"}, "spec": spec}), type=Request)


def pod(*, uid: str = "uid-1", node: str | None = "worker1", account: str = "muslin-node") -> Placed:
    return msgspec.json.decode(json.dumps({
        "metadata": {"name": "muslin-node-x", "uid": uid},
        "spec": {"nodeName": node, "serviceAccountName": account}}), type=Placed)


# Whose request it is.


def test_a_node_is_where_the_pod_runs_that_asks() -> None:
    assert pod_of(request(), "muslin-system") == "muslin-node-x"
    assert node_of(request(), pod()) == "worker1"


@pytest.mark.parametrize(("changed", "words"), [
    ({"username": "system:serviceaccount:default:muslin-node"}, "made by"),
    ({"username": "system:node:worker1"}, "made by"), ({"username": ""}, "nobody"),
    ({"extra": {}}, "not bound to a pod"), ({"extra": None}, "not bound"),
    ({"extra": {**EXTRA, "authentication.kubernetes.io/pod-uid": []}}, "not bound"),
    ({"extra": {**EXTRA, "authentication.kubernetes.io/pod-name": ["a", "b"]}}, "not bound"),
    ({"usages": ["digital signature", "server auth"]}, "server auth"),
])
def test_who_else_asks_is_refused(changed: dict[str, Any], words: str) -> None:
    answer = pod_of(request(**changed), "muslin-system")
    assert isinstance(answer, Refused)
    assert words in answer.reason


@pytest.mark.parametrize(("there", "words"), [
    (None, "gone"), (pod(uid="uid-2"), "gone"), (pod(account="default"), "default"), (pod(node=None), "no node"),
    (pod(node="n" * 60), "does not fit"),
])
def test_a_pod_that_proves_no_node_gets_nothing(there: Placed | None, words: str) -> None:
    answer = node_of(request(), there)
    assert isinstance(answer, Refused)
    assert words in answer.reason


def csr(key: Any, name: str = "node:other") -> bytes:
    return bytes(x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])).add_extension(
            x509.SubjectAlternativeName([x509.DNSName("ipam")]), critical=False).sign(
                key, hashes.SHA256()).public_bytes(Encoding.PEM))


def test_what_a_request_says_of_itself_is_not_signed() -> None:
    """Not its name, nor its hosts: only its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    signed = x509.load_pem_x509_certificate(Authority.make(10).answer(Subject("w", "node:w"), csr(key), 5))
    assert signed.subject.rfc4514_string() == "CN=node:w"
    assert signed.public_key() == key.public_key()
    with pytest.raises(x509.ExtensionNotFound):
        signed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(signed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not signed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("content", [
    b"", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    csr(ec.generate_private_key(ec.SECP384R1())), csr(rsa.generate_private_key(65537, 2048)),
])
def test_what_is_no_request_or_of_another_kind_of_key_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Authority.make(10).answer(Subject("w", "node:w"), content, 5)


def test_a_request_of_somebody_elses_key_is_refused() -> None:
    key, request = authority.make_request("node:a")
    body = bytearray(base64.b64decode(b"".join(request.splitlines()[1:-1])))
    at = body.rindex(x509.load_pem_x509_csr(request).signature) + 12
    body[at] ^= 1
    forged = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(bytes(body)) \
        + b"-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(ValueError, match="not signed with its own key"):
        authority.requested(forged)
    assert authority.requested(request)
    assert key


# What becomes of it.


@pytest.mark.parametrize("namespace", Fate)
@pytest.mark.parametrize("workload", Fate)
def test_nothing_is_removed_for_what_is_not_known(namespace: Fate, workload: Fate) -> None:
    answer = removed(namespace, workload)
    assert (answer is True) == (Fate.LEAVES in (namespace, workload))
    assert (answer is False) == (namespace is workload is Fate.STAYS)


# Who gets certificates.


def test_services_are_reached_by_their_cluster_addresses() -> None:
    addresses = {"muslin-ipam": ("10.96.0.7", "fd00::7"), "muslin-etcd-0": ("10.96.0.8",),
                 "muslin-etcd-1": ("10.96.0.9",), "kubernetes": ("10.96.0.1",)}
    found = {each.name: each for each in subjects(addresses, "ours", etcd=True)}
    assert set(found) == {"ipam", "endpoint", "policy", "operator", "etcd", "etcd-root"}
    assert {"10.96.0.7", "fd00::7", "muslin-ipam.ours.svc"} <= set(found["ipam"].hosts)
    assert {"10.96.0.8", "10.96.0.9"} <= set(found["etcd"].hosts)
    assert "10.96.0.1" not in {host for each in found.values() for host in each.hosts}
    assert (found["etcd-root"].common_name, found["etcd-root"].hosts, found["operator"].hosts) == ("root", (), ())
    assert {each.name for each in subjects(addresses, "ours", etcd=False)} == {"ipam", "endpoint", "policy", "operator"}


# What runtimes get.


def test_portmap_is_called_where_it_is_and_in_a_version_that_it_knows() -> None:
    def of(portmap: list[str] | None) -> tuple[list[str], str, list[str]]:
        document = json.loads(conflist.content(portmap))
        assert document["name"] == "k8s-pod-network"
        return [each["type"] for each in document["plugins"]], document["cniVersion"], document["cniVersions"]

    assert of(None) == (["muslin"], "0.4.0", ["0.4.0", "1.0.0", "1.1.0"])
    assert of(["0.3.1", "0.4.0", "1.0.0"]) == (["muslin", "portmap"], "0.4.0", ["0.4.0", "1.0.0"])
    assert of(["1.0.0", "1.1.0"]) == (["muslin", "portmap"], "1.0.0", ["1.0.0", "1.1.0"])
    assert of(["0.2.0"]) == (["muslin"], "0.4.0", ["0.4.0", "1.0.0", "1.1.0"])


def test_the_versions_of_a_plugin_are_asked_of_it(tmp_path: Path) -> None:
    assert conflist.versions(tmp_path / "absent") is None
    plugin = tmp_path / "portmap"
    plugin.write_text('#!/bin/sh\necho "{\\"supportedVersions\\": [\\"$CNI_COMMAND\\", \\"1.0.0\\"]}"\n')
    plugin.chmod(0o755)
    assert conflist.versions(plugin) == ["VERSION", "1.0.0"]
    plugin.write_text("#!/bin/sh\nexit 1\n")
    assert conflist.versions(plugin) == ["0.4.0", "1.0.0"]


def test_the_readiness_probe_asks_what_the_agent_asks() -> None:
    script = (ROOT / "docker/status.sh").read_text()
    (call,) = re.findall(r"^\{.*\}$", script, re.MULTILINE)
    assert json.loads(call) == json.loads(conflist.status_call())
