"""One source of arithmetic, several compilers: equal weights to the last bit, from each of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

from ..environment import ARITHMETIC, CLIENT, ROOT, require, run_micropython

CHECK = ROOT / "tests" / "vectors" / "check.py"
GENERATE = ROOT / "tests" / "vectors" / "generate.py"
VECTORS = ROOT / "tests" / "vectors" / "vectors.jsonl"

# viper reads a buffer by its address, as unsigned cells; bytecode needs the cells spelled out.
BYTECODE_VIEWS = """
import uctypes

_viewed = []  # a view by address keeps nothing alive

def _bytes(buffer):
    if isinstance(buffer, bytearray):
        return len(buffer)
    unit = len(bytes(buffer[:1])) if len(buffer) else 1  # of an array or a memoryview
    return len(buffer) * unit

def _view(cell, size):
    def view(buffer):
        _viewed.append(buffer)
        layout = {"cells": (uctypes.ARRAY | 0, cell | _bytes(buffer) // size)}
        return uctypes.struct(uctypes.addressof(buffer), layout).cells
    return view

view8 = _view(uctypes.UINT8, 1)
view16 = _view(uctypes.UINT16, 2)
view32 = address = ptr32  # the view itself, of an array("i")
"""


def run_cpython(numba: bool) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TINYREPTILE_NUMBA": "1" if numba else "0"}
    return subprocess.run(
        [sys.executable, str(CHECK), str(VECTORS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def assert_equal_bits(result: subprocess.CompletedProcess[str], runner: str) -> None:
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stdout + result.stderr
    assert lines[0].endswith(runner)
    assert lines[-1].startswith("ok, ")


def test_plain_python_gives_the_golden_bits() -> None:
    assert_equal_bits(run_cpython(numba=False), "python")


def test_numba_gives_the_golden_bits() -> None:
    require(find_spec("numba"), "needs numba")
    assert_equal_bits(run_cpython(numba=True), "numba")


def test_micropython_viper_gives_the_golden_bits() -> None:
    assert_equal_bits(run_micropython(CHECK, VECTORS), "micropython")


def bytecode_client(folder: Path) -> Path:
    """A copy of the library whose kernels MicroPython interprets."""
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    package = folder / "tinyreptile"
    for name in (*ARITHMETIC, *(f"{name}8" for name in ARITHMETIC), "mel"):
        source = (package / f"{name}.py").read_text()
        bytecode = source.replace("@micropython.viper\n", "")
        assert bytecode != source
        assert "@micropython" not in bytecode
        (package / f"{name}.py").write_text(bytecode)
    with (package / "portable.py").open("a") as portable:
        portable.write(BYTECODE_VIEWS)
    return folder


def test_micropython_bytecode_gives_the_golden_bits(tmp_path: Path) -> None:
    result = run_micropython(CHECK, VECTORS, client=bytecode_client(tmp_path / "client"))
    assert_equal_bits(result, "micropython")


@pytest.mark.parametrize(
    ("module", "was", "becomes"),
    [
        ("convolutions", "0x9E37", "0x9E39"),
        ("convolutions8", "0x9E37", "0x9E39"),
        ("loops", "0x9E37", "0x9E39"),
        ("loops8", "0x9E37", "0x9E39"),
        ("wire", "0x9E37", "0x9E39"),
        ("taps", "0x9E37", "0x9E39"),
        ("taps8", "0x9E37", "0x9E39"),
        ("sparse", "0x9E37", "0x9E39"),
        ("sparse8", "0x9E37", "0x9E39"),
        ("wire8", "0x9E37", "0x9E39"),
        ("wire", "<< up\n        at = i + i", "<< up - 1\n        at = i + i"),
        ("convolutions", "top += stride", "top += 1"),
        ("convolutions", "(q & 0xFFFF) << shift)", "(q & 0x7FFF) << shift)"),
        ("convolutions", "rounding = dither", "rounding = q"),
        ("kernels", "(t >> 3)", "(t >> 2)"),
        ("kernels", "20081", "20085"),
        ("kernels", "(power * f >> 10) + 32768", "(power * f >> 10) + 32767"),
        ("loops", "q = 0x8000", "q = 0x4000"),
        ("loops", "low += product & below", "low += product & (below >> 1)"),
        ("loops8", "(q << widen) + fine", "(q << widen)"),
        ("taps", "low += products & below", "low += 0"),
        ("taps", "part = q >> narrow", "part = 0"),
        ("noise", "z >> 15", "z >> 14 & 1"),
        ("noise8", "z >> 15", "z >> 14 & 1"),
        ("noise", "square >> 15", "square >> 16"),
        ("noise", "change * mantissa >> shift", "(change * mantissa >> shift) + 1"),
        ("mel", "(im * c - re * s + 8192)", "(im * c - re * s)"),
        ("mel", "(2 * _FINE - 14)", "(2 * _FINE - 14) | 1"),
    ],
)
def test_a_changed_kernel_is_found(tmp_path: Path, module: str, was: str, becomes: str) -> None:
    client = tmp_path / "client"
    shutil.copytree(CLIENT, client, ignore=shutil.ignore_patterns("__pycache__"))
    kernels = client / "tinyreptile" / f"{module}.py"
    source = kernels.read_text()
    kernels.write_text(source.replace(was, becomes))
    assert kernels.read_text() != source
    result = run_micropython(CHECK, VECTORS, client=client)
    assert result.returncode == 1
    assert "cases differ" in result.stdout


def test_every_size_of_frame_is_among_the_vectors() -> None:
    cases = [json.loads(line) for line in VECTORS.read_text().splitlines()]
    assert {case["frame"] for kind, case in cases if kind == "features"} == {64, 128, 256, 512}


def test_every_kind_of_layer_format_and_delta_is_among_the_vectors() -> None:
    vectors = defaultdict(list)
    for line in VECTORS.read_text().splitlines():
        kind, case = json.loads(line)
        vectors[kind].append(case)
    for kind in ("learning", "batches"):
        names = {(item[0], case["weights"], case["encoding"]) for case in vectors[kind] for item in case["model"]}
        layers = ["dense", "conv2d", "conv1d", "depthwise2d", "depthwise1d", "average"]
        layers += ["squared_error", "cross_entropy"] + (["flatten"] if kind == "learning" else [])
        formats = [("int16", "int16"), ("int16", "int8"), ("int8", "int8")]
        assert names >= {(layer, *pair) for layer in layers for pair in formats}
    deltas = {(case["bits"], case["weights"], case["kept"] is None) for case in vectors["deltas"]}
    assert deltas == set(product((16, 8, 4), ("int16", "int8"), (True, False)))
    assert any(case["piece"] % 2 for case in vectors["deltas"])


def test_the_vectors_are_those_that_generate_writes(tmp_path: Path) -> None:
    for file in (CHECK, GENERATE):
        shutil.copy(file, tmp_path)
    environment = os.environ | {"TINYREPTILE_NUMBA": "0"}
    subprocess.run([sys.executable, str(tmp_path / "generate.py")], env=environment, timeout=100, check=True)
    assert (tmp_path / "vectors.jsonl").read_text() == VECTORS.read_text()
