"""TinyReptile's portable device library: integer online learning and its MQTT protocol, on MicroPython and CPython."""

__version__ = "0.1.0"
