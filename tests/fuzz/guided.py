"""One decoder under atheris, in a process of its own: python -m tests.fuzz.guided TARGET SECONDS FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["coordinator", "tinyreptile"]):
    from tinyreptile import layers, settings, shifts, sparse_delta, unpacking  # noqa: F401 - else loaded when needed

    from .seeds import seeds
    from .targets import TARGETS

MEMORY = 2048  # megabytes
TIMEOUT = 20  # seconds for one input


def main(name: str, seconds: str, folder: str) -> None:
    corpus = Path(folder) / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(data)
    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY}", "-max_len=8192", f"-timeout={TIMEOUT}"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/{name}-", str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
