"""TLS where the platform has it: a context that checks the broker's certificate."""

import sys


def _certificates(pem):
    """The DER of each certificate in the text ``pem``: not every MicroPython reads PEM."""
    import binascii

    parts = pem.split("-----BEGIN CERTIFICATE-----")[1:]
    found = [binascii.a2b_base64(part.split("-----END")[0].strip()) for part in parts]
    if not found:
        raise ValueError("no certificate in PEM form")
    return found


def tls_context(ca_file=None):
    """A TLS context that checks the broker's certificate against ``ca_file`` (PEM), or the platform's own store.

    MicroPython has no store of its own: there ``ca_file`` is needed. Raises OSError or ValueError for a file without a
    certificate.
    """
    if sys.implementation.name == "micropython":
        import tls

        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        context.verify_mode = tls.CERT_REQUIRED
        with open(ca_file) as file:
            for der in _certificates(file.read()):
                context.load_verify_locations(der)
        return context
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    return context
