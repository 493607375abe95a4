"""New versions of the library, taken from the run's retained topics and installed into the spare folder.

`software` has the images, and ``slots`` beside `boot.py` the two folders.
"""

import sys

from .messages import check, index_of
from .msgpack import unpackb
from .portable import const
from .software import SOFTWARE, SOFTWARE_CHUNK, Image, check_manifest

_INSTALL_SECONDS = const(120)

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
        run: the `messages.RunTopics` of the run.
        chip: which image to take; None: this board's own.

    Attributes:
        topic: where versions are offered.
        failed: the number of a version that was tried in vain, higher than the one that runs; or 0.
        offered: the manifest of a version that is to be installed, or None; its installation ends when this changes.
        image: the `software.Image` that is being put together, or None.
    """

    def __init__(self, key, slots, run, chip=None):
        self.chip = chip or own_chip()
        self.topic = run.software(self.chip)
        self._key = key
        self._slots = slots
        newest = slots.version()
        self.failed = newest if newest > slots.running() else 0
        self.offered = None
        self.image = None

    def version(self):
        """The number of the version that runs, 0 if it has none."""
        return self._slots.running()

    def describe(self, status):
        """Add what a device's status says of its version."""
        status["software"] = self.version()
        status["chip"] = self.chip
        if self.failed:
            status["failed"] = self.failed

    def take(self, topic, payload, log):
        """A message on `topic` or below it; raises ValueError for one that makes no sense."""
        if topic != self.topic:
            if self.image:
                chunk = check(SOFTWARE_CHUNK, unpackb(payload))
                self.image.add(index_of(topic), chunk["version"], chunk["data"])
        else:
            self.offered = None  # whatever is said takes the place of the offer before, silence, too
            try:
                if payload:
                    self._offer(check(SOFTWARE, unpackb(payload)))
            except ValueError as error:  # SoftwareError and MessageError
                log("a new version of the library is passed over: %s" % error)

    def _offer(self, manifest):
        if manifest["version"] > max(self.version(), self._slots.version()):
            check_manifest(manifest, self._key, self.chip)
            # The message's buffer will be used again.
            manifest["sha256"] = bytes(manifest["sha256"])
            manifest["signature"] = bytes(manifest["signature"])
            self.offered = manifest

    async def install(self, mqtt, wait, log):
        """Put the offered version together, to be tried from the next start on; whether it is. ``log`` hears of it.

        ``wait(condition, seconds)`` is a coroutine function that looks again whenever a message has arrived.
        """
        offered = self.offered
        number = offered["version"]
        log("version %d of the library is offered, %d bytes" % (number, offered["bytes"]))
        chunks = self.topic + "/+"
        try:
            image = self.image = Image(number, offered["bytes"])
            await mqtt.subscribe(chunks)
            try:
                await wait(
                    lambda: image.is_whole() or not mqtt.connected or self.offered is not offered, _INSTALL_SECONDS
                )
            finally:
                await mqtt.unsubscribe(chunks)
            if not image.is_whole():
                if self.offered is not offered:
                    raise OSError("something else was asked for meanwhile")
                raise OSError("not all of it was to be had in %d s" % _INSTALL_SECONDS)
            image.check(offered["sha256"])
            folder = self._slots.spare()
            image.unpack(folder)
            self._slots.begin(folder, number)
            log("version %d is installed, and begins with the next start" % number)
            return True
        except (OSError, ValueError) as error:
            log("version %d was not installed: %s" % (number, error))
            return False
        finally:
            # Whatever came of it, this is not installed again until its manifest arrives anew.
            if self.image:
                self.image.close()
            self.image = None
            if self.offered is offered:
                self.offered = None

    def confirm(self):
        """The version that runs has come up."""
        self._slots.confirm()
