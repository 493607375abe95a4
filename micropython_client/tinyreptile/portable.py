"""What differs between MicroPython and CPython, under one name each.

On a board ``@micropython.viper`` turns a kernel into machine code; on CPython `cpython` stands in for ``micropython``.
"""

try:
    import sys
    from array import array
    from gc import collect
    from time import ticks_diff as _difference
    from time import ticks_ms as _ticks

    import micropython
    from micropython import const
    from uctypes import addressof

    RUNNER = "micropython"

    # Whether `thumb` can be loaded: not by a firmware that could not assemble it, even if it is for an ARM.
    try:
        exec("@micropython.asm_thumb\ndef nothing():\n    nop()\n", {})  # noqa: S102
        THUMB = True
    except (NameError, SyntaxError):
        THUMB = False

    def forget(name):
        """Let go of this library's module ``name``: its memory is free once nothing of it is held."""
        # What a dictionary has removed it still holds, until the place is needed: None takes the module's before.
        full = "tinyreptile." + name
        if full in sys.modules:
            sys.modules[full] = None
            del sys.modules[full]
        package = sys.modules["tinyreptile"]
        if hasattr(package, name):
            setattr(package, name, None)
            delattr(package, name)

    _last = _ticks()
    _passed = 0

    def ticks_ms():
        """Return milliseconds of a clock that never goes back.

        MicroPython's own goes round after 12 days, and tells the order of two of its values for half of these. What has
        passed is added up here: a session's watch alone asks more often than that.
        """
        global _last, _passed
        now = _ticks()
        _passed += _difference(now, _last)
        _last = now
        return _passed

    def ticks_diff(end, start):
        """Return milliseconds from ``start`` to ``end``, two values of `ticks_ms`."""
        return end - start

    def decode(data):
        """Return the text that ``data`` holds in UTF-8; ValueError if it is ill-formed, also where str takes it."""
        text = bytes(data).decode()
        pair = 0
        for byte in data if len(text) != len(data) else b"":
            # Characters are not looked at one by one: each would be kept for ever, as a name. Two bytes show it where
            # a character of 2, 3 or 4 takes more than it needs, is a surrogate, or beyond Unicode.
            pair = pair << 8 & 0xFF00 | byte
            if pair >> 9 == 0x60 or pair >> 5 in (0x704, 0x76D) or pair >> 4 == 0xF08 or pair > 0xF48F:
                raise UnicodeError("not valid UTF-8")
        return text

    def is_cancelled(error):
        """Return whether ``error``, thrown into the running task's coroutine, ends that task: not wait_for's answer."""
        return isinstance(error, GeneratorExit) or not error.args

    def zeros(code, count):
        """array(``code``) of ``count`` zeros. It grows in its place: made from bytes, it took twice the memory."""
        piece = array(code, bytes(256))
        cells = array(code)
        while len(cells) < count:
            left = count - len(cells)
            cells.extend(piece if left >= len(piece) else piece[:left])
        return cells

    def address(view):
        """What kernels find the buffer of ``view`` by, faster than by itself. It does not keep the buffer in memory."""
        return addressof(view)

    def view16(buffer):
        """``buffer`` as kernels take it: an array('h') is read by its address."""
        return buffer

    # The pointers are viper's own words, which it does not look up.
    view8 = view32 = ptr8 = ptr16 = ptr32 = view16

except ImportError:
    from .cpython import (  # noqa: F401
        RUNNER,
        THUMB,
        address,
        collect,
        const,
        decode,
        forget,
        is_cancelled,
        micropython,
        ptr8,
        ptr16,
        ptr32,
        ticks_diff,
        ticks_ms,
        view8,
        view16,
        view32,
        zeros,
    )
