"""A device put together from its checked `settings`: the client, its stream and what it needs of the board.

A board forgets it after its start.
"""

import sys

from .device import ConfigError, DeviceError
from .portable import RUNNER
from .streams import words

# An emulated Pico W with Wi-Fi took some 6 s for a handshake on P-256, of which computing is some 1.5 s without waits
# for the flash (docs/boards.md): more than half of the time that a connection may usually take, with the name, TCP and
# the broker's answer in it.
_SLOW_CHIP = "RP2040"
_SLOW_SECONDS = 30

# Loaded when they are asked for: a board has memory for what it uses.
STREAMS = {
    "sine": "tinyreptile.streams.sine.SineStream",
    "rows": "tinyreptile.streams.rows.RowsStream",
    "temperature": "tinyreptile.streams.temperature.TemperatureStream",
    "analog": "tinyreptile.streams.analog.AnalogStream",
    "motion": "tinyreptile.streams.motion.MotionStream",
    "microphone": "tinyreptile.streams.microphone.MicrophoneStream",
}


def make_stream(options):
    """The stream that the configuration's "stream" object describes; raises `ConfigError`.

    And `DeviceError` for what another start may do without, such as a sensor that does not answer.
    """
    options = dict(options)
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or (kind not in STREAMS and "." not in kind):
        raise ConfigError("stream: kind is %s, or your_module.YourStream, not %r" % (", ".join(sorted(STREAMS)), kind))
    module, _, name = STREAMS.get(kind, kind).rpartition(".")
    try:
        made = getattr(__import__(module, None, None, (name,)), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it runs code of a user's
        raise ConfigError("stream: %s can't be loaded, %s" % (kind, words(error)))
    problem = None
    if RUNNER != "micropython":
        from . import cpython

        problem = cpython.check(made, options)
    elif type(getattr(made, "sample", None)).__name__ == "function":  # a coroutine's is a generator
        problem = "sample must be async def"
    if problem:
        raise ConfigError("stream: %s: %s" % (kind, problem))
    try:
        stream = made(**options)
        for name in ("inputs", "outputs"):
            if type(getattr(stream, name, None)) is not int:
                raise ConfigError("stream: %s needs %s, a whole number" % (kind, name))
        return stream
    except (ConfigError, KeyboardInterrupt):
        raise
    except (TypeError, ValueError) as error:
        problem = words(error)
        if RUNNER != "micropython" and isinstance(error, TypeError):  # an option of a wrong type, as a rule
            problem += cpython.describe(made)
        raise ConfigError("stream: %s: %s" % (kind, problem))
    except BaseException as error:  # a user's may be any
        if "path" in options and isinstance(error, OSError):
            raise ConfigError("stream: %s has no file %s" % (kind, options["path"]))
        raise DeviceError("stream: %s did not begin, %s" % (kind, words(error)))


def make_client(config, log=None, notice=None, folder=""):
    """The device that ``config`` describes; ``notice`` is what its status is to say. Raises `ConfigError`.

    ``folder``, empty or with a slash at its end, is where the device keeps what it has to.
    """
    tls = wifi = None
    if config["tls_ca"]:
        from .tls import tls_context

        try:
            tls = tls_context(config["tls_ca"], config["tls_cert"], config["tls_key"])
        except (OSError, ValueError):
            from .settings import TLS_FILES

            names = [config[name] for name in TLS_FILES if config[name]]
            raise ConfigError("tls_ca, tls_cert, tls_key: not what they should be in %s" % ", ".join(names))
    if config["wifi"].get("ssid"):
        from .wifi import Wifi

        try:
            wifi = Wifi(clock=tls is not None, **config["wifi"])
        except ImportError:
            raise ConfigError("wifi: this board has none, or its MicroPython does not know it")
    updates = _updates(config["key"], config["run"])
    if updates and updates.failed:
        notice = "version %d of the library did not come up; %d runs again" % (updates.failed, updates.version())
        if log:
            log(notice)
    options = {}
    if tls and _SLOW_CHIP in getattr(sys.implementation, "_machine", ""):
        options["timeout"] = _SLOW_SECONDS
    if config["privacy"]:
        options["privacy"] = _privacy(config["privacy"], folder + "privacy-%s.json" % config["id"])
    if config["predict"]:
        from .predictions import PredictingClient as Client

        options["predict"] = config["predict"]
    else:
        from .client import Client
    client = Client(
        config["id"],
        config["run"],
        make_stream(config["stream"]),
        stream_name=config["stream"]["kind"],
        role=config["role"],
        log=log,
        notice=notice,
        commands=True,
        client_id=config["client_id"],
        host=config["host"],
        port=config["port"],
        user=config["user"] or None,
        password=config["password"] or None,
        tls=tls,
        keepalive=config["keepalive"],
        link=wifi.up if wifi else None,
        updates=updates,
        **options,
    )
    if config["sleep"]:
        from .nap import Nap

        client.rest = Nap(config["sleep"], wifi)
    return client


def _privacy(given, ledger):
    """What makes the updates private, and counts them in the file ``ledger``."""
    from .privacy import Privacy

    try:
        return Privacy(path=ledger, **given)
    except AttributeError:
        raise ConfigError("privacy: this MicroPython has no os.urandom to make the noise of")
    except ValueError as error:
        raise ConfigError("privacy: %s" % error)


def _updates(key, run):
    """What installs new versions of the library: for who has a key to check them with, and slots to put them in."""
    if not key:
        return None
    try:
        import slots
    except ImportError:
        raise ConfigError("key: there is no slots.py beside main.py, so nothing can be installed")
    from .messages import RunTopics
    from .updates import Updates

    return Updates(key.encode(), slots, RunTopics(run))
