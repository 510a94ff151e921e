"""What a method is: hyper-parameters as fields with the paper's defaults, and one function from a task to a set."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, Self, get_args, get_type_hints

from ..data.task import Real, Task
from ..errors import UsageError
from ..modalities import ALL, Modality
from ..run import Run
from ..synthetic import SyntheticSet
from ..text import safe

TABLE = {"width": 64, "real_batch": 512}  # of quick settings for tables: a net and a batch of that size cost little there


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    venue: str
    arxiv: str = ""

    def __str__(self) -> str:
        return f"{self.title} ({self.venue}{', arXiv ' + self.arxiv if self.arxiv else ''})"


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One way to make a small set. Subclasses are final, frozen dataclasses; the fields are the hyper-parameters.

    name         what `--method` takes          family  selection, distribution, gradient, trajectory, kernel, decoupled, generative
    stores       what its set is made of               when         to use it, in a few words
    soft_labels  whether each label is a number for every class, which counts in a budget of bytes
    needs        traits a modality must have    scales_over  what grows with the machine ("classes", "experts", None)
    quick        settings with which it takes minutes on a CPU, where the paper's (the fields' defaults) would take hours
    quick_table  those of them that are others for tables, whose examples are rows and no grids

    Hyper-parameters that are numbers are finite and not negative, and whole ones at least 1, but for
    may_be_zero  whole ones that may be zero         positive  others that may not
    shares       others that are at most one         decays    others that are below one
    any_sign     those that may be negative
    """

    name: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[Paper]
    stores: ClassVar[str] = "items"
    when: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    scales_over: ClassVar[str | None] = None
    soft_labels: ClassVar[bool] = False
    quick: ClassVar[Mapping[str, Any]] = {}
    quick_table: ClassVar[Mapping[str, Any]] = {}
    may_be_zero: ClassVar[frozenset[str]] = frozenset()
    positive: ClassVar[frozenset[str]] = frozenset()
    shares: ClassVar[frozenset[str]] = frozenset()
    decays: ClassVar[frozenset[str]] = frozenset()
    any_sign: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def distill(self, task: Task, run: Run) -> SyntheticSet:
        """The set, of exactly `task.quota` items per class; the task is not changed and no global randomness is used."""

    def label_bytes(self, real: Real) -> tuple[int, int]:
        """(of each item, of the whole set) at most so many bytes of labels, beside the class: they count in a budget of bytes."""
        return 2 * len(real.modality.spec.classes) if self.soft_labels else 0, 0

    def nets_used(self, modality: Modality) -> tuple[str, ...]:
        """The student families this method looks through: the judge adds families it has not used."""
        return (self.net_for(modality),) if "net" in {f.name for f in fields(self)} else ()

    def net_for(self, modality: Modality) -> str:
        """The `net` field, where "auto" is the modality's first."""
        net = getattr(self, "net", "auto")
        return modality.nets[0] if net == "auto" else net

    @classmethod
    def takes(cls) -> list[str]:
        """The modalities it works for."""
        return [name for name, modality in ALL.items() if cls.needs <= modality.traits]

    def check(self, modality: Modality) -> None:
        """Refuse, clearly, a modality that the method cannot take, and numbers that make no sense."""
        if modality.name not in self.takes():
            raise UsageError(
                f"method {self.name!r} cannot take {modality.name} data (it needs: {', '.join(sorted(self.needs))})",
                f"{' or '.join(self.takes())} data",
                "`datadistill methods` lists the methods for each kind of data",
            )
        for f in fields(self):
            value = getattr(self, f.name)
            if type(value) in (int, float) and (wanted := self._wanted(f.name, value, whole="int" in str(f.type))):
                raise UsageError(f"{self.name}.{f.name} = {value} for {modality.name} data", wanted, f"--set {f.name}={'none' if f.default is None else f.default}")

    def _wanted(self, name: str, value: float, *, whole: bool) -> str:
        """What this hyper-parameter should be, where the value is not that; or nothing."""
        if not math.isfinite(value):
            return "a finite number"
        if name in self.shares and value > 1:
            return "at most 1"
        if name in self.decays and value >= 1:
            return "below 1"
        if whole and name not in self.may_be_zero | self.any_sign:
            return "" if value >= 1 else "at least 1"
        if name in self.positive:
            return "" if value > 0 else "above 0"
        return "" if value >= 0 or name in self.any_sign else "at least 0"

    @classmethod
    def preset_on(cls, name: str, device: str) -> str:
        """The preset that is meant: "auto" is quick on a CPU, where the method has such settings, else the paper's."""
        return name if name != "auto" else "quick" if cls.quick and device == "cpu" else "paper"

    def preset(self, name: str, modality: Modality | None = None) -> Self:
        """A copy with the settings of a preset: "paper" (the fields' defaults) or "quick", for data of this modality."""
        if name not in ("paper", "quick"):
            raise UsageError(f"no preset {safe(name)!r}", "auto, paper or quick", "--preset quick")
        return replace(self, **self.quick_for(modality)) if name == "quick" else self

    @classmethod
    def quick_for(cls, modality: Modality | None = None) -> dict[str, Any]:
        """The quick settings for data of this modality."""
        table = modality is not None and "grid" not in modality.traits
        return {**cls.quick, **(cls.quick_table if table else {})}

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """A copy with these hyper-parameters, each read as its field's type from its text (`--set lr=0.5`)."""
        hints = get_type_hints(type(self))
        names = [f.name for f in fields(self)]
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in names:
                raise UsageError(f"method {self.name!r} has no hyper-parameter {safe(name)!r}", f"one of {', '.join(names) or 'none'}")
            values[name] = _parse(f"{self.name}.{name}", hints[name], "none" if value is None else str(value))
        return replace(self, **values)

    @classmethod
    def hyperparameters(cls) -> dict[str, Any]:
        """Each hyper-parameter and its default."""
        return {f.name: f.default if f.default is not MISSING else None for f in fields(cls)}


def options_of(kind: Any) -> list[Any]:
    """What a hyper-parameter of this type may be: types, and the strings of a Literal."""
    return [own for option in get_args(kind) or (kind,) for own in get_args(option) or (option,)]


def _parse(name: str, kind: Any, text: str) -> Any:
    """`text` as `kind`: int, float, bool, str or a Literal of strings; several joined by |, tried in order."""
    options = options_of(kind)
    for option in options:
        if option is type(None) and text.lower() in ("none", ""):
            return None
        if option is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if isinstance(option, str) and text == option:
            return text
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
        if option is str:
            return text
    wanted = " or ".join(repr(o) if isinstance(o, str) else {bool: "true or false", type(None): "none"}.get(o, getattr(o, "__name__", str(o))) for o in options)
    raise UsageError(f"{name} = {safe(text)!r}", wanted, f"--set {name.split('.')[-1]}=...")
