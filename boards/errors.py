"""What can be wrong with a board, or with what was asked of it."""


class BoardError(Exception):
    """A board that is not there, can't be used or does not do as it should; the text says what to do."""
