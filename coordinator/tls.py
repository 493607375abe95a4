"""TLS to the broker: a context from the configured files, each checked, and in words what stands in its way."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

from tinyreptile.tls import tls_context

from .config import BrokerConfig
from .errors import BrokerError, ConfigError

_PROBE_SECONDS = 3.0
_VERDICT_SECONDS = 0.5  # a broker's word comes right after the handshake
# What a broker says of a client's certificate, by OpenSSL's names for it.
_ALERTS = {
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "this client's certificate was revoked",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "this client's certificate has expired",
    "TLSV1_ALERT_UNKNOWN_CA": "this client's certificate is of an authority that it does not know",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate: name one with --tls-cert and --tls-key",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it asks for a certificate, or for another kind of encryption",
}


class _Socket(ssl.SSLSocket):
    """A socket whose handshake fails if the broker refuses the client's certificate, and that is closed then.

    Under TLS 1.3 the broker says so only after the client's handshake: what comes is an alert, or a ticket for the next
    session. An MQTT client that went on would see its connection break, and wait for an answer, without a reason.
    """

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
            if self.version() == "TLSv1.3":
                self._hear_verdict()
        except BaseException:
            self.close()
            raise

    def _hear_verdict(self) -> None:
        timeout = self.gettimeout()
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            if not selector.select(_VERDICT_SECONDS):
                return  # a broker without tickets
        self.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.read(1)  # no broker speaks first: there is nothing to lose
        self.settimeout(timeout)


def context(broker: BrokerConfig) -> ssl.SSLContext | None:
    """The TLS context that ``broker`` asks for, None without TLS; raises `ConfigError` or `BrokerError`."""
    ca, certificate, key = broker.tls_ca, broker.tls_cert, broker.tls_key
    if certificate and key and ca:
        check_certificate(certificate, key)
    elif certificate or key:
        raise ConfigError("broker: tls_cert, tls_key and tls_ca go together; name all three")
    if ca is None:
        return None
    try:
        made: ssl.SSLContext = tls_context(str(ca), str(certificate or ""), str(key or ""))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise BrokerError(f"broker.tls_ca: {ca} is no readable PEM file of certificates: {error}") from None
    made.sslsocket_class = _Socket
    return made


def check_certificate(certificate_file: Path, key_file: Path) -> None:
    """Raise `ConfigError` unless a client's certificate and key can be used, now and together."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    contents = []
    for name, path in (("tls_cert", certificate_file), ("tls_key", key_file)):
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"broker.{name}: {path} can't be read: {error.strerror}") from None
    try:
        certificate = x509.load_pem_x509_certificate(contents[0])
    except ValueError:
        raise ConfigError(f"broker.tls_cert: {certificate_file} is no PEM file of a certificate") from None
    try:
        key = load_pem_private_key(contents[1], None)
    except TypeError:
        raise ConfigError(
            f"broker.tls_key: {key_file} is protected by a password; nobody is there to type it when a connection "
            "is made anew: take the password off, and keep the file for yourself (mode 600)"
        ) from None
    except ValueError:
        raise ConfigError(f"broker.tls_key: {key_file} is no PEM file of a private key") from None
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"broker.tls_key: {key_file} is not the key of the certificate {certificate_file}")
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ConfigError(
            f"broker.tls_cert: {certificate_file} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, and today is {now:%Y-%m-%d}; it has to be renewed"
        )


def obstacle(broker: BrokerConfig) -> str | None:
    """Why TLS to ``broker`` does not come about, as another try shows it; None if that is not the reason."""
    try:
        made = context(broker)
        if made is None:
            return None
        with (
            socket.create_connection((broker.host, broker.port), _PROBE_SECONDS) as plain,
            made.wrap_socket(plain, server_hostname=broker.host),
        ):
            pass
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    except ssl.SSLError as error:
        return _ALERTS.get(error.reason, f"TLS: {error.reason}")
    except OSError:
        pass
    return None
