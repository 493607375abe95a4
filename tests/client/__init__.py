"""Tests of a device's life: the client, on CPython and on MicroPython."""
