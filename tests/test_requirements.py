"""What `make` installs, by purpose, is what pyproject.toml asks for."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .environment import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ALWAYS, DEMO, COMMANDS, TESTS = (f"requirements{suffix}.txt" for suffix in ("", "-demo", "-extras", "-dev"))


def pins(name: str) -> dict[str, str]:
    """The version of each package in a file."""
    lines = (line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#"))
    requirements = [Requirement(line) for line in lines]
    assert all(str(r.specifier).startswith("==") for r in requirements)
    return {canonicalize_name(r.name): str(r.specifier)[2:] for r in requirements}


def test_no_package_is_in_two_files() -> None:
    packages = [package for name in (ALWAYS, DEMO, COMMANDS, TESTS) for package in pins(name)]
    assert sorted(packages) == sorted(set(packages))


@pytest.mark.parametrize(
    ("wanted", "files"),
    [
        (PROJECT["dependencies"], [ALWAYS]),
        (EXTRAS["swarm"], [ALWAYS, DEMO]),
        (EXTRAS["postgresql"], [ALWAYS, COMMANDS]),  # what broker_config/Containerfile installs
        *((EXTRAS[extra], [ALWAYS, DEMO, COMMANDS]) for extra in ("privacy", "boards", "study")),
        *((EXTRAS[extra], [ALWAYS, DEMO, COMMANDS, TESTS]) for extra in ("cluster", "dev")),
    ],
)
def test_each_purpose_has_its_pins_and_they_are_in_range(wanted: list[str], files: list[str]) -> None:
    pinned = {package: version for name in files for package, version in pins(name).items()}
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_every_extra_is_of_a_purpose() -> None:
    assert set(EXTRAS) == {"swarm", "postgresql", "privacy", "boards", "study", "cluster", "dev"}
