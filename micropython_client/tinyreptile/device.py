"""A device from its configuration file: it joins the run that the file names and stays with it."""

import gc
import json

from .learner import kernels_for
from .model import WEIGHT_BITS


class ConfigError(Exception):
    """A configuration that can't be used; the text names the key."""


RESTART = 75  # exit code: a new version waits for the next start
SECRETS = ("password", "key")  # never shown
RANGES = {"port": (1, 65535), "keepalive": (1, 65535)}

# key: (type, default); None: the key is required
KEYS = {
    "id": (str, None),
    "run": (str, "default"),
    "role": (str, "train"),
    "host": (str, None),
    "port": (int, 1883),
    "user": (str, ""),
    "password": (str, ""),
    "tls_ca": (str, ""),
    "keepalive": (int, 30),
    "weights": (str, "int16"),
    "key": (str, ""),
    "stream": (dict, None),
}


# Loaded when they are asked for: a board has memory for what it uses.
STREAMS = {"sine": "tinyreptile.streams.sine.SineStream", "rows": "tinyreptile.streams.rows.RowsStream"}


def load_config(path):
    """The settings of the JSON file ``path``, checked; raises `ConfigError`."""
    try:
        with open(path) as file:
            given = json.load(file)
    except OSError:
        raise ConfigError("no configuration file %s; copy config.example.json and fill it in" % path)
    except ValueError:
        raise ConfigError("%s is not valid JSON" % path)
    if not isinstance(given, dict):
        raise ConfigError("%s holds no JSON object" % path)
    config = {}
    for key in given:
        if key not in KEYS:
            raise ConfigError("%s: unknown key %s; known are %s" % (path, key, ", ".join(sorted(KEYS))))
    for key in KEYS:
        kind, default = KEYS[key]
        value = given.get(key, default)
        if value is None:
            raise ConfigError("%s: %s is missing" % (path, key))
        if not isinstance(value, kind) or isinstance(value, bool):
            shown = "" if key in SECRETS else ", not %r" % (value,)
            raise ConfigError("%s: %s is a %s%s" % (path, key, kind.__name__, shown))
        if key in RANGES and not RANGES[key][0] <= value <= RANGES[key][1]:
            raise ConfigError("%s: %s lies between %d and %d, not %d" % ((path, key) + RANGES[key] + (value,)))
        config[key] = value
    if config["weights"] not in WEIGHT_BITS:
        raise ConfigError("%s: weights are int16 or int8, not %r" % (path, config["weights"]))
    return config


def _stream_class(kind):
    """The class of that name, or that ``module.Class`` names."""
    module, _, name = STREAMS.get(kind, kind).rpartition(".")
    try:
        return getattr(__import__(module, None, None, (name,)), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError("stream: no %s to be had: %s" % (kind, error))


def make_stream(options):
    """The stream that the configuration's "stream" object describes; raises `ConfigError`."""
    options = dict(options)
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or (kind not in STREAMS and "." not in kind):
        raise ConfigError("stream: kind is %s, or your_module.YourStream, not %r" % (", ".join(sorted(STREAMS)), kind))
    try:
        return _stream_class(kind)(**options)
    except OSError:
        raise ConfigError("stream: no file %s" % options.get("path"))
    except (TypeError, ValueError) as error:
        raise ConfigError("stream: %s" % error)


def make_client(config):
    """The device that ``config`` describes; raises `ConfigError`."""
    from .client import Client

    tls = None
    if config["tls_ca"]:
        from .tls import tls_context

        try:
            tls = tls_context(config["tls_ca"])
        except (OSError, ValueError):
            raise ConfigError("tls_ca: no certificate in %s" % config["tls_ca"])
    return Client(
        config["id"],
        config["run"],
        make_stream(config["stream"]),
        role=config["role"],
        log=lambda text: print("%s: %s" % (config["id"], text)),
        host=config["host"],
        port=config["port"],
        user=config["user"] or None,
        password=config["password"] or None,
        tls=tls,
        keepalive=config["keepalive"],
        updates=_updates(config["key"]),
    )


def _updates(key):
    """What installs new versions of the library: for who has a key to check them with, and slots to put them in."""
    if not key:
        return None
    try:
        import slots
    except ImportError:
        raise ConfigError("key: there is no slots.py beside main.py, so nothing can be installed")
    from .updates import Updates

    return Updates(key.encode(), slots)


def _restart():
    """Start anew; where the system can't, the exit code asks whoever started this process to."""
    try:
        from machine import reset
    except ImportError:
        return RESTART
    return reset()


def main(path):
    """Run the device until it is stopped; returns a process's exit code."""
    try:
        config = load_config(path)
    except ConfigError as error:
        print("error: %s" % error)
        return 1
    # MicroPython compiles the kernels while little else is loaded: for a moment that takes more than anything after it.
    gc.collect()
    kernels_for(config["weights"])
    import asyncio

    from .client import DeviceError
    from .messages import MessageError

    try:
        client = make_client(config)
        gc.collect()  # what was read to get here must not lie between what stays and a model's buffers
        try:
            asyncio.run(client.run())
            return _restart()
        except KeyboardInterrupt:
            print(
                "%s: %d accepted, %d refused, %d expired" % (client.id, client.accepted, client.refused, client.expired)
            )
            return 0
    except (ConfigError, DeviceError, MessageError) as error:
        print("error: %s" % error)
        return 1
