"""The protocol, once: topics, messages and their fields. Devices and the coordinator both take it from here.

Everything travels over MQTT 3.1.1 at QoS 1 as MessagePack maps. ``docs/protocol.md`` explains each exchange. What no
device reads is in `reports`: it takes no memory on a board.
"""

from .portable import const

PROTOCOL = 4
DELTA_BYTES = 896  # of a delta in one message
PIECE_BYTES = 1000  # of an initialization in one message
CHUNK_BYTES = 1024  # of a file in one message
# Of a device whose configuration has none: its id, a random word of each start. A fleet's broker knows the beginning.
CLIENT_ID = "tinyreptile-{id}-{random}"
MESSAGE_BYTES = 1184  # the longest message a device sends or reads: it has a buffer for each way
MAX_ID = const(32)  # characters of a run's or a device's name

TRAIN = "train"
EVALUATE = "evaluate"


class MessageError(ValueError):
    """A message that the protocol does not know; the text names the field and what it may hold."""


def check_id(value, what):
    """``value`` if it is a legal name for one MQTT topic level, else `MessageError` naming ``what``."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID:
        raise MessageError("%s has 1 to %d characters, not %.60r" % (what, MAX_ID, value))
    for c in value:
        if not ("a" <= c <= "z" or "A" <= c <= "Z" or "0" <= c <= "9" or c in "-_"):
            raise MessageError("%s is made of letters, digits, - and _, not %.60r" % (what, value))
    return value


def index_of(topic):
    """The number that is the last level of ``topic``, that of a chunk; else `MessageError`."""
    text = topic[topic.rfind("/") + 1 :]
    if not 1 <= len(text) <= 5 or not all("0" <= c <= "9" for c in text):  # int takes signs, spaces and more
        raise MessageError("no number of a chunk: %r" % text)
    return int(text)


class RunTopics:
    """The topics of a run, as far as its devices need them; `reports` has the others."""

    def __init__(self, run):
        self.root = "tinyreptile/" + check_id(run, "a run's name")
        self.init = self.root + "/init"

    def software(self, chip):
        """Where the newest version of the library is announced to boards with that ``chip``; its chunks lie below."""
        return "%s/software/%s" % (self.root, chip)

    def device(self, device_id):
        """The topics of one device."""
        return DeviceTopics(self, device_id)


class DeviceTopics:
    """The topics of one device of a run."""

    def __init__(self, run, device_id):
        base = run.root + "/device/" + check_id(device_id, "a device id")
        self.status = base + "/status"
        self.work = base + "/work"
        self.prediction = base + "/prediction"
        self.label = base + "/label"
        self.command = base + "/command"
        self.log = base + "/log"
        self.update = base + "/update"  # of a device that trains; of one that is held out
        self.evaluation = base + "/evaluation"


# A field: (name, type, lowest or shortest, highest or longest, required). Numbers have a range, strings, binary and
# lists a length. "number" takes int and float; unknown fields are passed over, so that a newer peer may say more.
_COUNT = const((1 << 31) - 1)
_TEXT = const(200)

# What a device reads of another's status; `reports` has all that one may say.
PRESENCE = (
    ("protocol", int, 0, 255, True),
    ("state", str, 1, 16, True),  # online, unfit, offline or probe
    ("boot", str, 1, 16, True),  # a random name of this start of the device
)

MANIFEST = (
    ("protocol", int, 0, 255, True),
    ("version", int, 0, _COUNT, True),
    ("model", list, 3, 64, True),
    ("weights", str, 1, 16, True),  # the parameters on a device: int16 or int8
    ("encoding", str, 1, 16, True),  # the initialization on the wire: int16 or int8
    ("bytes", int, 1, _COUNT, True),
    ("crc", int, 0, (1 << 32) - 1, True),
    ("beta", "number", 0, 1, False),  # learning rate for who adapts it
    ("boot", str, 1, 16, False),  # a random name of this start of the coordinator
)

# What a coordinator sends to a device. With `version` it is a request, which may answer the update before; with `at` a
# further piece of the request's initialization; else an answer alone.
WORK = (
    ("work", int, 1, _COUNT, False),  # the request's number
    ("version", int, 0, _COUNT, False),  # to begin from
    ("crc", int, 0, (1 << 32) - 1, False),  # of its cells, as a device holds them
    ("from", int, 0, _COUNT, False),  # the version that the device holds and that is changed into the other
    ("task", dict, 0, 16, False),  # what is to be done; absent: the same as for the request before
    ("seconds", "number", 0, 1000000, False),  # until the deadline, where they are not the task's
    ("at", int, 1, _COUNT, False),  # where `data` belongs; absent: at the beginning
    ("data", bytes, 0, PIECE_BYTES, False),
    ("private", int, 0, _COUNT, False),  # of a device whose updates are private: those that are accounted before this,
    ("noise", "number", 0, 1e6, False),  # and the noise of this one, which is accounted as well
    ("done", int, 1, _COUNT, False),  # the request that is answered: its update is durable, or
    ("refused", str, 0, _TEXT, False),  # why it is not taken
)

TASK = (
    ("kind", str, 1, 16, True),  # train or evaluate
    ("steps", int, 1, 1000000, True),  # one-sample SGD steps
    ("beta", "number", 0, 1, True),  # learning rate
    ("seconds", "number", 0, 1000000, True),  # until the deadline
    ("bits", int, 4, 16, False),  # of the delta, for train
    ("kept", int, 1, _COUNT, False),  # how many of the largest changes the delta holds, for train; absent: all
    ("shots", int, 1, 1000000, False),  # distinct support samples, for evaluate
    ("queries", int, 1, 1000000, False),  # query samples, for evaluate
)

LABEL = (("label", int, 0, 65535, True),)

COMMAND = (("command", str, 1, 16, True),)  # log: tell the newest lines; restart


def check(fields, message):
    """``message`` if it is a map with the required fields, each of its type and range; else `MessageError`."""
    if not isinstance(message, dict):
        raise MessageError("a message is a map, not %s" % type(message).__name__)
    for name, kind, low, high, required in fields:
        if name not in message:
            if required:
                raise MessageError("%s is missing" % name)
            continue
        value = message[name]
        if kind is bytes:
            good = isinstance(value, (bytes, bytearray, memoryview))
        elif kind == "number":
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
        else:
            good = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not good:
            raise MessageError("%s has the wrong type, %s" % (name, type(value).__name__))
        if kind in (int, "number"):
            if not low <= value <= high:
                raise MessageError("%s lies between %s and %s, not %s" % (name, low, high, value))
        elif kind is not bool and not low <= len(value) <= high:
            raise MessageError("%s has a length of %d to %d, not %d" % (name, low, high, len(value)))
    return message


def chunk_count(size, limit=CHUNK_BYTES):
    """Messages that ``size`` bytes travel in, with ``limit`` at most in each."""
    return (size + limit - 1) // limit
