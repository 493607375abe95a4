"""Data sets: where they are, whether they are what they should be, and how to get them from their official places."""

from .catalogue import DATA_SETS, SHA256, Archive, Arrays, DataError, DataSet
from .files import CACHE, ENVIRONMENT, content_digest, find, folder_of, load, save
from .official import Fetched, fetch

__all__ = [
    "CACHE",
    "DATA_SETS",
    "ENVIRONMENT",
    "SHA256",
    "Archive",
    "Arrays",
    "DataError",
    "DataSet",
    "Fetched",
    "content_digest",
    "fetch",
    "find",
    "folder_of",
    "load",
    "save",
]
