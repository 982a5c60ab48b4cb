"""Making and judging certificates. The one place that imports `cryptography`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muslin.cli.certs.subjects import Subject, is_address

__all__ = ["Pair", "Authority", "days_left", "fits", "issued_by", "make_request", "requested"]

_SLACK = timedelta(minutes=5)
"""A certificate is valid from so long ago: clocks differ."""
_NAME = "Muslin"
_PURPOSES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_CALLER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def days(self) -> float:
        """Days for which it is still valid."""
        return _left(x509.load_pem_x509_certificate(self.certificate))


class Authority:
    """Signs with one key. Raises ValueError if certificate and key can not be read or do not belong together."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._certificate = x509.load_pem_x509_certificate(pair.certificate)
        self._key = _key(pair.key)
        if self._key.public_key() != self._certificate.public_key():
            raise ValueError("the authority's certificate is not that of its key")

    @classmethod
    def make(cls, days: int) -> Authority:
        """A new one, with a key of its own, valid for so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        # The serial number in the name tells authorities apart that follow one another.
        serial = x509.random_serial_number()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_NAME} {serial:x}"[:40])])
        signed = (
            _builder(name, name, key.public_key(), days, serial)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(_pair(signed, key))

    def issue(self, subject: Subject, days: int) -> Pair:
        """A certificate with a new key; it does not outlive the authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        return _pair(self._signed(subject, key.public_key(), days), key)

    def answer(self, subject: Subject, request: bytes, days: int) -> bytes:
        """A certificate, PEM, for the key that a request (PEM) proves to have. Of what else it asks nothing counts.

        Raises:
            ValueError: it is no request, is not signed with its key, or that is not of the curve P-256.
        """
        return self._signed(subject, requested(request), days).public_bytes(serialization.Encoding.PEM)

    def _signed(self, subject: Subject, key: ec.EllipticCurvePublicKey, days: int) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name)])
        builder = _builder(name, self._certificate.subject, key, days, x509.random_serial_number(),
                           self._certificate.not_valid_after_utc)
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(_PURPOSES if subject.hosts else _CALLER, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if subject.hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(_alternatives(subject.hosts)), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def complaint(self, pair: Pair, subject: Subject, days: float) -> str:
        """Why a certificate is not what this authority would give the subject for that many days more; "" if it is."""
        try:
            found = x509.load_pem_x509_certificate(pair.certificate)
            if _key(pair.key).public_key() != found.public_key():
                return "it is not that of its key"
            if found.issuer != self._certificate.subject:
                return "it is another authority's"
            found.verify_directly_issued_by(self._certificate)
        except InvalidSignature:
            return "it is another authority's"
        except (ValueError, TypeError) as problem:
            return str(problem) or "it can not be read"
        name = found.subject.rfc4514_string()
        if name != f"CN={subject.common_name}":
            return f"its name is {name}"
        if set(_named(found)) != set(_alternatives(subject.hosts)):
            return "its hosts are others"
        return "" if _left(found) > days else f"it ends in {_left(found):.1f} days"


def make_request(common_name: str) -> tuple[bytes, bytes]:
    """A new key, and a request for a certificate of that name; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])).sign(key, hashes.SHA256())
    return _key_pem(key), request.public_bytes(serialization.Encoding.PEM)


def requested(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a request is about. Raises ValueError: see Authority.answer()."""
    found = x509.load_pem_x509_csr(request)
    key = found.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("its key is not of the elliptic curve P-256")  # noqa: TRY004  what was read, as below
    if not found.is_signature_valid:
        raise ValueError("it is not signed with its own key")
    return key


def fits(certificate: bytes, key: bytes) -> bool:
    """Whether both can be read, and are of each other."""
    try:
        return _key(key).public_key() == x509.load_pem_x509_certificate(certificate).public_key()
    except (ValueError, TypeError):
        return False


def issued_by(certificate: bytes, bundle: bytes) -> bool:
    """Whether one of the authorities in a bundle of PEM has signed it. Raises ValueError if there is none in it."""
    found = x509.load_pem_x509_certificate(certificate)
    for authority in x509.load_pem_x509_certificates(bundle):
        try:
            found.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return True
    return False


def days_left(certificate: bytes) -> float:
    """Days for which a certificate is still valid. Raises ValueError if it is none."""
    return _left(x509.load_pem_x509_certificate(certificate))


def _left(certificate: x509.Certificate) -> float:
    """Days."""
    return (certificate.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)


def _named(certificate: x509.Certificate) -> Sequence[x509.GeneralName]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return list(extension.value)


def _alternatives(hosts: Sequence[str]) -> list[x509.GeneralName]:
    return [x509.IPAddress(ipaddress.ip_address(host)) if is_address(host) else x509.DNSName(host) for host in hosts]


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, serial: int,
             at_most: datetime | None = None) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        .serial_number(serial).not_valid_before(now - _SLACK).not_valid_after(min(ends, at_most) if at_most else ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature=not signs, content_commitment=False, key_encipherment=False,
                         data_encipherment=False, key_agreement=False, key_cert_sign=signs, crl_sign=signs,
                         encipher_only=False, decipher_only=False)


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("its key is not of an elliptic curve")  # noqa: TRY004  what was read, not how we were called
    return key


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())
