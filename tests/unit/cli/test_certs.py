"""`muslin certs`: who gets a certificate, and what is kept, renewed and refused."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muslin.cli.certs import directory
from muslin.cli.certs.subjects import Subject, subjects
from muslin.errors import Conflict, InvalidArgument, IOFailure

FEW = [Subject("ipam", "ipam", ("ipam", "127.0.0.1")), Subject("operator", "operator")]


def made(folder: Path, wanted: list[Subject] = FEW, *, days: int = 365, renew: float = 30) -> dict[str, str]:
    """What was done, by name."""
    return dict(line.split(": ", 1) for line in directory.write(folder, wanted, days=days, renew=renew))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / name / "tls.crt").read_bytes())


def test_everybody_who_speaks_tcp_has_one() -> None:
    found = {each.name: each for each in subjects(["a", "b"], [])}
    assert list(found) == ["etcd1", "etcd2", "etcd3", "ipam", "endpoint", "policy", "a", "b", "operator", "etcd-root"]
    assert found["a"].common_name == "node:a"
    assert found["etcd-root"].common_name == "root"
    assert {"ipam", "ipam1", "ipam-2", "localhost", "127.0.0.1", "::1"} <= set(found["ipam"].hosts)
    assert found["operator"].hosts == found["etcd-root"].hosts == ()


def test_hosts_are_added_to_one_or_to_all_who_serve() -> None:
    found = {each.name: each.hosts for each in subjects(["a"], ["ipam=10.0.0.1,ipam.example", "all.example"])}
    assert {"10.0.0.1", "ipam.example", "all.example"} <= set(found["ipam"])
    assert "10.0.0.1" not in found["policy"]
    assert "all.example" in found["a"]
    assert found["operator"] == ()


@pytest.mark.parametrize(("nodes", "hosts", "names"), [
    (["ipam"], [], "--node ipam"), (["ipam1"], [], "--node ipam1"), (["a", "a"], [], "--node a"),
    (["operator"], [], "--node operator"), (["localhost"], [], "--node localhost"), (["A"], [], "--node A"),
    (["a" * 61], [], "--node aaa"), (["../a"], [], "--node ../a"), (["a/b"], [], "--node a/b"), ([""], [], "--node"),
    (["a"], ["nobody=x"], "nobody is called 'nobody'"), (["a"], ["ipam=a_b"], "'a_b'"), (["a"], ["ipam="], "''"),
])
def test_a_name_that_would_be_somebody_elses_or_none_is_refused(
        nodes: list[str], hosts: list[str], names: str) -> None:
    """A node that is called as a service could else pass for it, by its hosts."""
    with pytest.raises(InvalidArgument) as refused:
        subjects(nodes, hosts)
    assert names in refused.value.message


def test_a_certificate_is_what_it_should_be(tmp_path: Path) -> None:
    made(tmp_path)
    ipam, operator = certificate(tmp_path, "ipam"), certificate(tmp_path, "operator")
    assert [each.value for each in ipam.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["ipam"]
    names = ipam.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ipam"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    usage = operator.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH], "who only calls can not serve"
    assert not ipam.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    for path in tmp_path.rglob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600, path
    judge = ssl.create_default_context(cafile=tmp_path / "ipam/ca.crt")
    judge.load_cert_chain(tmp_path / "ipam/tls.crt", tmp_path / "ipam/tls.key")


def test_a_repetition_changes_nothing(tmp_path: Path) -> None:
    made(tmp_path)
    before = content(tmp_path)
    assert set(made(tmp_path).values()) == {"kept"}
    assert content(tmp_path) == before


def test_what_soon_ends_is_renewed_with_a_new_key_and_the_rest_stays(tmp_path: Path) -> None:
    made(tmp_path, FEW[:1], days=10, renew=5)
    made(tmp_path, FEW, days=365, renew=5)
    before = content(tmp_path)
    assert made(tmp_path, renew=20) == {"ca": "kept", "ipam": "made: it ends in 10.0 days", "operator": "kept"}
    after = content(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"ipam/tls.crt", "ipam/tls.key"}


@pytest.mark.parametrize(("spoil", "why"), [
    (lambda f: (f / "ipam/tls.key").write_bytes((f / "operator/tls.key").read_bytes()), "not that of its key"),
    (lambda f: (f / "ipam/tls.crt").write_bytes(b"x"), "made: "),
    (lambda f: (f / "ipam/tls.crt").unlink(), "it is new"),
    (lambda f: [(f / f"ipam/tls.{e}").write_bytes((f / f"operator/tls.{e}").read_bytes()) for e in ("crt", "key")],
     "its name is CN=operator"),
])
def test_what_is_not_as_it_should_be_is_made_anew(tmp_path: Path, spoil: object, why: str) -> None:
    made(tmp_path)
    assert callable(spoil)
    spoil(tmp_path)
    assert why in made(tmp_path)["ipam"]
    assert set(made(tmp_path).values()) == {"kept"}


def test_other_hosts_need_another_certificate(tmp_path: Path) -> None:
    made(tmp_path)
    assert made(tmp_path, [Subject("ipam", "ipam", ("other",)), FEW[1]])["ipam"] == "made: its hosts are others"


def test_a_new_authority_is_trusted_beside_the_one_before_which_stays_trusted(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else everything would have to change in one moment."""
    made(tmp_path)
    old = (tmp_path / "ca.crt").read_bytes()
    monkeypatch.setattr(directory, "_AUTHORITY_RENEW", 4000)
    assert made(tmp_path) == {"ca": "made; those before it stay trusted", "ipam": "made: it is another authority's",
                              "operator": "made: it is another authority's"}
    monkeypatch.setattr(directory, "_AUTHORITY_RENEW", 365)
    for trusted in (tmp_path / "ca.crt", tmp_path / "ipam/ca.crt"):
        assert trusted.read_bytes().endswith(old)
        assert trusted.read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert set(made(tmp_path).values()) == {"kept"}


def test_half_an_authority_is_not_replaced(tmp_path: Path) -> None:
    """Whoever lost the key should know that a new one is known to nobody."""
    made(tmp_path)
    before = content(tmp_path)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(IOFailure, match=r"of ca\.crt and ca\.key one is missing"):
        made(tmp_path)
    del before["ca.key"]
    assert content(tmp_path) == before


def test_the_files_of_a_run_that_was_cut_short_do_not_matter(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "ipam/.tls.key.new").write_bytes(b"half")
    (tmp_path / "ipam/tls.key").unlink()
    made(tmp_path)
    assert not list(tmp_path.rglob(".*.new"))


def test_two_at_once_are_one_too_many(tmp_path: Path) -> None:
    first = directory.write(tmp_path, FEW, days=1, renew=0)
    next(iter(first))
    with pytest.raises(Conflict, match="another process"):
        made(tmp_path)
    list(first)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_keys_belong_to_whom_is_said_and_stay_theirs(tmp_path: Path) -> None:
    list(directory.write(tmp_path, FEW, days=10, renew=0, owner=(1234, 1235)))
    made(tmp_path, renew=20)
    for name in ("tls.key", "tls.crt"):
        status = (tmp_path / "ipam" / name).stat()
        assert (status.st_uid, status.st_gid) == (1234, 1235)
    assert (tmp_path / "ca.key").stat().st_uid == 0
