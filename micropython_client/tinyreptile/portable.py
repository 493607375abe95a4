"""The differences between MicroPython and CPython, all in one place.

On a board ``@micropython.viper`` turns a kernel into machine code. On CPython this module stands in for
``micropython`` and compiles the very same functions with numba, or leaves them plain where numba is missing or
``TINYREPTILE_NUMBA=0`` is set.
"""

try:
    from time import ticks_diff, ticks_ms

    import micropython
    from micropython import const

    RUNNER = "micropython"
    ptr8 = ptr16 = ptr32 = None  # viper's own words: never looked up on a board

    def view16(buffer):
        """``buffer`` as kernels take it: an array('h') is read by its address."""
        return buffer

    view8 = view32 = view16

except ImportError:
    import os
    from array import array
    from time import monotonic

    ptr8 = ptr16 = ptr32 = array

    def const(value):
        """``value`` itself: MicroPython's compiler folds what is named so."""
        return value

    def ticks_ms():
        """Milliseconds of a clock that never goes back."""
        return int(monotonic() * 1000)

    def ticks_diff(end, start):
        """Milliseconds from ``start`` to ``end``, two values of `ticks_ms`."""
        return end - start

    try:
        if os.environ.get("TINYREPTILE_NUMBA") == "0":
            raise ImportError
        import numba
        import numpy

        RUNNER = "numba"

        def _compile(function):
            try:
                return numba.njit(cache=True)(function)
            except RuntimeError:  # no folder to cache in: compile anew in each process
                return numba.njit(function)

        def view8(buffer):
            """``buffer`` as unsigned 8-bit cells that a kernel can index."""
            return numpy.frombuffer(buffer, dtype=numpy.uint8)

        def view16(buffer):
            """``buffer`` as unsigned 16-bit cells that a kernel can index."""
            return numpy.frombuffer(buffer, dtype=numpy.uint16)

        def view32(buffer):
            """``buffer`` as 32-bit cells that a kernel can index."""
            return numpy.frombuffer(buffer, dtype=numpy.int32)

    except ImportError:
        RUNNER = "python"

        def _compile(function):
            return function

        def view8(buffer):
            """``buffer`` as unsigned 8-bit cells that a kernel can index."""
            return memoryview(buffer).cast("B")

        def view16(buffer):
            """``buffer`` as unsigned 16-bit cells that a kernel can index."""
            return memoryview(buffer).cast("B").cast("H")

        def view32(buffer):
            """``buffer`` as 32-bit cells that a kernel can index."""
            return memoryview(buffer).cast("B").cast("i")

    class micropython:  # noqa: N801 - stands in for the module of that name
        """What the kernels need of MicroPython's module of the same name."""

        viper = staticmethod(_compile)
        native = staticmethod(_compile)
