"""The files of a process' certificate: read again when they change, and only when they fit."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from muslin.errors import FailedPrecondition, InvalidArgument
from muslin.tls import Certificates, Files, named
from tests.support import tls as support


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> support.Certificates:
    return support.Certificates(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def files(made: support.Certificates, tmp_path: Path) -> Files:
    """A copy of n1's, to be changed."""
    shutil.copytree(made.folder / "n1", tmp_path / "own")
    return Files(tmp_path / "own/tls.crt", tmp_path / "own/tls.key", tmp_path / "own/ca.crt")


def test_three_options_belong_together(tmp_path: Path) -> None:
    assert named(None, None, None, "tls") is None
    assert named(tmp_path, tmp_path, tmp_path, "tls") == Files(tmp_path, tmp_path, tmp_path)
    for certificate, key, authority in ((tmp_path, None, None), (None, tmp_path, tmp_path), (tmp_path, tmp_path, None)):
        with pytest.raises(InvalidArgument, match="--etcd-cert, --etcd-key and --etcd-ca belong together"):
            named(certificate, key, authority, "etcd")


def test_what_does_not_change_is_the_same_object(files: Files) -> None:
    certificates = Certificates(files)
    first = certificates.load()
    files.certificate.touch()
    assert certificates.load() is first


def test_new_files_are_taken_when_they_fit_and_not_before(
        files: Files, made: support.Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """The key is replaced first: until the certificate is, the pair before counts, and is complained about once."""
    certificates = Certificates(files)
    before = certificates.load()
    files.key.write_bytes(made.files("n2").key.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert certificates.load() is before
        assert certificates.load() is before
    assert len(caplog.records) == 1
    assert "are no pair of certificate and key" in caplog.records[0].getMessage()
    files.certificate.write_bytes(made.files("n2").certificate.read_bytes())
    after = certificates.load()
    assert after.certificate == made.files("n2").certificate.read_bytes()
    assert certificates.load() is after


def test_files_that_are_gone_or_damaged_later_change_nothing(files: Files) -> None:
    certificates = Certificates(files)
    before = certificates.load()
    files.authority.write_bytes(b"nothing")
    assert certificates.load() is before
    files.authority.unlink()
    assert certificates.load() is before


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda f: f.key.unlink(), r"tls\.key: No such file"),
    (lambda f: f.key.write_bytes(b"x"), "are no pair of certificate and key"),
    (lambda f: f.certificate.write_bytes(b""), "are no pair of certificate and key"),
    (lambda f: f.authority.write_bytes(b"\xff"), r"ca\.crt holds no certificate"),
    (lambda f: f.authority.write_bytes(b""), r"ca\.crt holds no certificate"),
])
def test_a_process_does_not_begin_with_what_is_not_usable(files: Files, spoil: object, says: str) -> None:
    assert callable(spoil)
    spoil(files)
    with pytest.raises(FailedPrecondition, match=says):
        Certificates(files)


def test_a_key_is_not_shown(files: Files) -> None:
    assert "PRIVATE" not in repr(Certificates(files).load())
