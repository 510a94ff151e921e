"""Where settings come from: flags, then the environment (DATADISTILL_*), then recipe.toml, then the defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..text import safe

RECIPE = "recipe.toml"


def from_recipe(path: Path | None, commands: Mapping[str, click.Command]) -> dict[str, dict[str, Any]]:
    """click's default_map from a recipe.toml: top-level keys are for every command that has such an option, a table named
    like a command for that one alone, and [set] holds hyper-parameters.
    """
    if path is None and not Path(RECIPE).is_file():
        return {}
    path = path or Path(RECIPE)
    try:
        recipe = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"no file {safe(path)}", "a TOML file of settings") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{safe(path)} is no TOML: {safe(error, 200)}", "lines like: method = \"dm\"") from error
    names = {c: {p.name: p for p in command.params} for c, command in commands.items()}
    defaults: dict[str, dict[str, Any]] = {c: {} for c in commands}
    for key, value in recipe.items():
        name = key.replace("-", "_")
        if key in commands and isinstance(value, dict):
            unknown = [k for k in value if k.replace("-", "_") not in names[key] and k != "set"]
            if unknown:
                raise UsageError(f"{safe(path)}: [{key}] has no setting {safe(unknown[0])!r}", f"one of {', '.join(names[key])}")
            defaults[key] |= {k.replace("-", "_"): _text(v) for k, v in value.items()}
        elif not any(name in known for known in names.values()):
            raise UsageError(f"{safe(path)}: no command has a setting {safe(key)!r}", "names of flags, without the dashes")
        else:
            for command, known in names.items():
                if name in known:
                    defaults[command].setdefault(name, _text(value))
    return defaults


def _text(value: Any) -> Any:
    """TOML values as flags would give them: a table of hyper-parameters becomes name=value pairs."""
    if isinstance(value, dict):
        return [f"{k}={_plain(v)}" for k, v in value.items()]
    return value


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_ipc(text: str | None) -> int | str | dict[str, int] | None:
    """'10', 'sqrt', 'proportional' or 'cat=3,dog=10'."""
    if text is None or text in ("sqrt", "proportional"):
        return text
    try:
        if "=" not in text:
            return int(text)
        return {name: int(n) for name, _, n in (pair.rpartition("=") for pair in text.split(","))}
    except ValueError:
        raise UsageError(f"--ipc {safe(text)!r}", "a number, sqrt, proportional, or cat=3,dog=10", "--ipc 10") from None


def parse_bytes(text: str | None) -> int | None:
    """'5MB', '300kB', '2MiB' or a plain number of bytes."""
    if text is None:
        return None
    units = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "": 1}
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"--bytes {safe(text)!r}", "a number with B, kB, MB, GB, KiB, MiB or GiB", "--bytes 5MB") from None


def parse_settings(pairs: tuple[str, ...]) -> dict[str, str]:
    """--set name=value, any number of times."""
    wrong = [p for p in pairs if "=" not in p]
    if wrong:
        raise UsageError(f"--set {safe(wrong[0])!r}", "name=value", "--set lr=0.5")
    return {name.strip(): value.strip() for name, _, value in (p.partition("=") for p in pairs)}
