"""What differs between MicroPython and CPython, under one name each.

On a board ``@micropython.viper`` turns a kernel into machine code; on CPython `cpython` stands in for ``micropython``.
"""

try:
    import sys
    from array import array
    from gc import collect
    from time import ticks_diff, ticks_ms

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
        sys.modules.pop("tinyreptile." + name, None)
        try:
            delattr(sys.modules["tinyreptile"], name)
        except AttributeError:
            pass

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
        forget,
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
