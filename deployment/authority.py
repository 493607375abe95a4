"""The certificate authority of a fleet: its own certificate, those that it signs, and the list of the revoked.

Keys are EC P-256, which boards have code for. Certificates of clients are good for clients only: a device can't pass
itself off as the broker with its own.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .errors import DeploymentError
from .files import read

AUTHORITY_DAYS = 7300
_EARLY = timedelta(days=1)  # a certificate begins so long ago: clocks of boards and brokers differ


class Authority:
    """An authority with its ``certificate`` and private ``key``."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, name: str) -> Authority:
        """A new authority called ``name``, which nobody trusts yet."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        builder = _builder(subject, subject, key.public_key(), key.public_key(), AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(authority=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate: Path, key: Path) -> Authority:
        """The authority of the files ``certificate`` and ``key``, PEM; raises `DeploymentError`."""
        try:
            private = serialization.load_pem_private_key(read(key), None)
        except (ValueError, TypeError):
            raise DeploymentError(f"{key} holds no private key; bring back the one that {certificate} is of") from None
        loaded = load_certificate(certificate)
        if not isinstance(private, ec.EllipticCurvePrivateKey) or loaded.public_key() != private.public_key():
            raise DeploymentError(f"{key} is not the key of {certificate}; bring back the right one")
        return cls(loaded, private)

    def issue(self, name: str, days: int, hosts: Iterable[str] = ()) -> tuple[bytes, bytes]:
        """(certificate, private key) for ``name``, PEM: of the server ``hosts`` if there are any, else of a client.

        Raises `DeploymentError` if the authority does not last for ``days``.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(self.certificate.subject, _name(name), self._key.public_key(), key.public_key(), days)
        if datetime.now(UTC) + timedelta(days=days) > self.certificate.not_valid_after_utc:
            left = (self.certificate.not_valid_after_utc - datetime.now(UTC)).days
            raise DeploymentError(f"the authority itself is good for {left} more days; certificates can't outlast it")
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(authority=False), critical=True)
        names = [_host(host) for host in hosts]
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return pem(builder.sign(self._key, hashes.SHA256())), _key_pem(key)

    def revocation_list(self, serials: Iterable[int], before: x509.CertificateRevocationList | None = None) -> bytes:
        """The list that revokes the certificates with these ``serials``, PEM, in the place of the list ``before``.

        It lasts as long as the authority: a broker whose list is out of date lets nobody in any more.
        """
        now = datetime.now(UTC)
        begin = now - _EARLY
        if before:
            # A running broker knows both, and goes by the later one; they count in seconds.
            begin = max(begin, before.last_update_utc + timedelta(seconds=1))
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(begin)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """The private key, PEM."""
        return _key_pem(self._key)


def load_certificate(path: Path) -> x509.Certificate:
    """The certificate in ``path``, PEM; raises `DeploymentError`."""
    try:
        return x509.load_pem_x509_certificate(read(path))
    except ValueError:
        raise DeploymentError(f"{path} holds no certificate; delete it to have it made anew") from None


def load_revocations(path: Path) -> x509.CertificateRevocationList | None:
    """The list in ``path``, PEM; None if there is none, or a damaged one, which is made anew from the description."""
    if not path.exists():
        return None
    try:
        return x509.load_pem_x509_crl(read(path))
    except ValueError:
        return None


def ends_within(certificate: x509.Certificate, days: int) -> bool:
    """Whether ``certificate`` expires in the next ``days``."""
    return certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=days)


def pem(certificate: x509.Certificate) -> bytes:
    """``certificate`` as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    issuer_key: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePublicKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    return x509.DNSName(text)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
