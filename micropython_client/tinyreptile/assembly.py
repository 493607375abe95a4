"""An initialization that arrives in pieces: whole or not at all, never a mixture of versions."""

from .messages import PIECE_BYTES, MessageError


class Assembly:
    """Pieces find their place in the buffers of ``learner``; nothing else is kept of them.

    Attributes:
        version: of the initialization that the learner holds whole, None while it holds none.
        crc: of what is wanted, or was last.
        failure: whether what is wanted can't become whole any more.
        length: bytes taken so far, of all versions.
        position: where the next piece belongs: the byte, or of differences the cell.
    """

    def __init__(self, learner):
        self._learner = learner
        self.crc = 0
        self._code = None  # of the differences that are being added; None: a whole initialization is assembled
        self.position = 0  # where the next piece belongs: the byte, or of differences the cell
        self._wanted = None  # the version that is being assembled; None: pieces are passed over
        self.version = None
        self.failure = False
        self.length = 0

    def begin(self, version, crc, data=None):
        """From now on take pieces of ``version``, whose cells have the CRC-32 ``crc``.

        With ``data``, the first piece of differences, it is made of the version that is there.
        """
        self.version = self._code = None
        self.failure = False
        self.crc = crc
        self._wanted = version
        self.position = 0
        if data is not None:
            tensors = len(self._learner.model.offsets)
            self._code = bytes(data[:tensors])
            self.add(0, data[tensors:])

    def end(self):
        """Nothing comes of what is wanted."""
        self._wanted = None
        self.failure = True

    def add(self, at, data):
        """Take the piece that belongs at ``at``: bytes of a whole initialization, or cells of differences.

        Raises `MessageError` where no piece of this model begins or ends so.
        """
        if self._wanted is None or at < self.position:
            return  # it was not asked for, or is here
        learner = self._learner
        end = at
        if at > self.position:
            self.end()  # one before it was lost
            return
        if self._code is None:
            whole = len(learner.wire)
            if len(data) == min(PIECE_BYTES, whole - at):
                end = at + len(data)
                learner.wire[at:end] = data
        else:
            whole = learner.model.parameters
            if len(data) > 2:
                end = learner.change(at, self._code, data)
        if end == at:
            self.end()
            raise MessageError("a piece of %d bytes does not belong at %d" % (len(data), at))
        self.length += len(data)
        self.position = end
        if end == whole:
            version = self._wanted
            self.end()  # unless it is undamaged
            if self._code is None:
                learner.receive()
            if learner.crc() == self.crc:
                self.version = version
                self.failure = False
