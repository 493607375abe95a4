"""A device's configuration: what may stand in the file, checked. A board forgets it after its start."""

import json

from .device import ConfigError
from .messages import CLIENT_ID, EVALUATE, TRAIN, check_id
from .model import WEIGHT_BITS
from .portable import const

SECRETS = ("password", "key", "wifi")  # never shown
RANGES = {"port": (1, 65535), "keepalive": (1, 65535), "predict": (0, 86400), "sleep": (0, 86400)}

_SHOWN = const(60)  # characters of a value that can't be

TLS_FILES = ("tls_ca", "tls_cert", "tls_key")

# key: (type, default); None: the key is required
KEYS = {
    "id": (str, None),
    "run": (str, "default"),
    "role": (str, "train"),
    "host": (str, None),
    "port": (int, 1883),
    "user": (str, ""),
    "password": (str, ""),
    "client_id": (str, CLIENT_ID),
    "tls_ca": (str, ""),
    "tls_cert": (str, ""),
    "tls_key": (str, ""),
    "keepalive": (int, 30),
    "weights": (str, "int16"),
    "key": (str, ""),
    "stream": (dict, None),
    "privacy": (dict, {}),
    "wifi": (dict, {}),
    "predict": ((int, float), 0),
    "sleep": ((int, float), 0),
    "led": ((int, str), ""),
    "watchdog": (bool, True),
}
WIFI_KEYS = {"ssid": str, "password": str, "power_saving": bool}


def load_config(path):
    """The settings of the JSON file ``path``, checked; raises `ConfigError`."""
    try:
        with open(path, encoding="utf-8") as file:
            given = json.loads(file.read().lstrip("\ufeff"))  # editors on Windows begin it with a mark
        repr(given)  # MicroPython reads what is nested too deep for anything else
    except OSError:
        raise ConfigError("no configuration file %s; copy config.example.json and fill it in" % path)
    except (ValueError, RuntimeError, MemoryError):  # the latter two if it is nested too deep
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
            raise ConfigError(
                "%s: %s lies between %d and %d, not %s" % ((path, key) + RANGES[key] + (describe(value),))
            )
        config[key] = value
    try:
        check_id(config["id"], "id")
        check_id(config["run"], "run")
        check_client_id(config["client_id"])
        check_text(config["user"])
    except ValueError as error:
        raise ConfigError("%s: %s" % (path, error))
    if config["role"] not in (TRAIN, EVALUATE):
        raise ConfigError("%s: role is %s or %s, not %s" % (path, TRAIN, EVALUATE, describe(config["role"])))
    host = config["host"]
    labels = host.rstrip(".").split(".")
    if (
        not all(0 < len(label) < 64 for label in labels)
        or "/" in host
        or " " in host
        or host.count(":") == 1  # an address of IPv6 has more of them
    ):
        raise ConfigError(
            "%s: host is a name or an address alone, with the port in port, not %s" % (path, describe(host))
        )
    if config["weights"] not in WEIGHT_BITS:
        raise ConfigError("%s: weights are int16 or int8, not %s" % (path, describe(config["weights"])))
    wifi = config["wifi"]
    for key in wifi:
        if key not in WIFI_KEYS:
            raise ConfigError("%s: unknown key %s of wifi; known are %s" % (path, key, ", ".join(sorted(WIFI_KEYS))))
        _check_type(path, "wifi: " + key, "wifi", wifi[key], WIFI_KEYS[key])
    if config["password"] and not config["user"]:
        raise ConfigError("%s: a password goes with a user" % path)
    if not bool(config["tls_cert"]) == bool(config["tls_key"]) <= bool(config["tls_ca"]):
        raise ConfigError("%s: tls_cert, tls_key and tls_ca go together" % path)
    if config["privacy"]:
        _check_privacy(path, config)
    if config["sleep"] and config["predict"]:
        raise ConfigError("%s: sleep: a device that predicts stays awake" % path)
    if wifi.get("password") and not wifi.get("ssid"):
        raise ConfigError("%s: wifi: ssid is missing" % path)
    return config


def check_text(text):
    """Return ``text``; raise ValueError if it has control characters, for which brokers close the connection."""
    for c in text:
        if c < " " or "\x7f" <= c < "\xa0":
            raise ValueError("a name must not contain control characters, as in %r" % text)
    return text


def check_client_id(text):
    """Raise ValueError if ``text`` is no client id, or names in braces something else than ``id`` and ``random``."""
    if not 1 <= len(text) <= 128:
        raise ValueError("a client id has 1 to 128 characters, not %d" % len(text))
    check_text(text)
    rest = text.replace("{id}", "").replace("{random}", "")
    if "{" in rest or "}" in rest:
        raise ValueError("the braces of a client id hold id or random, not as in %s" % text)


def _check_privacy(path, config):
    from . import budget

    if config["role"] != TRAIN:
        raise ConfigError("%s: privacy: a held-out device tells what its samples say; its role must be train" % path)
    try:
        budget.check(**config["privacy"])
    except TypeError:
        raise ConfigError("%s: privacy has clip and noise, and updates where there is a budget" % path)
    except ValueError as error:
        raise ConfigError("%s: privacy: %s" % (path, error))


def describe(value):
    """``value`` as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _check_type(path, name, key, value, kind):
    if isinstance(value, str) and "\0" in value:
        raise ConfigError("%s: %s must not contain the character U+0000" % (path, name))
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        wanted = " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__
        article = "an" if wanted[0] in "aeiou" else "a"
        shown = "" if key in SECRETS else ", not " + describe(value)
        raise ConfigError("%s: %s is %s %s%s" % (path, name, article, wanted, shown))
