"""The cycles that a client computes in a TLS handshake on an emulated RP2040, by the certificates in it.

The broker's end is Python's ssl (OpenSSL) on this machine. The board gets all that it sent, and its clock runs until it
waits for more: neither the broker's time nor the way between them counts.
"""

from __future__ import annotations

import ast
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from boards.library import library
from deployment.authority import Authority, pem
from tests.boards.runners import RUNNERS, Board, Pico

HOST = "broker"
DAYS = 30
MEGAHERTZ = 125  # of the emulated board
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Way:
    """What writes the certificates of a handshake into a folder, and whether the client shows one, too."""

    write: Callable[[Path], None]
    shows: bool = False


def _provisioned(folder: Path) -> None:
    """Write what `tinyreptile provision` makes."""
    authority = Authority.create("authority")
    (folder / "ca.pem").write_bytes(pem(authority.certificate))
    for name, hosts in (("broker", [HOST]), ("client", [])):
        certificate, key = authority.issue(name, DAYS, hosts)
        (folder / f"{name}.pem").write_bytes(certificate)
        (folder / f"{name}.key").write_bytes(key)


def _own(folder: Path) -> None:
    """Write a broker's certificate that its own key signed, which clients have in place of an authority's."""
    key = ec.generate_private_key(ec.SECP256R1())
    _write(folder, _sign(HOST, key, HOST, key), key)


def _rsa(folder: Path) -> None:
    """Write a broker's certificate of RSA, like the authority's."""
    authority, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    _write(folder, _sign(HOST, key, "authority", authority), key)
    (folder / "ca.pem").write_bytes(pem(_sign("authority", authority, "authority", authority)))


def _sign(name: str, key: Key, issuer: str, issuer_key: Key) -> x509.Certificate:
    begin = datetime.now(UTC) - timedelta(days=1)
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    return (
        x509.CertificateBuilder()
        .issuer_name(signer)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=key is issuer_key, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _write(folder: Path, certificate: x509.Certificate, key: Key) -> None:
    for name in ("ca.pem", "broker.pem"):
        (folder / name).write_bytes(pem(certificate))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "broker.key").write_bytes(private)


# By what the broker shows and what the client does, as in the table.
WAYS = {
    "P-256 of a P-256 authority: a password": Way(_provisioned),
    "P-256 of a P-256 authority: a P-256 certificate": Way(_provisioned, shows=True),
    "P-256, itself the `tls_ca`: a password": Way(_own),
    "RSA-2048 of an RSA-2048 authority: a password": Way(_rsa),
}
HEADS = ("the broker shows", "the client shows", "context", "handshake", "s at 125 MHz", "s at 133 MHz")


def measure(way: Way, device: Path) -> dict[str, int]:
    """Cycles of the client's TLS context, which it makes once after its start, and of its handshake.

    ``device`` is the folder of what runs on the board.
    """
    runner = RUNNERS["rp2040"]
    assert isinstance(runner, Pico)
    runner.obtain()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        way.write(folder)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(folder / "broker.pem", folder / "broker.key")
        shown = ["ca.pem"]
        if way.shows:
            server.load_verify_locations(folder / "ca.pem")
            server.verify_mode = ssl.CERT_REQUIRED
            shown += ["client.pem", "client.key"]
        files = {**library(runner.chip), **{path.name: path for path in device.glob("*.py")}}
        now = datetime.now(UTC)
        clock = now.year, now.month, now.day, now.weekday(), now.hour, now.minute, now.second, 0
        with runner.started({**files, **{file: folder / file for file in shown}}, seconds=1800) as board:
            context = board(
                f"import handshake\nclient = handshake.Client({MEGAHERTZ}, {clock}, {HOST!r}, {shown})\n"
                "print(client.context_ticks)"
            )
            return {"context": int(context), "handshake": _shake_hands(board, server)}


def _shake_hands(board: Board, context: ssl.SSLContext) -> int:
    """Ticks of the board's part in a handshake; raises `ssl.SSLError` if there is none."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    ticks, received, done = 0, b"", False
    while received or not done:
        spent, sent = ast.literal_eval(board(f"print(client.step({received!r}))"))
        ticks += spent
        incoming.write(sent)
        try:
            server.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        received = outgoing.read()
    incoming.write(ast.literal_eval(board("print(client.write(b'ready'))")))
    if server.read() != b"ready":
        raise ssl.SSLError("the board is not through with its handshake")
    return ticks


def rows(results: dict[str, dict[str, int]]) -> list[list[str]]:
    """The cells of the table."""
    cells = []
    for key, cycles in results.items():
        seconds = [f"{cycles['handshake'] / megahertz / 1e6:.2f}" for megahertz in (125, 133)]
        cells.append([*key.split(": "), *(f"{cycles[name]:,}" for name in ("context", "handshake")), *seconds])
    return cells
