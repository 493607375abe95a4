"""TLS where the platform has it: a context that checks the broker's certificate, and shows this client's."""

import sys


def failure(code):
    """Return what an error ``code`` of mbedTLS, a negative number, says, in words."""
    text = {
        -29312: "the broker closed the TLS connection",
        -30592: "the broker refused the TLS handshake; its log says why",
        -9984: "the broker's certificate is not trusted; check tls_ca, host and the board's time",
        -29184: "what answers does not speak TLS",
        -32512: "there is no memory for TLS",
    }.get(code, "TLS failed")
    return "%s (%d)" % (text, code)


def _der(path, kind):
    """The DER of each part of the PEM file ``path`` whose heading ends in ``kind``: not every MicroPython reads PEM."""
    import binascii

    with open(path) as file:
        parts = file.read().split("-----BEGIN ")[1:]
    found = []
    for part in parts:
        heading, _, rest = part.partition("-----")
        if heading.endswith(kind):
            found.append(binascii.a2b_base64(rest.split("-----END")[0].strip()))
    if not found:
        raise ValueError("no %s in PEM form" % kind.lower())
    return found


def tls_context(ca_file=None, cert_file=None, key_file=None):
    """A TLS context, 1.2 or later, that checks the broker's certificate against ``ca_file``, or the platform's store.

    It shows the certificate of ``cert_file``, whose key is in ``key_file``, where they are given. All files are PEM.
    MicroPython has no store of its own: there ``ca_file`` is needed. Raises OSError or ValueError for a file that does
    not hold what it should.
    """
    if sys.implementation.name == "micropython":
        import tls

        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        context.verify_mode = tls.CERT_REQUIRED
        for der in _der(ca_file, "CERTIFICATE"):
            context.load_verify_locations(der)
        if cert_file:
            context.load_cert_chain(_der(cert_file, "CERTIFICATE")[0], _der(key_file, "PRIVATE KEY")[0])
        return context
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # of TLS 1.2 or later, as CPython has it since 3.10
    if ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    if cert_file:
        # A password to try, so that nobody is asked for one.
        context.load_cert_chain(cert_file, key_file, password="")
    return context
