"""A device from its configuration file: it joins the run that the file names and stays with it.

On a computer it ends with a process's exit code. On a board nobody would start it again, so it restarts the board:
after whatever goes wrong, but not at once, so that there is time to see what it was and to stop it. Why it did is kept
in the file `ENDED` and said when it is up again.
"""

import gc
import json
import os
import time

from .learner import kernels_for
from .log import Log
from .model import WEIGHT_BITS


class ConfigError(Exception):
    """A configuration that can't be used; the text names the key."""


RESTART = 75  # exit code: a new version waits for the next start
SECRETS = ("password", "key", "wifi")  # never shown
LAST = "config.last"  # the configuration that the device joined with last
ENDED = "ended"  # why the last start came to its end
_PAUSE = 30  # seconds before a board restarts
RANGES = {"port": (1, 65535), "keepalive": (1, 65535), "predict": (0, 86400)}

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
    "wifi": (dict, {}),
    "predict": ((int, float), 0),
    "led": ((int, str), ""),
    "watchdog": (bool, True),
}
WIFI_KEYS = {"ssid": str, "password": str, "power_saving": bool}


# Loaded when they are asked for: a board has memory for what it uses.
STREAMS = {
    "sine": "tinyreptile.streams.sine.SineStream",
    "rows": "tinyreptile.streams.rows.RowsStream",
    "temperature": "tinyreptile.streams.temperature.TemperatureStream",
    "analog": "tinyreptile.streams.analog.AnalogStream",
    "motion": "tinyreptile.streams.motion.MotionStream",
}


def load_config(path):
    """The settings of the JSON file ``path``, checked; raises `ConfigError`."""
    try:
        with open(path) as file:
            given = json.load(file)
    except OSError:
        raise ConfigError("no configuration file %s; copy config.example.json and fill it in" % path)
    except ValueError:
        raise ConfigError("%s is not valid JSON" % path)
    return check_config(given, path)


def check_config(given, path):
    """The settings in ``given``, a JSON object, and the others' defaults; raises `ConfigError` naming ``path``."""
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
        _check_type(path, key, key, value, kind)
        if key in RANGES and not RANGES[key][0] <= value <= RANGES[key][1]:
            raise ConfigError("%s: %s lies between %d and %d, not %d" % ((path, key) + RANGES[key] + (value,)))
        config[key] = value
    if config["weights"] not in WEIGHT_BITS:
        raise ConfigError("%s: weights are int16 or int8, not %r" % (path, config["weights"]))
    wifi = config["wifi"]
    for key in wifi:
        if key not in WIFI_KEYS:
            raise ConfigError("%s: unknown key %s of wifi; known are %s" % (path, key, ", ".join(sorted(WIFI_KEYS))))
        _check_type(path, "wifi: " + key, "wifi", wifi[key], WIFI_KEYS[key])
    if wifi.get("password") and not wifi.get("ssid"):
        raise ConfigError("%s: wifi: ssid is missing" % path)
    return config


def _check_type(path, name, key, value, kind):
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        wanted = " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__
        shown = "" if key in SECRETS else ", not %r" % (value,)
        raise ConfigError("%s: %s is a %s%s" % (path, name, wanted, shown))


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


def make_client(config, log=None, notice=None):
    """The device that ``config`` describes; ``notice`` is what its status is to say. Raises `ConfigError`."""
    from .client import Client

    tls = wifi = None
    if config["tls_ca"]:
        from .tls import tls_context

        try:
            tls = tls_context(config["tls_ca"])
        except (OSError, ValueError):
            raise ConfigError("tls_ca: no certificate in %s" % config["tls_ca"])
    if config["wifi"].get("ssid"):
        from .board import Wifi

        try:
            wifi = Wifi(clock=tls is not None, **config["wifi"])
        except ImportError:
            raise ConfigError("wifi: this board has none, or its MicroPython does not know it")
    return Client(
        config["id"],
        config["run"],
        make_stream(config["stream"]),
        role=config["role"],
        log=log,
        notice=notice,
        predict=config["predict"] or None,
        commands=True,
        host=config["host"],
        port=config["port"],
        user=config["user"] or None,
        password=config["password"] or None,
        tls=tls,
        keepalive=config["keepalive"],
        link=wifi.up if wifi else None,
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


def _watch(config, client):
    """What looks after a board."""
    from .board import Watch, led_pin

    try:
        led = None if config["led"] == "" else led_pin(config["led"])
    except ValueError as error:
        raise ConfigError("led: %s" % error)
    return Watch(client.mqtt, led, config["watchdog"])


def _keep(path):
    """The configuration ``path`` was good enough to join with: it is what the board falls back on."""
    try:
        with open(path) as file:
            text = file.read()
        try:
            with open(LAST) as file:
                if file.read() == text:
                    return
        except OSError:
            pass
        with open(LAST, "w") as file:
            file.write(text)
    except OSError:
        pass  # a full flash, say: the board can do without


def _run(path, board=False, notice=None):
    """Run the device of the configuration ``path`` until it is stopped; returns whether it wants to be started anew."""
    config = load_config(path)
    log = Log(config["id"])
    if board:
        _recall(log)
    # MicroPython compiles the kernels while little else is loaded: for a moment that takes more than anything after it.
    gc.collect()
    kernels_for(config["weights"])
    import asyncio

    client = make_client(config, log, notice)
    if board:
        client.on_joined = lambda: _keep(path)
    watch = _watch(config, client) if board else None
    gc.collect()  # what was read to get here must not lie between what stays and a model's buffers

    async def live():
        guard = asyncio.create_task(watch.run()) if watch else None
        try:
            await client.run()
        finally:
            if guard:
                guard.cancel()

    try:
        asyncio.run(live())
        return True
    except KeyboardInterrupt:
        print("%s: %d accepted, %d refused, %d expired" % (client.id, client.accepted, client.refused, client.expired))
        return False


def _recall(log):
    """Say why the last start came to its end, if that was no good one."""
    from .board import cause

    text = cause()
    try:
        with open(ENDED) as file:
            text = file.read(200)
        os.remove(ENDED)
    except (OSError, UnicodeError):
        pass
    if text:
        log("the last start was ended by %s" % text)


def _on_board(path):
    """`main` where nobody else would start the device again."""
    from .board import print_exception, restart

    notice = None
    for at in (path, LAST):
        try:
            if not _run(at, True, notice):
                return
            break
        except ConfigError as error:
            if notice is None:
                notice = str(error)
                print("error: %s; the last good configuration is taken, if there is one" % notice)
        except Exception as error:  # whatever it is: it must not be the board's end
            print_exception(error)
            _pause("%s: %s" % (type(error).__name__, error))
            break
    else:
        print("error: %s" % notice)
        if not _is_trial():
            return  # a restart would end here again, and the prompt is what a better configuration comes through
        _pause(notice)
    restart()


def _pause(reason):
    """Before a restart for ``reason``, which is kept to be told after it."""
    from .board import feed

    print("the board restarts in %d s" % _PAUSE)
    try:
        with open(ENDED, "w") as file:
            file.write(reason[:200])
    except OSError:
        pass
    for _ in range(_PAUSE):
        feed()
        time.sleep(1)


def _is_trial():
    """Whether the library that runs is a new version that has not come up yet, so that another start may help."""
    try:
        import slots
    except ImportError:
        return False
    return slots.is_trial()


def main(path):
    """Run the device until it is stopped; returns a process's exit code, on a board None."""
    from .board import is_board

    if is_board():
        return _on_board(path)
    try:
        return RESTART if _run(path) else 0
    except Exception as error:
        from .client import DeviceError
        from .messages import MessageError

        if not isinstance(error, (ConfigError, DeviceError, MessageError)):
            raise
        print("error: %s" % error)
        return 1
