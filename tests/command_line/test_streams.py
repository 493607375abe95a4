"""What becomes of a command by its standard streams and by the signals that end it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ..commands import COMMAND, tinyreptile, wait_until
from ..environment import Mosquitto, find_program, free_port, require
from .test_serve import get, write_run

Service = subprocess.Popen[bytes]


@pytest.fixture
def serve(broker: Mosquitto, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """A function that serves a run of its own, and returns the process once the run can work."""
    services = []

    def begin(*, preexec: Callable[[], object] | None = None, environment: Any = None, **streams: Any) -> Service:
        port = free_port()
        config = write_run(tmp_path, broker, f"streams-{port}")
        command = [*COMMAND, "serve", "--verbose", "--config", str(config), "--metrics", str(port)]
        environment = os.environ | (environment or {})
        service = subprocess.Popen(command, cwd=tmp_path, env=environment, preexec_fn=preexec, **streams)
        services.append(service)
        wait_until(lambda: service.poll() is not None or get(port, "/readyz") == "ready\n")
        assert service.poll() is None
        return service

    yield begin
    for service in services:
        with suppress(ProcessLookupError):
            service.kill()
        service.wait()


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_a_run_needs_no_standard_stream(serve: Callable[..., Service], tmp_path: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    service = serve(preexec=close)
    service.terminate()
    assert service.wait(20) == 0
    (store,) = tmp_path.glob("*.sqlite")
    checked = tinyreptile("runs", "check", store, cwd=tmp_path)
    assert checked.returncode == 0, "nothing was printed into the store"


def test_a_run_goes_on_when_the_disk_of_its_output_is_full(serve: Callable[..., Service]) -> None:
    with Path("/dev/full").open("wb") as full:
        service = serve(stdout=full, stderr=full)
    service.terminate()
    assert service.wait(20) == 0


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1:strict"])
def test_a_run_goes_on_on_a_terminal_that_lacks_characters(serve: Callable[..., Service], encoding: str) -> None:
    parent, child = pty.openpty()
    with os.fdopen(parent, "rb", buffering=0) as terminal:
        environment = {"PYTHONIOENCODING": encoding, "TERM": "xterm", "COLUMNS": "120"}
        service = serve(environment=environment, stdout=child, stderr=child)
        os.close(child)
        service.terminate()
        said = b""
        with suppress(OSError):  # the terminal's other end is closed with the process
            while piece := terminal.read(10_000):
                said += piece
        assert service.wait(20) == 0, said
    assert b"waiting for devices" in said
    assert b"Traceback" not in said


@pytest.mark.parametrize("ignored", [False, True], ids=["hangup", "nohup"])
def test_a_run_whose_terminal_is_gone_stops_in_order_unless_it_was_told_to_stay(
    serve: Callable[..., Service], ignored: bool
) -> None:
    parent, child = pty.openpty()
    ignore = (lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if ignored else None
    service = serve(preexec=ignore, stdout=child, stderr=child, environment={"TERM": "xterm"})
    os.close(child)
    os.close(parent)
    service.send_signal(signal.SIGHUP)
    if ignored:
        with pytest.raises(subprocess.TimeoutExpired):
            service.wait(2)
        service.terminate()
    assert service.wait(20) == 0


def test_a_command_whose_output_is_not_taken_says_why(tmp_path: Path) -> None:
    for arguments in (["privacy", "--epsilon", "8", "--updates", "200"], ["--version"], ["--help"], ["data", "list"]):
        with Path("/dev/full").open("w") as full:
            command = [*COMMAND, *arguments]
            done = subprocess.run(
                command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False
            )
        assert done.stderr == "error: standard output can't be written: No space left on device\n", arguments
        assert done.returncode == 1


def test_what_can_not_be_encoded_is_a_question_mark(tmp_path: Path) -> None:
    name = tmp_path / "größe→"
    for encoding in ("ascii:strict", "latin-1:strict", "utf-8:strict"):
        done = tinyreptile("export", "x.txt", "--config", f"{name}\udcff", cwd=tmp_path, PYTHONIOENCODING=encoding)
        assert "Traceback" not in done.stderr
        assert done.returncode == 1
        done = tinyreptile("data", "list", cwd=tmp_path, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("waits", ["True", "False"])
def test_progress_is_shown_whatever_the_terminal_lacks(waits: str) -> None:
    code = f"from command_line.console import Printer, out\nPrinter.goes_on = True\nPrinter.waits = {waits}\n"
    code += "out.print('unseen loss 4.1 → 0.3, größe')"
    for encoding, said in (("ascii", b"4.1 ? 0.3, gr??e"), ("latin-1", b"4.1 ? 0.3, gr\xf6\xdfe")):
        environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert said in done.stdout


def _handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("first", [False, True], ids=["any-process", "first-process"])
def test_a_signal_ends_a_command_from_its_first_moment_on(first: bool, number: int, tmp_path: Path) -> None:
    """Also as a container's first process, which a signal without a handler does nothing to."""
    before: list[str] = []
    if first:
        before = [find_program("unshare") or "", "--map-root-user", "--pid", "--fork", "--kill-child"]
        require(
            before[0] and subprocess.run([*before, "true"], capture_output=True, check=False).returncode == 0,
            "needs name spaces of processes for users",
        )
    command = [*before, *COMMAND, "serve", "--broker", "127.0.0.1:1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as service:
        pid = service.pid
        if first:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            wait_until(lambda: bool(children.read_text().split()))
            pid = int(children.read_text())
        while not _handles_sigterm(pid):
            assert service.poll() is None
        os.kill(pid, number)
        try:
            _, said = service.communicate(timeout=10)
        finally:
            service.kill()
    assert (service.returncode, said) == (130, "")
    assert list(tmp_path.iterdir()) == [], "it had not begun"


def test_an_interruption_that_python_gives_another_name_is_one(tmp_path: Path) -> None:
    code = """
import command_line.app
from command_line.main import main

class Descriptor:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt

def run():
    class Holder:
        field = Descriptor()

command_line.app.run = run
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_ctrl_c_where_python_ignores_errors_is_not_lost() -> None:
    code = """
import signal
import time
import command_line.app
from command_line.main import main
from command_line.signals import treat_as_ctrl_c

class Cleared:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def run():
    treat_as_ctrl_c()
    Cleared()
    time.sleep(120)
    return 0

command_line.app.run = run
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("module", ["command_line.signals", "command_line.app", "rich.console", "command_line.status"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_a_command_is_imported_ends_it_without_a_word(name: str, module: str) -> None:
    code = f"""
import signal
import sys

class Finder:
    def find_spec(name, path, target=None):
        if name == "{module}":
            try:
                signal.raise_signal(signal.{name})
            except BaseException:
                pass  # as an import may

sys.meta_path.insert(0, Finder)
sys.argv = ["tinyreptile", "status", "--broker", "127.0.0.1:1"]
from command_line.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_second_signal_while_the_first_is_dealt_with_says_nothing() -> None:
    code = """
import signal
import time
import command_line.app
from command_line.main import main
from command_line.signals import treat_as_ctrl_c

def run():
    treat_as_ctrl_c()
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.raise_signal(signal.SIGINT)

class Cleared:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)  # to be repeated, when the interpreter has no handlers any more

class Late:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.1)

def ends():
    treat_as_ctrl_c()
    Cleared()
    return 0

command_line.app.run = {run}
late = Late()
main()
"""
    for run, codes in (("run", (130,)), ("ends", (0, 130))):
        command = [sys.executable, "-c", code.replace("{run}", run)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in codes
        assert (done.stdout, done.stderr) == ("", "")


def test_a_sigterm_that_an_import_swallows_still_ends_a_run(broker: Mosquitto, tmp_path: Path) -> None:
    code = """
import signal
import command_line.app
from command_line.main import main
from command_line.signals import treat_as_ctrl_c

run = command_line.app.run

def swallowing():
    treat_as_ctrl_c()
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException:
        pass
    return run()

command_line.app.run = swallowing
main()
"""
    command = [sys.executable, "-c", code, "serve", "--task", "sine", "--broker", f"{broker.host}:{broker.port}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_swarm_that_is_interrupted_while_it_starts_says_nothing_but_its_counts(
    broker: Mosquitto, tmp_path: Path
) -> None:
    where = ["--broker", f"{broker.host}:{broker.port}", "--run", "hasty"]
    command = [*COMMAND, "swarm", *where, "-n", "2", "--evaluators", "0"]
    for moment in range(8):
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as swarm:
            while not _handles_sigterm(swarm.pid):
                assert swarm.poll() is None
            time.sleep(0.25 * moment)
            os.killpg(swarm.pid, signal.SIGINT)  # as a terminal does: the whole group
            try:
                said, _ = swarm.communicate(timeout=30)
            finally:
                swarm.kill()
        assert "Traceback" not in said, moment
        assert "Exception ignored" not in said, moment
        assert swarm.returncode in (0, 130), moment


def test_a_signal_between_two_handlers_is_not_the_systems(tmp_path: Path) -> None:
    code = """
import asyncio
import signal
import sys
from command_line.signals import stopping, treat_as_ctrl_c

async def main():
    loop = asyncio.get_running_loop()
    remove = loop.remove_signal_handler

    def remove_and_signal(number):
        remove(number)
        signal.raise_signal(number)

    loop.remove_signal_handler = remove_and_signal
    with stopping(lambda: None):
        pass

treat_as_ctrl_c()
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_what_aiomqtt_says_of_answers_that_nobody_waits_for_is_not_shown(tmp_path: Path) -> None:
    code = """
import logging
from command_line.console import configure_logging
configure_logging(True)
logging.getLogger("mqtt").error('Unexpected message ID "%d" in on_subscribe callback', 1)
logging.getLogger("mqtt").warning("There are 11 pending publish calls.")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "There are 11 pending" in done.stderr
    assert "Unexpected" not in done.stderr
