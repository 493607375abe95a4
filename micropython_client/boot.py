"""What a board of TinyReptile runs first: it chooses which of two versions of the library to run."""

import sys

import slots

_folder = slots.choose()
if _folder:
    sys.path.insert(0, "/" + _folder)
