"""Stands in for MicroPython on CPython: `portable` takes it from here, boards never load it.

It compiles the kernels with numba, or leaves them plain where numba is missing or ``TINYREPTILE_NUMBA=0`` is set.
"""

import asyncio
import os
import signal
import threading
from array import array
from importlib.util import find_spec
from time import monotonic

THUMB = False
_BLOCKED_SECONDS = 2.0


class ptr32(array):  # noqa: N801 - viper's word
    """An annotation, and a cast that leaves its argument as it is."""

    def __new__(cls, cells):
        """``cells`` themselves."""
        return cells


ptr8 = ptr16 = ptr32


def const(value):
    """``value`` itself: MicroPython's compiler folds what is named so."""
    return value


def address(view):
    """``view`` itself: there are no addresses."""
    return view


def decode(data):
    """Return the text that ``data`` holds in UTF-8; ValueError if it is ill-formed."""
    return bytes(data).decode()


def is_cancelled(error):
    """Return whether ``error``, thrown into the running task's coroutine, ends the task: not so a time limit in it."""
    return isinstance(error, GeneratorExit) or asyncio.current_task().cancelling() > 0


def forget(name):
    """Nothing: there is memory."""


def collect():
    """Nothing: there is memory, and a thousand devices in a process would look through that of all, each by itself."""


def watch():
    """Have Ctrl-C end what blocks the running event loop, such as a stream that reads a serial line, after 2 s.

    By itself asyncio only notes the first one, for when the loop comes to it; the second is raised at once.
    """
    loop = asyncio.get_running_loop()
    # A task that was ended so is no fault of its own.
    loop.set_exception_handler(
        lambda loop, context: (
            isinstance(context.get("exception"), KeyboardInterrupt) or loop.default_exception_handler(context)
        )
    )
    stop = signal.getsignal(signal.SIGINT)
    main = threading.main_thread()
    if not callable(stop) or threading.current_thread() is not main:
        return  # it is ignored, as in the background of a script, or somebody else's

    def interrupt(number, frame):
        stop(number, frame)
        again = threading.Timer(_BLOCKED_SECONDS, signal.pthread_kill, (main.ident, number))
        again.daemon = True
        again.start()
        loop.call_soon_threadsafe(again.cancel)

    signal.signal(signal.SIGINT, interrupt)


def check(made, options):
    """Return why no stream can be made of the class ``made`` and ``options``, to follow its name; None: it can."""
    import inspect  # it takes a while, and only a device that is a process of its own needs it

    sample = getattr(made, "sample", None)
    if inspect.isfunction(sample) and not inspect.iscoroutinefunction(sample):
        return "sample must be async def"
    try:
        inspect.signature(made).bind(**options)
    except ValueError:
        return None  # it does not say what it takes
    except TypeError as error:
        return str(error) + describe(made)
    return None


def describe(made):
    """Return what options the stream's class ``made`` has, to follow a sentence; empty if it does not say."""
    import inspect

    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        return ""
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in named if p.default is p.empty]
    others = [p.name for p in named if p.default is not p.empty]
    return "; it needs %s and may have %s" % (", ".join(needed) or "nothing", ", ".join(others) or "nothing else")


def zeros(code, count):
    """array(``code``) of ``count`` zeros."""
    return array(code, bytes(array(code).itemsize * count))


def ticks_ms():
    """Milliseconds of a clock that never goes back."""
    return int(monotonic() * 1000)


def ticks_diff(end, start):
    """Milliseconds from ``start`` to ``end``, two values of `ticks_ms`."""
    return end - start


if os.environ.get("TINYREPTILE_NUMBA") != "0" and find_spec("numba"):
    import ast
    import inspect
    import textwrap
    from pathlib import Path
    from zlib import crc32

    import numpy

    RUNNER = "numba"

    _LOOPS = ("loops", "loops8", "taps", "taps8")

    class _Narrow(ast.NodeTransformer):
        """Makes every value an int32, as on a board, and every index unsigned; else numba computes in 64 bits.

        Narrow values and indices that can't be negative are what lets it use vector instructions.
        """

        def visit_AugAssign(self, node):
            load = ast.parse(ast.unparse(node.target), mode="eval").body
            value = ast.BinOp(load, node.op, node.value)
            return self.visit(ast.copy_location(ast.Assign([node.target], value), node))

        def visit_BinOp(self, node):
            self.generic_visit(node)
            if isinstance(node.op, (ast.LShift, ast.RShift)):
                # That the distance is below 32 has to be said, too.
                node.right = self._cast("int32", ast.BinOp(node.right, ast.BitAnd(), ast.Constant(31)))
            return self._cast("int32", node)

        def visit_Constant(self, node):
            return self._cast("int32", node) if type(node.value) is int else node

        def visit_Subscript(self, node):
            self.generic_visit(node)
            node.slice = self._cast("uint64", node.slice)
            return self._cast("int32", node) if isinstance(node.ctx, ast.Load) else node

        def visit_Call(self, node):
            self.generic_visit(node)
            name = node.func.id
            if name in ("ptr8", "ptr16", "ptr32"):
                return node.args[0]
            return self._cast("int32", node.args[0]) if name == "int" else node

        @staticmethod
        def _cast(name, node):
            return ast.copy_location(ast.Call(ast.Name("_" + name, ast.Load()), [node], []), node)

    # What a compiled function may contain beside its own file, by which alone numba tells whether its cache is old.
    _INLINED = crc32(b"".join(Path(__file__).with_name(name + ".py").read_bytes() for name in ("cpython",) + _LOOPS))

    def _compile(function):
        import numba  # it takes half a second, which who compiles nothing, as a coordinator, need not wait for

        from .cpython_cache import keep

        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
        definition = tree.body[0]
        definition.decorator_list = []
        definition.body = [_Narrow().visit(statement) for statement in definition.body]
        # A variable of an enclosing function is part of the cache's key.
        definition.body.insert(0, ast.Expr(ast.Name("_inlined", ast.Load())))
        tree.body = ast.parse("def _enclosing(_inlined):\n    return None").body
        tree.body[0].body = [definition, ast.Return(ast.Name(function.__name__, ast.Load()))]
        names = dict(function.__globals__, _int32=numba.int32, _uint64=numba.uint64)
        exec(compile(ast.fix_missing_locations(tree), inspect.getfile(function), "exec"), names)  # noqa: S102
        function = names["_enclosing"](_INLINED)
        # Of a call for every position, the call would be much of the time.
        inline = "always" if function.__module__.rpartition(".")[2] in _LOOPS else "never"
        return keep(numba.njit(inline=inline)(function))

    def view8(buffer):
        """``buffer`` as unsigned 8-bit cells that a kernel can index."""
        return numpy.frombuffer(buffer, dtype=numpy.uint8)

    def view16(buffer):
        """``buffer`` as unsigned 16-bit cells that a kernel can index."""
        return numpy.frombuffer(buffer, dtype=numpy.uint16)

    def view32(buffer):
        """``buffer`` as 32-bit cells that a kernel can index."""
        return numpy.frombuffer(buffer, dtype=numpy.int32)

else:
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
