"""Results of a study on disk: one JSON file a run, with all settings, so that what is there is not run again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from . import StudyError
from .checkpoint import same_settings, write
from .job import Job, Result


class Store:
    """The folder ``out``: results in ``runs/``, and whatever is drawn from them beside it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.runs = out / "runs"

    def result(self, job: Job) -> Result | None:
        """What ``job`` has come to, None if it has not been run; raises `StudyError` for one with other settings."""
        path = self._path(job)
        try:
            result: Result = json.loads(path.read_text())
            settings = result["settings"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"{path} is no result of a study ({error}): delete it, or begin anew with --fresh"
            ) from None
        same_settings(path, settings, job.settings)
        return result

    def add(self, job: Job, result: Result) -> None:
        """Keep ``result``; its checkpoint is of no more use."""
        try:
            write(self._path(job), json.dumps(result, indent=1, allow_nan=False) + "\n")
            self.checkpoint(job).unlink(missing_ok=True)
        except OSError as error:
            raise StudyError(
                f"{self._path(job)} can't be written: {error.strerror}; name a folder with --out"
            ) from None

    def forget(self, jobs: Iterable[Job]) -> None:
        """Remove results and checkpoints of ``jobs``, whatever their settings."""
        for job in jobs:
            self._path(job).unlink(missing_ok=True)
            self.checkpoint(job).unlink(missing_ok=True)

    def checkpoint(self, job: Job) -> Path:
        """Where ``job`` keeps its state while it runs."""
        return self.runs / f"{job.name}.npz"

    def _path(self, job: Job) -> Path:
        return self.runs / f"{job.name}.json"
