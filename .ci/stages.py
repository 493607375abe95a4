"""Run the stages of continuous integration, two at a time, and stop at the first that fails twice.

Each stage is a make target. What it prints goes into out/ci/STAGE.log; its last lines are shown when it ends, and once
more at the very end if it failed. Stages run side by side since most of them wait much of their time, for emulators'
clocks, deadlines and brokers. On a machine that stands still for seconds a test may run out of time with nothing wrong:
what failed is run once more, and what passed only then is named at the end, for somebody to look at.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LOGS = Path("out") / "ci"
AT_ONCE = 2
LINES = 12  # of a stage that passed, shown when it ends
LINES_OF_FAILURE = 80
REPORT_SECONDS = 60


@dataclass(frozen=True)
class Stage:
    """One make target.

    Attributes:
        name: also of its log.
        arguments: of make.
        again: of make, to run once more what failed; without any, the same.
    """

    name: str
    arguments: tuple[str, ...]
    again: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return LOGS / f"{self.name}.log"

    def tail(self, lines: int) -> str:
        """Return the last ``lines`` of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


# One after the other: what is wrong with the code at first sight, and packages, whose installers don't share a machine.
FIRST = (Stage("check", ("check",)), Stage("packages", ("packages",)))
LAST_FAILED = "OPTIONS=--last-failed"
BOARDS = ("test-boards", "TINYREPTILE_ENDURANCE=2000")
# The longest first, so that none is left alone at the end.
REST = (
    Stage("boards", BOARDS, (*BOARDS, LAST_FAILED)),
    Stage("test", ("test",), ("test", "WORKERS=1", LAST_FAILED)),
    Stage("reproduce", ("reproduce", "STUDY_OPTIONS=--quick")),
    Stage("faults", ("test-faults", "FAULTS_OPTIONS=--quick")),
    Stage("bench", ("bench", "BENCH_OPTIONS=--quick")),
    Stage("demo", ("demo", "DEMO_OPTIONS=--rounds 3000")),
    Stage("attacks", ("attacks", "ATTACKS_OPTIONS=--quick --only reversed min-max drift turncoat")),
    Stage("image", ("test-image",)),
)


class Failed(Exception):
    """A stage has failed."""

    def __init__(self, stage: Stage, code: int) -> None:
        super().__init__(f"{stage.name} failed with exit code {code}")
        self.stage = stage


class Pipeline:
    """The stages on their way."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._running: set[Stage] = set()
        self.second_time: list[Stage] = []  # that did not pass the first

    def say(self, text: str) -> None:
        """Print ``text`` after the time since the beginning."""
        seconds = int(time.monotonic() - self._begun)
        print(f"[{seconds // 60:2}:{seconds % 60:02}] {text}", flush=True)

    async def run(self) -> None:
        """Run all stages; raise `Failed` at the first that fails, with the others ended."""
        LOGS.mkdir(parents=True, exist_ok=True)
        report = asyncio.create_task(self._report())
        for stage in FIRST:
            await self._stage(stage)
        places = asyncio.Semaphore(AT_ONCE)
        stages = [asyncio.create_task(self._in_turn(stage, places)) for stage in REST]
        try:
            for ended in asyncio.as_completed(stages):
                await ended
        finally:
            for task in (report, *stages):
                task.cancel()
            await asyncio.gather(*stages, return_exceptions=True)

    async def _in_turn(self, stage: Stage, places: asyncio.Semaphore) -> None:
        async with places:
            await self._stage(stage)

    async def _stage(self, stage: Stage) -> None:
        begun = time.monotonic()
        stage.log.unlink(missing_ok=True)
        if code := await self._make(stage, stage.arguments):
            print(stage.tail(LINES_OF_FAILURE))
            self.say(f"{stage.name} failed with exit code {code}; what failed is run once more")
            self.second_time.append(stage)
            if code := await self._make(stage, stage.again or stage.arguments):
                raise Failed(stage, code)
        print(stage.tail(LINES))
        self.say(f"{stage.name} passed in {(time.monotonic() - begun) / 60:.1f} min")

    async def _make(self, stage: Stage, arguments: tuple[str, ...]) -> int:
        """Run make with ``arguments``; return its exit code."""
        self.say(f"{stage.name}: make {' '.join(arguments)}")
        self._running.add(stage)
        with stage.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                "make", *arguments, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL, process_group=0
            )
            try:
                return await process.wait()
            finally:
                self._running.discard(stage)
                if process.returncode is None:
                    await _end(process)

    async def _report(self) -> None:
        """Show now and then how far the running stages are."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            for stage in list(self._running):
                self.say(f"{stage.name}: {stage.tail(1)[-100:]}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End ``process`` and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            async with asyncio.timeout(10):
                await process.wait()
        except ProcessLookupError:
            return
        except TimeoutError:
            continue


def main() -> int:
    """Run the pipeline; return the exit code."""
    pipeline = Pipeline()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who cancels a run has its stages ended, too
    try:
        asyncio.run(pipeline.run())
    except Failed as failure:
        print(failure.stage.tail(LINES_OF_FAILURE))
        pipeline.say(f"{failure}; all of its output is in {failure.stage.log}")
        return 1
    except KeyboardInterrupt:
        pipeline.say("stopped")
        return 130
    pipeline.say("all stages passed: " + ", ".join(stage.name for stage in FIRST + REST))
    for stage in pipeline.second_time:
        pipeline.say(f"{stage.name} passed only the second time; what failed the first is in {stage.log}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
