"""Results of a study on disk: one JSON file a run, with all settings, so that what is there is not run again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from . import StudyError
from .checkpoint import same_settings, write
from .job import Job
from .result import Result

_RESULT = TypeAdapter(Result)


class Store:
    """The folder ``out``: results in ``runs/``, and whatever is drawn from them beside it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.runs = out / "runs"

    def prepare(self) -> None:
        """Make the folders, and see that they can be written to; raises `StudyError`."""
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            for folder in (self.out, self.runs):
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            raise StudyError(
                f"results can't be written into {self.runs}: {error.strerror}; name another folder with --out"
            ) from None

    def result(self, job: Job) -> Result | None:
        """What ``job`` has come to, None if it has not been run; raises `StudyError` for one with other settings."""
        path = self._path(job)
        try:
            result = _RESULT.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StudyError(f"{path} can't be read: {error.strerror}") from None
        except ValidationError as error:
            what = ".".join(map(str, error.errors()[0]["loc"])) or "JSON"
            raise StudyError(
                f"{path} is damaged, or no result of a study (at {what}): delete it, or begin anew with --fresh"
            ) from None
        same_settings(path, result["settings"], job.settings)
        if [look["round"] for look in result["curve"]] != job.looks:
            raise StudyError(f"{path} lacks points of its curve: delete it, or begin anew with --fresh")
        return result

    def fitting(self, job: Job) -> Result | None:
        """As `result`, but one with other settings, or damaged, is passed over."""
        try:
            return self.result(job)
        except StudyError:
            return None

    def add(self, job: Job, result: Result) -> None:
        """Keep ``result``; its checkpoint is of no more use."""
        write(self._path(job), json.dumps(result, indent=1, allow_nan=False) + "\n")
        self.checkpoint(job).unlink(missing_ok=True)

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
