"""The client on the MicroPythons of boards, emulated: what `make test-boards` runs.

Firmwares are built here, from Debian's sources; nothing has run on a physical board. What was fetched and built is kept
in ``~/.cache/tinyreptile/boards``, or in the folder that ``TINYREPTILE_BOARDS`` names.
"""
