"""Tests of the portable library, on CPython and on MicroPython."""
