"""`tinyreptile export`: the learned initialization as a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from coordinator.errors import CoordinatorError
from coordinator.observer import UnpublishedError, fetch
from coordinator.operator import other_runs
from tinyreptile import geometry

from .console import configure_logging, no_run, out
from .options import (
    Connection,
    connected,
)


@connected
def command(
    connection: Connection,
    files: Annotated[list[Path], typer.Argument(help="Files to write; .npz or .json says the format.")],
) -> None:
    """Write the newest initialization of a run, as devices receive it: floats that are whole multiples of 2^-12.

    An .npz file holds one array a tensor, and "model" and "version"; a .json file the same as lists.

    Example: [bold]tinyreptile export kitchen.npz kitchen.json --run kitchen[/]
    """
    configure_logging(False)
    files = list(dict.fromkeys(files))
    for path in files:
        if path.suffix not in (".npz", ".json"):
            raise CoordinatorError(f"{path}: the file's name must end in .npz or .json")
    settings = connection.settings()
    try:
        model, version, weights = asyncio.run(fetch(settings))
    except UnpublishedError as error:
        found = asyncio.run(other_runs(settings.broker))
        if found is None or settings.run.name in found:
            raise
        raise CoordinatorError(f"{error}\n{no_run(settings.run.name, settings.broker, found)}") from None
    tensors = {
        name: weights[offset : offset + int(np.prod(shape))].reshape(shape)
        for name, offset, shape in geometry.tensors(model)
    }
    for path in files:
        try:
            if path.suffix == ".npz":
                arrays: dict[str, Any] = {"model": json.dumps(model.spec), "version": version, **tensors}
                np.savez(path, **arrays)
            else:
                content = {
                    "model": model.spec,
                    "version": version,
                    "tensors": {k: v.tolist() for k, v in tensors.items()},
                }
                path.write_text(json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise CoordinatorError(f"{path} can't be written: {error.strerror}") from None
        out.print(
            f"{path}: version {version}, {model.parameters} parameters in {len(tensors)} tensors", highlight=False
        )
