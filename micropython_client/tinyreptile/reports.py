"""The rest of the protocol: what devices send, and what a coordinator says of itself. No device reads these."""

from .messages import DELTA_BYTES, MAX_ID, PIECE_BYTES, PRESENCE, MessageError, RunTopics, check_id

MESSAGE_BYTES = 1536  # the longest message of all
PACKET_BYTES = MESSAGE_BYTES + 128  # the longest packet: it has a topic of 95 bytes at most, and a header
COUNT = (1 << 31) - 1
TEXT = 200
LONG_TEXT = 1000
RHO = 1e15  # the largest cost of private updates that is told; nothing is private long before


ALL_COORDINATORS = "tinyreptile/+/coordinator"
DEVICE_WRITES = ("status", "update", "evaluation", "prediction", "log")  # below device/{id}; the first is retained


class CoordinatorTopics(RunTopics):
    """The topics of a run, as its coordinator sees them."""

    def __init__(self, run):
        super().__init__(run)
        self.coordinator = self.root + "/coordinator"
        self.all_status = self.root + "/device/+/status"
        self.all_updates = self.root + "/device/+/update"
        self.all_evaluations = self.root + "/device/+/evaluation"
        self.control = self.root + "/control"

    def piece(self, index):
        """Where piece ``index`` of the published initialization is retained; "+" is a filter for all of them."""
        return "%s/%s" % (self.init, index)

    def answers(self, client):
        """Where the requests of ``client`` are answered."""
        return self.control + "/" + check_id(client, "a client's name")


STATUS = PRESENCE + (
    ("role", str, 1, 16, False),  # train or evaluate
    ("inputs", int, 1, 65535, False),
    ("outputs", int, 1, 65535, False),
    ("ram", int, 0, COUNT, False),  # bytes free for a model
    ("platform", str, 0, TEXT, False),
    ("library", str, 0, 32, False),
    ("work", int, 0, COUNT, False),  # what it is at, 0 if nothing
    ("version", int, 0, COUNT, False),  # the initialization that it holds, whole
    ("software", int, 0, COUNT, False),  # number of the version that it runs, 0 if none was ever sent
    ("chip", str, 0, 16, False),  # what its versions are compiled for
    ("failed", int, 1, COUNT, False),  # number of a version that it tried in vain, higher than the one that it runs
    ("clip", "number", 1e-6, 1e6, False),  # largest norm of its changes, of a device whose updates are private
    ("noise", "number", 1e-6, 1e6, False),  # standard deviation of the noise on them, in units of it
    ("private", int, 0, COUNT, False),  # private updates that it ever made, by its own ledger
    ("rho", "number", 0, RHO, False),  # and what they cost it
    ("error", str, 0, TEXT, False),  # why it is unfit
    ("notice", str, 0, TEXT, False),  # what its owner should see to
)

RUN_STATUS = (
    ("protocol", int, 0, 255, True),
    ("state", str, 1, 16, True),  # running, finished, stopped, failed or offline
    ("boot", str, 1, 16, True),  # a random name of this start of the coordinator
    ("run", str, 1, MAX_ID, True),
    ("mode", str, 1, 16, True),
    ("version", int, 0, COUNT, True),
    ("updates", int, 0, COUNT, True),
    ("rounds", int, 0, COUNT, True),
    ("rate", "number", 0, 1e9, True),
    ("in_flight", int, 0, COUNT, True),
    ("devices", int, 0, COUNT, True),
    ("evaluators", int, 0, COUNT, True),
    ("unfit", int, 0, COUNT, True),
    ("quarantined", int, 0, COUNT, False),
    ("paused", bool, 0, 1, False),
    ("problem", str, 0, TEXT, False),  # what stands in the way of work just now; of a failed run: what it has ended for
    ("loss", "number", 0, 1e9, False),
    ("staleness", "number", 0, 1e9, False),
    ("round_trip_p50", "number", 0, 1e9, True),
    ("round_trip_p99", "number", 0, 1e9, True),
    ("refusals", dict, 0, 64, True),
    ("rho", "number", 0, RHO, False),  # what private updates have cost the device that they cost most
    ("dropped", dict, 0, 64, False),  # messages that were not looked at or not sent, by why
    ("evaluation", dict, 0, 32, True),
)

EVALUATION_SUMMARY = (
    ("updates", int, 0, COUNT, True),
    ("version", int, 0, COUNT, True),
    ("devices", int, 1, COUNT, True),
    ("before", "number", 0, 1e9, True),
    ("after", "number", 0, 1e9, True),
    ("median_before", "number", 0, 1e9, True),
    ("median_after", "number", 0, 1e9, True),
    ("balanced_accuracy_before", "number", 0, 1, False),
    ("balanced_accuracy_after", "number", 0, 1, False),
)

# A piece of the published initialization; devices that predict check it themselves.
PIECE = (
    ("version", int, 0, COUNT, True),
    ("crc", int, 0, (1 << 32) - 1, True),  # of the whole initialization
    ("data", bytes, 1, PIECE_BYTES, True),
)

# What comes of work: of training an update, of an evaluation what was found; or one of these in its place.
_NOTHING = (
    ("work", int, 1, COUNT, True),
    ("whole", bool, 0, 1, False),  # the initialization did not arrive; it is wanted again, and whole
    ("error", str, 1, TEXT, False),  # why nothing comes of it
)
UPDATE = _NOTHING + (
    ("chunks", int, 1, 65535, False),  # absent: one
    ("part", int, 0, 65534, False),  # which of them; absent: the first
    ("data", bytes, 1, DELTA_BYTES, False),
    ("private", int, 0, COUNT, False),  # with a private delta's first chunk: the ledger, this update on it
    ("rho", "number", 0, RHO, False),
)
FOUND = _NOTHING + (("evaluation", dict, 0, 32, False),)

# Of a delta's first chunk, beside `UPDATE`.
REPORT = (
    ("version", int, 0, COUNT, True),  # the initialization that was learned from
    ("gains", list, 1, 64, True),
    ("loss", "number", 0, 1e9, False),  # mean over the steps, before each; a private update has none
    ("saturated", int, 1, COUNT, False),  # steps in which an activation ended at +-32, if any; nor this
)

EVALUATION = (
    ("version", int, 0, COUNT, True),
    ("before", "number", 0, 1e9, True),  # mean query loss of the initialization
    ("after", "number", 0, 1e9, True),  # and after adaptation
    ("queries", int, 1, 1000000, True),
    ("seen", list, 0, 64, False),  # classes: queries of each label,
    ("hits_before", list, 0, 64, False),  # those predicted right before
    ("hits_after", list, 0, 64, False),  # and after adaptation
)


OUTPUT = (("output", "number", -1e9, 1e9, True),)
PREDICTION = (
    ("version", int, 0, COUNT, True),  # the initialization that the device's own weights began as
    ("steps", int, 0, COUNT, True),  # samples they have learned from since
    ("loss", "number", 0, 1e9, False),  # mean of the newest samples, each before its step
    ("error", "number", 0, 1e9, False),  # that of the very newest
    ("outputs", list, 1, 64, False),  # of a regression
    ("label", int, 0, 65535, False),  # of a classification,
    ("probability", "number", 0, 1, False),  # and the label's
)

REQUEST = (
    ("request", int, 1, COUNT, True),  # a number of the client's
    ("client", str, 1, MAX_ID, True),  # whose answers are wanted
    ("command", str, 1, 16, True),
    ("arguments", dict, 0, 64, False),
)

ANSWER = (
    ("request", int, 1, COUNT, True),
    ("rows", list, 0, 1024, False),  # maps; absent if there is an error
    ("error", str, 1, LONG_TEXT, False),
    ("left", int, 0, COUNT, True),  # rows that are still to come
)

# The rows of answers, by command; those of other commands are not read.
ROWS = {
    "devices": (
        ("device", str, 1, MAX_ID, True),
        ("state", str, 1, 16, True),
        ("role", str, 1, 16, False),
        ("accepted", int, 0, COUNT, False),  # updates; what is 0, or empty, is left out
        ("refused", int, 0, COUNT, False),
        ("expired", int, 0, COUNT, False),
        ("seen", "number", 0, 1e11, False),  # seconds since 1970
        ("rho", "number", 0, RHO, False),
        ("quarantine", str, 0, LONG_TEXT, False),
        ("error", str, 0, LONG_TEXT, False),
        ("notice", str, 0, LONG_TEXT, False),
        ("trouble", str, 0, LONG_TEXT, False),
    ),
    "events": (("at", "number", 0, 1e11, True), ("version", int, 0, COUNT, True), ("kind", str, 1, 32, True)),
    "rollback": (("version", int, 0, COUNT, True),),
    "set": (("setting", str, 1, 64, True),),
    "settings": (("setting", str, 1, 64, True),),
    "versions": (("version", int, 0, COUNT, True), ("updates", int, 0, COUNT, True)),
}

LOG = (
    ("lines", list, 0, 1024, True),
    ("left", int, 0, COUNT, True),  # lines that are still to come
)


def parse(topics, topic):
    """(device id, "status", "update" or "evaluation") or ("", "control"), or `MessageError`."""
    if topic == topics.control:
        return "", "control"
    parts = topic[len(topics.root) + 1 :].split("/")
    if topic.startswith(topics.root + "/") and len(parts) == 3 and parts[0] == "device":
        if parts[2] in ("status", "update", "evaluation"):
            return check_id(parts[1], "a device id"), parts[2]
    raise MessageError("no topic of this run: %r" % topic)


def check_ints(name, values, low, high):
    """``values`` if every one is an int from ``low`` to ``high``, else `MessageError` naming ``name``."""
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise MessageError("%s are integers between %d and %d" % (name, low, high))
    return values
