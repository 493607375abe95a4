"""Writes the kernels for 8-bit weights from those for 16-bit ones: viper needs the width of a cell in the source.

python micropython_client/make_kernels8.py
"""

from pathlib import Path

LIBRARY = Path(__file__).parent / "tinyreptile"
POINTERS = ("w", "u", "base")  # to weights
MODULES = ("kernels", "convolutions", "loops", "taps", "wire", "sparse", "noise")
ASSEMBLY = ("thumb", "thumb_taps")  # with 8-bit weights there as well, written by hand


def narrow(source: str, name: str) -> str:
    """``source`` of the module ``name`` for 8-bit weights."""
    _, docstring, code = source.split('"""', 2)
    for pointer in POINTERS:
        code = code.replace(f"{pointer}: ptr16", f"{pointer}: ptr8")
    for module in MODULES + ASSEMBLY:
        code = code.replace(f"from .{module} import", f"from .{module}8 import")
    imported = next(line for line in code.splitlines() if line.startswith("from .portable import"))
    words = {*imported.removeprefix("from .portable import ").split(", ")} - {"ptr8", "ptr16"}
    words |= {pointer for pointer in ("ptr8", "ptr16") if f": {pointer}" in code}
    code = code.replace(imported, "from .portable import " + ", ".join(sorted(words, key=_natural)))
    return f'"""`{name}` with 8-bit weights; written by make_kernels8.py, not to be edited."""{code}'


def _natural(word: str) -> tuple[str, int]:
    letters = word.rstrip("0123456789")
    return letters, int(word[len(letters) :] or 0)


if __name__ == "__main__":
    for name in MODULES:
        (LIBRARY / f"{name}8.py").write_text(narrow((LIBRARY / f"{name}.py").read_text(), name))
