"""New versions of the library, taken from the run's retained topics and installed into the spare slot.

What `client` needs of it is here; `software` has the images, and ``slots`` beside `boot.py` the two folders.
"""

import sys

from . import messages
from .software import Image, check_manifest

CHIPS = (
    None,
    "x86",
    "x64",
    "armv6",
    "armv6m",
    "armv7m",
    "armv7em",
    "armv7emsp",
    "armv7emdp",
    "xtensa",
    "xtensawin",
    "rv32imc",
    "rv64imc",
)


def own_chip():
    """The name that mpy-cross has for this board's machine code; "py" where there is none."""
    number = getattr(sys.implementation, "_mpy", 0) >> 10 & 15
    return CHIPS[number] if 0 < number < len(CHIPS) else "py"


class Updates:
    """The newest version that is offered, and its installation.

    Arguments:
        key: bytes that the signature is checked with.
        slots: the module of that name.
        chip: which image to take; None: this board's own.

    Attributes:
        offered: the manifest of a version that is to be installed, or None.
        image: the `software.Image` that is being put together, or None.
    """

    def __init__(self, key, slots, chip=None):
        self.chip = chip or own_chip()
        self._key = key
        self._slots = slots
        self.offered = None
        self.image = None

    def version(self):
        """The number of the version that runs, 0 if it has none."""
        return self._slots.running()

    def offer(self, manifest):
        """A manifest has arrived; raises `SoftwareError` for a new one that can't be trusted."""
        messages.check(messages.SOFTWARE, manifest)
        self.offered = None
        if manifest["version"] > max(self.version(), self._slots.version()):
            check_manifest(manifest, self._key, self.chip)
            # The message's buffer will be used again.
            manifest["sha256"] = bytes(manifest["sha256"])
            manifest["signature"] = bytes(manifest["signature"])
            self.offered = manifest

    def begin(self):
        """From now on `add` takes chunks of what is offered."""
        self.image = Image(self.offered["version"], self.offered["bytes"])

    def add(self, index, chunk):
        """A chunk has arrived."""
        if self.image:
            self.image.add(index, chunk["version"], chunk["data"])

    def install(self):
        """The image is whole: check and unpack it, and try it from the next start on; raises `SoftwareError`."""
        folder = self._slots.spare()
        self.image.check(self.offered["sha256"])
        self.image.unpack(folder)
        self._slots.begin(folder, self.offered["version"])

    def end(self):
        """Whatever came of it: there is nothing to install, until another manifest arrives."""
        if self.image:
            self.image.close()
        self.image = self.offered = None

    def confirm(self):
        """The version that runs has come up."""
        self._slots.confirm()
