"""report.html: the verdict, the pictures and the costs of a set on one self-contained page without script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

    from ..modalities.base import Preview

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page's Content-Security-Policy: nothing is fetched, nothing runs."""


@dataclass(frozen=True)
class Item:
    """One example of the set in the gallery, and the real training example nearest to it (None: not looked for).

    label, neighbour_label  class names, as hostile as the data
    distance                between the two, in whatever unit the caller measured it
    """

    label: str
    preview: Preview
    neighbour: Preview | None = None
    neighbour_label: str | None = None
    distance: float | None = None


def html(
    manifest: Mapping[str, Any], previews: Sequence[Item] = (), evaluation: Mapping[str, Any] | None = None, *, loading: Mapping[str, str] | None = None
) -> str:
    """The page, as text that is valid UTF-8 whatever the names in it.

    manifest    the artifact's manifest.json; a missing key leaves its line out
    evaluation  what `datadistill evaluate --json` prints; without it the page says how to get one
    loading     {title: code} of ways to read the set ("torch", "numpy", "datasets")
    """
    from .sections import context

    return _template().render(policy=POLICY, css=_css(), **context(manifest, previews, evaluation, loading or {}))


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from ..text import safe

    def shown(value: Any) -> Any:
        """Every text on its way into the page: control, escape and bidi characters and broken UTF-8 made visible, then escaped."""
        return value if isinstance(value, (Markup, int, float)) else "" if value is None else safe(value, 2000)

    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=shown, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = safe
    return environment.from_string(_text("page.html"))


def _css() -> Any:
    from markupsafe import Markup

    return Markup(_text("style.css"))  # ours, from the package: the only text that is not escaped


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
