"""The container files name what is there, and a service in a container may do no more than it needs."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest
import yaml
from typer.testing import CliRunner

from command_line.app import app
from tests.environment import ROOT

TEXT = (ROOT / "broker_config" / "Containerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
COMPOSE = yaml.safe_load((ROOT / "broker_config" / "compose.yaml").read_text())


def copied() -> list[str]:
    """What is copied from the repository."""
    lines = [shlex.split(rest) for word, rest in INSTRUCTIONS if word == "COPY" and not rest.startswith("--from")]
    return [source for words in lines for source in words[:-1]]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_is_there(source: str) -> None:
    assert (ROOT / source).exists()


def test_all_that_the_wheel_is_made_of_is_copied() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = [*wheel["packages"], *wheel["force-include"]]
    assert [path for path in wanted if not any(path == c or path.startswith(c + "/") for c in copied())] == []


def test_it_runs_as_a_user_who_is_not_root() -> None:
    last_stage = INSTRUCTIONS[max(i for i, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM") :]
    (user,) = [rest for word, rest in last_stage if word == "USER"]
    assert int(user) > 0


def test_commands_are_such_as_the_command_takes() -> None:
    (command,) = [yaml.safe_load(rest) for word, rest in INSTRUCTIONS if word == "CMD"]
    for arguments in (command, shlex.split(COMPOSE["services"]["coordinator"]["command"])):
        assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0
        assert {word for word in arguments if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", help_of("serve")))


def help_of(command: str) -> str:
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output


def test_its_health_is_asked_for_where_it_is_told() -> None:
    health = next(rest for word, rest in INSTRUCTIONS if word == "HEALTHCHECK")
    port = re.search(r"http://127\.0\.0\.1:(\d+)/healthz", health)
    assert port
    assert f'"0.0.0.0:{port[1]}"' in TEXT
    assert f"--metrics {port[1]}" in COMPOSE["services"]["coordinator"]["command"]
    assert ["EXPOSE", port[1]] in INSTRUCTIONS


def test_stores_are_in_a_volume_that_outlives_the_container() -> None:
    coordinator = COMPOSE["services"]["coordinator"]
    (mount,) = coordinator["volumes"]
    volume, path = mount.split(":")
    assert volume in COMPOSE["volumes"]
    assert ["VOLUME", path] in INSTRUCTIONS
    assert ["WORKDIR", path] in INSTRUCTIONS
    assert (coordinator["read_only"], coordinator["cap_drop"]) == (True, ["ALL"])


def test_what_compose_names_is_there() -> None:
    folder = ROOT / "broker_config"
    build = COMPOSE["services"]["coordinator"]["build"]
    assert (folder / build["context"] / build["dockerfile"]).is_file()
    for mount in COMPOSE["services"]["mosquitto"]["volumes"]:
        assert (folder / mount.split(":")[0]).is_file()
