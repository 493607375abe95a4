"""Streams that fail, are cancelled or closed, on CPython or MicroPython; `test_streams` runs it.

It prints one line a case: its name, and what came of a sample.
"""

import asyncio
from array import array

from tinyreptile.streams import Cells, Stream, StreamError, draw


class Case(Stream):
    def __init__(self, name):
        self.name = name

    async def sample(self, x, y):
        await getattr(self, self.name)()
        x[0] = y[0] = 1

    async def good(self):
        await wait(0.01)

    async def own_cancellation(self):
        raise asyncio.CancelledError

    async def own_cancellation_after_waiting(self):
        await wait(0.01)
        raise asyncio.CancelledError

    async def own_cancellation_after_a_limit(self):
        try:
            await asyncio.wait_for(wait(1), 0.01)
        except asyncio.TimeoutError:
            raise asyncio.CancelledError from None

    async def own_cancellation_after_an_answer_in_time(self):
        await asyncio.wait_for(wait(0.01), 1)
        raise asyncio.CancelledError

    async def own_task_cancelled(self):
        task = asyncio.create_task(wait(1))
        await wait(0.01)
        task.cancel()
        await task

    async def own_task_failed(self):
        await asyncio.create_task(fail())

    async def gathered_failed(self):
        await asyncio.gather(wait(0.01), fail())

    async def limit(self):
        await asyncio.wait_for(wait(1), 0.01)

    async def closing(self):
        raise GeneratorExit

    async def exit(self):
        raise SystemExit

    async def interrupt(self):
        raise KeyboardInterrupt

    # Cancelled from outside

    async def cancelled(self):
        await wait(1)

    async def cancelled_and_swallowed(self):
        try:
            await wait(1)
        except:  # noqa: E722 - as many a sensor's code has it
            print(end="")

    async def cancelled_and_swallowed_to_wait_again(self):
        try:
            await wait(1)
        except:  # noqa: E722
            await wait(0.01)

    async def cancelled_and_failed(self):
        try:
            await wait(1)
        finally:
            raise KeyError("closed")

    async def cancelled_within_a_limit(self):
        await asyncio.wait_for(wait(1), 10)

    async def cancelled_while_gathering(self):
        await asyncio.gather(wait(1), wait(1))


async def wait(seconds):
    await asyncio.sleep(seconds)


async def fail():
    await asyncio.sleep(0.01)
    raise OSError(5)


def sampling(name):
    stream = Case(name)
    return draw(stream, Cells(array("h", [0]), stream, "input"), Cells(array("h", [0]), stream, "target"))


async def outcome(name):
    try:
        await sampling(name)
    except StreamError as error:
        return error.what.split(":")[0]
    except BaseException as error:
        return "ended by " + type(error).__name__
    return "a sample"


async def main():
    for name in dir(Case):
        if name in dir(Stream) or name in ("name", "__init__"):
            continue
        task = asyncio.create_task(outcome(name))
        if name.startswith("cancelled"):
            await wait(0.05)
            task.cancel()
        print(name, await task)
    coroutine = sampling("cancelled")
    coroutine.send(None)
    coroutine.close()
    print("closed", "without an error")


asyncio.run(main())
