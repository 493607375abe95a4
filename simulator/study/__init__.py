"""The offline study: experiments, their runs on processes or a cluster, results, statistics, tables and pictures."""

from __future__ import annotations


class StudyError(Exception):
    """A study that can't be run as it was asked for; the text says what to change."""
