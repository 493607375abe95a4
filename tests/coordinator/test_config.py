"""The configuration: what docs/configuration.md promises, which source wins, and what is said of mistakes."""

from __future__ import annotations

import contextlib
import os
import re
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coordinator import config
from coordinator.config import MAX_CREDENTIAL, Config, broker_in, load_config
from coordinator.documents import DocumentError, parse_toml
from coordinator.errors import ConfigError
from tests.environment import ROOT

DOCS = (ROOT / "docs" / "configuration.md").read_text()
EXAMPLE = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)[0]

# Keys whose documented value is an example: they have no default, or one that depends on something else.
EXAMPLES = {
    ("run", "name"): "default",
    ("run", "store"): None,
    ("broker", "user"): None,
    ("broker", "password_file"): None,
    ("broker", "tls_ca"): None,
    ("broker", "tls_cert"): None,
    ("broker", "tls_key"): None,
    ("broker", "client_id"): None,
    ("evaluation", "beta"): None,
    ("guards", "administrator"): None,
}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TINYREPTILE_"):
            monkeypatch.delenv(name)


def fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """(table, key, field) of every key."""
    for table, holder in Config.model_fields.items():
        assert isinstance(holder.annotation, type)
        assert issubclass(holder.annotation, BaseModel)
        for key, field in holder.annotation.model_fields.items():
            yield table, key, field


def comments() -> dict[tuple[str, str], str]:
    """What the documented example says of each key."""
    table, found = "", {}
    for line in EXAMPLE.splitlines():
        if header := re.match(r"\[(\w+)\]", line):
            table = header[1]
        elif key := re.match(r"(\w+) = ", line):
            found[table, key[1]] = line.rpartition("#")[2] if "#" in line else ""
    return found


def bound(field: FieldInfo, name: str) -> Any:
    """The limit ``name`` (ge, gt, le) of a field, or None."""
    return next((getattr(item, name) for item in field.metadata if hasattr(item, name)), None)


def file(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def complaint(path: Path | None = None, **overrides: Any) -> str:
    """What is said of a configuration that is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


# The documentation


def test_the_documented_example_loads(tmp_path: Path) -> None:
    config = load_config(file(tmp_path, EXAMPLE))
    assert config.run.name == "kitchen"
    assert config.broker.password_file == tmp_path / "password.txt"
    assert config.guards.administrator == tmp_path / "administrator.toml"


def test_the_documented_example_names_every_key_and_no_other() -> None:
    documented = {(table, key) for table, keys in tomllib.loads(EXAMPLE).items() for key in keys}
    assert documented == {(table, key) for table, key, _ in fields()}


def test_the_broker_of_a_file_alone_is_not_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, '[broker]\nhost = "other.example"\nuser = "administrator@broker"\ntls_ca = "ca.pem"')
    monkeypatch.setenv("TINYREPTILE_BROKER__HOST", "broker.example")
    monkeypatch.setenv("TINYREPTILE_BROKER__USER", "coordinator@kitchen")
    assert load_config(path).broker.user == "coordinator@kitchen"
    broker = broker_in(path)
    assert (broker.host, broker.user, broker.tls_ca) == ("other.example", "administrator@broker", tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match=r"no\.toml: No such file"):
        broker_in(tmp_path / "no.toml")


@pytest.mark.parametrize(("table", "key", "field"), list(fields()))
def test_a_documented_value_is_the_default(table: str, key: str, field: FieldInfo) -> None:
    documented = tomllib.loads(EXAMPLE)[table][key]
    default = getattr(getattr(load_config(), table), key)
    if (table, key) in EXAMPLES:
        assert default == EXAMPLES[table, key]
    else:
        assert default == documented
        assert type(default) is type(documented)


def test_documented_ranges_are_the_ones_that_are_checked() -> None:
    documented, checked = {}, {}
    for table, key, field in fields():
        comment = comments()[table, key]
        if both := re.search(r"\b(\d+) to (\d+)\b", comment):
            documented[table, key] = (int(both[1]), int(both[2]))
            checked[table, key] = (bound(field, "ge"), bound(field, "le"))
        elif top := re.search(r"\bup to (\d+)\b", comment):
            documented[table, key] = (None, int(top[1]))
            checked[table, key] = (None, bound(field, "le"))
    assert len(documented) == 8
    assert checked == documented


def test_the_documentation_names_every_choice() -> None:
    types = {(table, key): field.annotation for table, key, field in fields()}
    choices = {place: get_args(kind) for place, kind in types.items() if get_origin(kind) is Literal}
    assert len(choices) == 8
    for place, values in choices.items():
        for value in values:
            assert re.search(rf"\b{value}\b", comments()[place]), f"{place} does not tell of {value}"


# Ranges


RANGES: list[tuple[str, str, list[Any], list[Any]]] = [
    ("run", "name", ["a", "A-z_9", "x" * 32], ["", "x" * 33, "a b", "a/b", "a+", "#", "é"]),
    ("run", "rounds", [0, 2**31 - 1], [-1, 2**31, 1.5, "many"]),
    ("run", "seed", [0, 2**40], [-1]),
    ("broker", "port", [1, 65535], [0, 65536]),
    ("broker", "user", ["u", "é", "x" * 16_383], ["x" * 16_384, "a\udcff"]),
    ("broker", "keepalive", [5, 3600], [4, 3601]),
    ("learning", "mode", ["serial", "asynchronous", "batch"], ["", "Serial", "parallel", 1]),
    ("learning", "in_flight", [1, 1000], [0, 1001]),
    ("learning", "batch", [1, 1000], [0, 1001]),
    ("learning", "steps", [1, 1_000_000], [0, 1_000_001]),
    ("learning", "beta", [1e-9, 1], [0, -0.1, 1.01, float("nan")]),
    ("learning", "bits", [16, 8, 4], [0, 2, 5, 32, "8"]),
    ("learning", "alpha", [1e-9, 1], [0, -0.1, 1.01, float("nan")]),
    ("learning", "alpha_end", [0, 0.3], [-0.1, 1.01, float("nan")]),
    ("learning", "schedule", ["constant", "linear", "cosine", "cooldown"], ["step"]),
    ("learning", "staleness", ["constant", "hinge", "polynomial"], ["none"]),
    ("learning", "staleness_exponent", [0, 10], [-0.1, 10.1]),
    ("learning", "hinge_free", [0, 10**6], [-1]),
    ("learning", "hinge_slope", [0, 100], [-0.1, float("nan")]),
    ("learning", "deadline", [0.01, 1_000_000], [0, -1, 1_000_001]),
    ("learning", "publish_interval", [0, 3600], [-0.01, 3601]),
    ("evaluation", "every", [0, 10**6], [-1]),
    ("evaluation", "steps", [1, 1_000_000], [0, 1_000_001]),
    ("evaluation", "shots", [1, 1_000_000], [0, 1_000_001]),
    ("evaluation", "queries", [1, 1_000_000], [0, 1_000_001]),
    ("evaluation", "beta", [1e-9, 1], [0, 1.01]),
]


@pytest.mark.parametrize(("table", "key", "value"), [(t, k, v) for t, k, good, _ in RANGES for v in good])
def test_a_value_at_the_edge_of_its_range_is_taken(table: str, key: str, value: Any) -> None:
    assert getattr(getattr(load_config(None, {table: {key: value}}), table), key) == value


@pytest.mark.parametrize(("table", "key", "value"), [(t, k, v) for t, k, _, bad in RANGES for v in bad])
def test_a_value_beyond_its_range_is_refused_by_name(table: str, key: str, value: Any) -> None:
    assert complaint(**{table: {key: value}}).startswith(f"command line: {table}.{key}: ")


def test_alpha_may_stay_where_it_is_but_not_rise() -> None:
    assert load_config(None, {"learning": {"alpha": 0.2, "alpha_end": 0.2}}).learning.alpha_end == 0.2
    text = complaint(learning={"alpha": 0.2, "alpha_end": 0.3})
    assert text == "command line: learning: alpha_end (0.3) must not be above alpha (0.2)"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ([["input", 1]], "a model is a list"),
        ([["dense", 1], ["dense", 1], ["squared_error"]], "a model begins with"),
        ([["input", 0], ["dense", 1], ["squared_error"]], "a model begins with"),
        ([["input", 1], ["dense", 4096], ["squared_error"]], "could leave 32 bits, at most 4095 are safe"),
        ([["input", 1], ["conv", 3], ["squared_error"]], "no layer is written"),
        ([["input", 1], ["dense", 3, "tanh"], ["dense", 1], ["squared_error"]], "no layer is written"),
        ([["input", 1], ["dense", 1, "relu"], ["squared_error"]], "the last layer has no ReLU"),
        ([["input", 1], ["dense", 1], ["absolute_error"]], "a model ends with"),
        ([["input", 1], *[["dense", 1]] * 17, ["squared_error"]], "at most 16 layers"),
        ([["input", 4095], ["dense", 4095], ["squared_error"]], "parameters; at most"),
        ("dense", "must be a valid list"),
    ],
)
def test_a_model_that_no_device_can_run_is_refused(model: Any, said: str) -> None:
    text = complaint(run={"model": model})
    assert text.startswith("command line: run.model: ")
    assert said in text


# Sources


def test_each_source_wins_over_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = {"learning": {"steps": 2, "batch": 2, "in_flight": 2, "hinge_free": 2}}
    path = file(tmp_path, "[learning]\nbatch = 3\nin_flight = 3\nhinge_free = 3\n")
    monkeypatch.setenv("TINYREPTILE_LEARNING__IN_FLIGHT", "4")
    monkeypatch.setenv("TINYREPTILE_LEARNING__HINGE_FREE", "4")
    learning = load_config(path, {"learning": {"hinge_free": 5}}, defaults).learning
    assert (learning.steps, learning.batch, learning.in_flight, learning.hinge_free) == (2, 3, 4, 5)
    assert learning.bits == 8, "what no source names has its own default"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("RUN__ROUNDS", "0x10", 16),
        (
            "RUN__MODEL",
            '[["input", 2], ["dense", 1], ["squared_error"]]',
            [["input", 2], ["dense", 1], ["squared_error"]],
        ),
        ("BROKER__HOST", '"broker.example"', "broker.example"),
        ("BROKER__HOST", "broker.example", "broker.example"),
        ("BROKER__USER", "12", "12"),
        ("BROKER__USER", "", None),
        ("BROKER__PORT", "", 1883),
        ("RUN__NAME", "", "default"),
        ("RUN__NAME", "1_000", "1_000"),
        ("RUN__NAME", "0x10", "0x10"),
        ("RUN__NAME", "true", "true"),
        ("RUN__NAME", "1979-05-27", "1979-05-27"),
        ("RUN__STORE", "1e3", "1e3"),
        ("RUN__STORE", "007", "007"),
        ("BROKER__PASSWORD_FILE", "12", Path("12")),
        ("BROKER__HOST", "1.10", "1.10"),
        ("RUN__ROUNDS", "1_000", 1000),
        ("RUN__PAUSED", "true", True),
        ("RUN__PAUSED", "false", False),
        ("GUARDS__TRUSTED", "[]", []),
        ("GUARDS__TRUSTED", '["desk"]', ["desk"]),
        ("EVALUATION__BETA", "1", 1.0),
        ("BROKER__PASSWORD_FILE", "secrets/password.txt", Path("secrets/password.txt")),
        ("LEARNING__BITS", "4", 4),
        ("LEARNING__BETA", "1e-3", 0.001),
        ("LEARNING__MODE", "serial", "serial"),
    ],
)
def test_the_environment_is_read_by_the_type_of_its_key(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any
) -> None:
    monkeypatch.setenv("TINYREPTILE_GUARDS__REPUTATION", "true")
    monkeypatch.setenv(f"TINYREPTILE_{name}", text)
    table, _, key = name.lower().partition("__")
    assert getattr(getattr(load_config(), table), key) == value


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("RUN__PAUSED", "yes", "true or false"),
        ("RUN__PAUSED", "True", "true or false"),
        ("RUN__PAUSED", "1", "true or false"),
        ("RUN__PAUSED", '"true"', "true or false"),
        ("RUN__PAUSED", "true\nstore = 'x'", "true or false"),
        ("RUN__ROUNDS", "5.0", "a whole number"),
        ("RUN__ROUNDS", "true", "a whole number"),
        ("RUN__ROUNDS", "٣", "a whole number"),
        ("RUN__ROUNDS", "007", "a whole number"),
        ("LEARNING__BITS", '"8"', "a whole number"),
        ("LEARNING__ALPHA", "0.5\nx=1", "a number"),
        ("LEARNING__ALPHA", "0,5", "a number"),
        ("LEARNING__ALPHA", '"0.5"', "a number"),
        ("EVALUATION__BETA", "none", "a number"),
        ("RUN__MODEL", "dense", "a list in brackets"),
        ("GUARDS__TRUSTED", "desk", "a list in brackets"),
    ],
)
def test_a_value_of_another_type_in_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, wanted: str
) -> None:
    monkeypatch.setenv(f"TINYREPTILE_{name}", text)
    key = name.lower().replace("__", ".")
    assert complaint() == f"environment: {key}: TINYREPTILE_{name} must be {wanted}, not {text!r}"


@pytest.mark.parametrize(
    "name", ["learning.hinge_free", "evaluation.every", "guards.strikes", "journal.history", "journal.rows"]
)
def test_a_count_that_no_message_holds_is_refused(name: str) -> None:
    table, key = name.split(".")
    assert f"{name}: must be less than or equal to 2147483647" in complaint(**{table: {key: 10**20}})


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("[run]\npaused = 1", "run.paused: must be true or false, not 1"),
        ('[run]\npaused = "yes"', "run.paused: must be true or false, not 'yes'"),
        ('[run]\nrounds = "5"', "run.rounds: must be a number, not '5'"),
        ('[learning]\nalpha = "0.5"', "learning.alpha: must be a number, not '0.5'"),
        ("[learning]\nalpha = true", "learning.alpha: must be a number, not true"),
    ],
)
def test_a_value_of_another_type_in_the_file_is_refused(tmp_path: Path, line: str, wanted: str) -> None:
    path = file(tmp_path, line)
    assert complaint(path) == f"{path}: {wanted}"


@pytest.mark.parametrize("key", ["client_id", "user", "host"])
@pytest.mark.parametrize("character", ["\x01", "\x1b", "\n", "\x7f", "\x9f"])
def test_a_name_with_control_characters_is_refused(key: str, character: str) -> None:
    name = f"a{character}b"
    wanted = f"command line: broker.{key}: a name must not contain control characters, as in {name!r}"
    assert complaint(broker={key: name}) == wanted


def test_variables_of_others_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYREPTILE_DATA", "somewhere")
    monkeypatch.setenv("TINYREPTILE_RUN", "")
    monkeypatch.setenv("OTHER_RUN__NAME", "other")
    monkeypatch.setenv("RUN__NAME", "other")
    assert load_config() == Config()


def test_variables_that_are_read_elsewhere_are_no_mistakes() -> None:
    sources = [*ROOT.rglob("*.py"), ROOT / "Makefile"]
    read = re.compile(
        r"""(?:environ(?:\.get)?[\[(]|envvar=|ENVIRONMENT = |^export )"?TINYREPTILE_(\w+)""", re.MULTILINE
    )
    found = {name for path in sources if ".venv" not in path.parts for name in read.findall(path.read_text())}
    assert found == config._OTHERS


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("RUN", "names no key of run; a setting is written as TINYREPTILE_RUN__NAME, and keys here are name, model"),
        ("RUN__", "names no key of run; a setting is written as TINYREPTILE_RUN__NAME, and keys here are name, model"),
        ("RUN__NAMES", "names no key of run; a setting is written as TINYREPTILE_RUN__NAME, and keys here are name"),
        ("RUN_NAME", "names no table; a setting is written as TINYREPTILE_RUN__NAME, and tables are run, broker,"),
        ("RUNS__NAME", "names no table; a setting is written as TINYREPTILE_RUN__NAME, and tables are run, broker,"),
        ("__NAME", "names no table; "),
        ("", "names no table; "),
        ("HOME", "names no table; "),
    ],
)
def test_a_variable_that_names_no_setting_is_a_mistake(name: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TINYREPTILE_{name}", "x")
    assert complaint().startswith(f"environment: TINYREPTILE_{name} {wanted}")


def test_the_store_is_named_after_the_run_unless_it_is_given() -> None:
    assert load_config(None, {"run": {"name": "attic"}}).store_location() == "attic.sqlite"
    assert load_config(None, {"run": {"store": "elsewhere.db"}}).store_location() == "elsewhere.db"


# Mistakes


def test_a_mistake_in_the_defaults_names_them() -> None:
    with pytest.raises(ConfigError, match=r"^defaults: learning\.steps"):
        load_config(None, None, {"learning": {"steps": 0}})


def test_a_mistake_in_the_file_names_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, "[learning]\nsteps = 0\n")
    assert complaint(path) == f"{path}: learning.steps: must be greater than or equal to 1, not 0"


def test_a_mistake_in_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYREPTILE_LEARNING__MODE", "fast")
    assert complaint() == "environment: learning.mode: must be 'serial', 'asynchronous' or 'batch', not 'fast'"


def test_a_mistake_on_the_command_line_names_it() -> None:
    assert complaint(learning={"bits": 5}) == "command line: learning.bits: must be 16, 8 or 4, not 5"


def test_an_unknown_key_is_told_with_the_known_ones() -> None:
    text = complaint(broker={"hots": "x"})
    known = "host, port, user, password_file, tls_ca, tls_cert, tls_key, keepalive, client_id"
    assert text == f"command line: unknown key broker.hots; known here are {known}"


def test_an_unknown_table_is_told_with_the_known_ones(tmp_path: Path) -> None:
    path = file(tmp_path, "[brokr]\nhost = 'x'\n")
    assert (
        complaint(path)
        == f"{path}: unknown key brokr; known here are run, broker, learning, evaluation, guards, privacy, journal"
    )


def test_a_table_that_is_a_value_is_told(tmp_path: Path) -> None:
    path = file(tmp_path, "broker = 5\n")
    assert complaint(path) == f"{path}: broker is a table, written [broker], not 5"


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = file(tmp_path, "[run]\nname = 'a b'\n[broker]\nport = 0\nhots = 'x'\n[learning]\nmode = 'fast'\nbits = 5\n")
    lines = complaint(path).splitlines()
    assert len(lines) == 5
    for line, key in zip(
        lines, ["run.name", "broker.port", "broker.hots", "learning.mode", "learning.bits"], strict=True
    ):
        assert line.startswith(f"{path}: ")
        assert key in line


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    assert complaint(tmp_path / "no.toml") == f"configuration file {tmp_path / 'no.toml'}: No such file or directory"


@pytest.mark.parametrize("content", [b"[run\n", b"run = \n", b"\xff\xfe", b"[run]\n[run]\n"])
def test_a_file_that_is_no_toml_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    assert complaint(path).startswith(f"configuration file {path} is not valid TOML: ")


# The password


def password(path: Path | None) -> str | None:
    return load_config(None, {"broker": {"password_file": path}}).broker.password()


def test_without_a_password_file_there_is_no_password() -> None:
    assert password(None) is None


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "s3cret\r\nan old one\n"])
def test_the_password_is_the_first_line_of_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "password").write_text(content)
    assert password(tmp_path / "password") == "s3cret"


def test_a_password_that_mqtt_has_no_room_for_is_told(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x" * MAX_CREDENTIAL + "\nmore")
    assert password(tmp_path / "password") == "x" * MAX_CREDENTIAL
    (tmp_path / "password").write_text("x" * (MAX_CREDENTIAL + 1))
    for path in (tmp_path / "password", Path("/dev/zero")):
        with pytest.raises(ConfigError, match=f"first line of {path} has over 16383 characters"):
            password(path)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"], ids=["absent", "empty", "no text"])
def test_a_password_file_that_can_not_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        password(path)
    assert str(caught.value) == f"broker.password_file: {path} can't be read; its first line must be the password"


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(mark + '[run]\nstore = "größe"\n'.encode())
    assert load_config(path).run.store == "größe"
    path.write_bytes(mark + "größe\n".encode())
    assert password(path) == "größe"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a = " + b"[" * 100_000, "values are nested too deep in it"),
        (b"[run]\nseed = " + b"9" * 5000, "a number in it has too many digits"),
        (b"a." * 100_000 + b"a = 1", "a name in it has more than 16 dots"),
        (b"[" + b"a." * 100_000 + b"a]", "a name in it has more than 16 dots"),
        (b"[[" + b"a\t. " * 100_000 + b"a]]", "a name in it has more than 16 dots"),
        (b"x = {" + b'"a.b".' * 100_000 + b"a = 1}", "a name in it has more than 16 dots"),
        (b"x = '\n" + b"'a'." * 100_000 + b"a = 1", "a name in it has more than 16 dots"),
        (b"#" * 2_000_000, "it has more than 1,048,576 characters"),
        ("[run]\nname = 1\n".encode("utf-16"), "it is no text in UTF-8 (invalid start byte at byte 0)"),
    ],
    ids=["deep", "long", "dots", "table", "tables", "inline", "quoted", "large", "UTF-16"],
)
def test_a_file_that_can_not_be_read_as_toml_is_told(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(text)
    begun = time.monotonic()
    assert complaint(path) == f"configuration file {path} is not valid TOML: {said}"
    assert time.monotonic() - begun < 5


def test_dots_in_texts_and_comments_are_not_names(tmp_path: Path) -> None:
    dots = "a." * 50 + "a"
    lines = [f'user = "{dots}" # {dots}', f"host = '{dots}'"]
    broker = load_config(file(tmp_path, f'# {dots} "\n[broker]\n' + "\n".join(lines))).broker
    assert (broker.user, broker.host) == (dots, dots)


@pytest.mark.parametrize(
    "text",
    ['"' * 500_001, '"\\' * 300_000, "'" * 500_001, ". " * 500_000, " " * 1_000_000, '"\n' * 500_000, "a" * 1_000_000],
    ids=lambda text: repr(text[:2]),
)
def test_no_text_takes_long(text: str) -> None:
    begun = time.monotonic()
    with contextlib.suppress(DocumentError):
        parse_toml(text)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RUN__MODEL", "[" * 100_000),
        ("RUN__SEED", "9" * 5000),
        ("RUN__ROUNDS", "0x" + "f" * 5000),
        ("RUN__ROUNDS", "9" * 5000),
    ],
)
def test_a_value_that_is_too_large_is_told_in_short(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(f"TINYREPTILE_{name}", text)
    said = complaint()
    assert said.startswith(f"environment: {name.lower().replace('__', '.')}: ")
    assert len(said) < 400


@pytest.mark.parametrize(
    ("table", "key"), [(t, k) for t, k, f in fields() if {str, Path} & {f.annotation, *get_args(f.annotation)}]
)
def test_no_text_has_a_character_of_zero(tmp_path: Path, table: str, key: str) -> None:
    path = file(tmp_path, f'[{table}]\n{key} = "a\\u0000b"\n')
    assert f"{table}.{key}: must not contain the character U+0000" in complaint(path)


@pytest.mark.parametrize(
    ("table", "key"), [(t, k) for t, k, f in fields() if {int, float} & {f.annotation, *get_args(f.annotation)}]
)
def test_no_number_is_true_or_false(tmp_path: Path, table: str, key: str) -> None:
    path = file(tmp_path, f"[{table}]\n{key} = true\n")
    assert f"{table}.{key}: must be a number, not true" in complaint(path)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"learning": {"mode": "serial"}, "guards": {"buffer": 5}}, 'with learning.mode "asynchronous", and the mode'),
        ({"learning": {"mode": "batch"}, "guards": {"buffer": 5}}, "where learning.batch says how many"),
        ({"guards": {"combine": "median"}}, 'guards.combine "median" takes several updates'),
        ({"learning": {"mode": "serial", "batch": 5}, "guards": {"combine": "trimmed"}}, "takes several updates"),
        ({"learning": {"mode": "batch", "batch": 1}, "guards": {"combine": "median"}}, "takes several updates"),
        (
            {"guards": {"trusted": ["d1"]}},
            "guards: trusted devices say something of the others where reputation is true",
        ),
    ],
)
def test_a_guard_that_would_do_nothing_is_refused(tables: dict[str, dict[str, Any]], said: str) -> None:
    assert said in complaint(**tables)
    with pytest.raises(ConfigError, match="guards"):
        load_config(None, tables, {"learning": {"mode": "serial"}})


def test_what_a_later_source_puts_right_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, '[learning]\nmode = "serial"\n[guards]\nbuffer = 5\n')
    assert complaint(path).startswith(f"{path}: guards.buffer")
    monkeypatch.setenv("TINYREPTILE_LEARNING__MODE", "asynchronous")
    assert load_config(path).guards.buffer == 5


def test_eight_bit_weights_need_an_initialization_of_eight_bits() -> None:
    text = complaint(run={"weights": "int8"}, learning={"encoding": "int16"})
    assert text == 'command line: learning.encoding must be "int8" where run.weights is "int8"'
    assert load_config(None, {"run": {"weights": "int8"}}).learning.encoding == "int8"


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"journal": {"rows": 5}}, "history, 1000, must not be more than rows, 5"),
        ({"journal": {"history": 0, "rows": 5}}, "history, all, must not be more than rows, 5"),
        ({"guards": {"clip": 10, "refuse": 5}}, "refuse, 5, is less than clip, 10"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_values_that_contradict_each_other_are_refused(tables: dict[str, dict[str, Any]], said: str) -> None:
    assert said in complaint(**tables)


@pytest.mark.parametrize("tables", [{"journal": {"history": 0, "rows": 0}}, {"guards": {"clip": 10, "refuse": 0}}])
def test_what_has_no_bound_contradicts_nothing(tables: dict[str, dict[str, Any]]) -> None:
    load_config(None, tables)


def test_a_trusted_device_has_the_name_of_one() -> None:
    assert "guards.trusted: a trusted device's id is made of" in complaint(
        guards={"reputation": True, "trusted": ["d/1"]}
    )
