"""`tinyreptile privacy`, a private swarm, and what an operator is told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from command_line.app import app

from ..commands import Popen, tinyreptile, wait_until
from ..environment import Mosquitto, need_module
from .test_runs import said, updates


def told(*arguments: object) -> list[str]:
    """The right column of what `tinyreptile privacy` prints: noise, updates, epsilon, delta."""
    need_module("dp_accounting")
    done = CliRunner().invoke(app, ["privacy", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return [line.split("│")[2].strip() for line in done.output.splitlines() if line.startswith("│")]


def test_noise_updates_and_epsilon_are_told_as_the_documentation_has_them() -> None:
    assert told("--epsilon", 8, "--updates", 10) == ["4.033", "10", "8", "1e-05"]
    assert told("--noise", 2, "--updates", 10) == ["2", "10", "19.05", "1e-05"]
    assert told("--noise", 4, "--epsilon", 8)[:2] == ["4", "9"]


def test_a_smaller_delta_takes_more_noise() -> None:
    assert float(told("--epsilon", 8, "--updates", 10, "--delta", 1e-9)[0]) > 4.033


@pytest.mark.parametrize("given", [[], ["--noise", 2], ["--epsilon", 8, "--noise", 2, "--updates", 10]])
def test_two_of_the_three_are_needed(given: list[object], tmp_path: Path) -> None:
    refused = tinyreptile("privacy", *given, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.strip() == "error: give two of --epsilon, --noise and --updates, and the third is told"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--privacy-clip", 0.5], "--privacy-clip and --privacy-noise go together"),
        (["--privacy-clip", 2, "--privacy-noise", 2], "clip times noise is at most 1.698, not 4.0"),
    ],
)
def test_a_swarm_with_half_a_privacy_or_too_much_is_refused(
    options: list[object], complaint: str, tmp_path: Path
) -> None:
    refused = tinyreptile("swarm", *options, cwd=tmp_path)
    assert refused.returncode == 1
    assert complaint in " ".join(refused.stderr.split())


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("compiled")
def test_an_operator_sees_what_devices_have_lost(
    broker: Mosquitto, start: Callable[..., Popen], tmp_path: Path
) -> None:
    need_module("dp_accounting")
    options: list[object] = ["--broker", f"{broker.host}:{broker.port}", "--run", "discreet"]
    start("serve", *options, "--rounds", 0, "--store", "kitchen.sqlite")
    start("swarm", *options, "-n", 3, "--evaluators", 0, "--privacy-clip", 0.1, "--privacy-noise", 4)
    wait_until(lambda: updates(tmp_path) > 20)
    row = said("devices", "show", "sine-0", *options, "--delta", "1e-6", cwd=tmp_path)
    for words in ("clip │ 0.1", "noise │ 4.0", "private │", "rho │", "at delta 1e-06"):
        assert words in row
    assert "privacy of the device that lost most │ epsilon" in said("status", *options, cwd=tmp_path)
