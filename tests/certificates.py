"""Certificates for brokers of the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .environment import need_program


class Certificates:
    """A certificate authority and a broker's certificate for "localhost", and an authority nobody asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = self._authority("ca")
        self.stranger = self._authority("stranger")
        extensions = folder / "extensions"
        extensions.write_text("subjectAltName=DNS:localhost\n")
        self._openssl("req", "-newkey", *self._key("server"), "-subj", "/CN=localhost", "-out", "server.csr")
        self._openssl(
            *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", "extensions", "-out", "server.pem"),
        )

    def _authority(self, name: str) -> str:
        self._openssl("req", "-x509", "-newkey", *self._key(name), "-days", "2", "-subj", f"/CN={name}",
                      "-out", f"{name}.pem")  # fmt: skip
        return str(self.folder / f"{name}.pem")

    def _key(self, name: str) -> tuple[str, ...]:
        return "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        command = [need_program("openssl"), *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=60)
