"""The keys of the data section that say how tables of text are written, where the file itself does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnewton.config.schema import DataSection


@dataclass(frozen=True)
class TableKeys:
    """How tables are read; the defaults leave all to the file."""

    header: bool | None = None  # whether the first line names the columns
    delimiter: str | None = None  # one character; " " is any run of blanks
    decimal: str | None = None  # "." or ","
    skip_rows: int = 0  # lines before anything else
    features: tuple[str | int, ...] | None = None  # names or numbers of columns, in the net's order
    ignore: tuple[str | int, ...] = ()  # columns that are neither features nor targets
    drop: bool = False  # samples with a feature without a value, instead of refusing them
    gaps: bool = False  # features may lack values, which are NaN then

    @classmethod
    def of(cls, section: DataSection) -> TableKeys:
        """Those of a data section."""
        return cls(
            None if section.header == "auto" else section.header,
            None if section.delimiter == "auto" else section.delimiter,
            None if section.decimal == "auto" else section.decimal,
            section.skip_rows,
            None if section.features is None else tuple(section.features),
            tuple(section.ignore or ()),
            section.missing == "drop",
            section.missing == "mean",
        )

    def as_json(self) -> dict[str, Any]:
        """What differs from the defaults, as plain values."""
        default = TableKeys()
        return {k: v for k, v in asdict(self).items() if v != getattr(default, k)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TableKeys:
        """The inverse of :meth:`as_json`. Raises ValueError or TypeError for anything else."""
        if not isinstance(values, Mapping) or not set(values) <= {f.name for f in fields(cls)}:
            raise ValueError("table")
        found = dict(values)
        for key in ("features", "ignore"):
            if key in found:
                found[key] = tuple(found[key])
                if any(type(v) not in (int, str) for v in found[key]):
                    raise ValueError(key)
        kinds = {"header": bool, "delimiter": str, "decimal": str, "skip_rows": int, "drop": bool, "gaps": bool}
        if any(type(found[key]) is not kind for key, kind in kinds.items() if key in found):
            raise ValueError("table")
        return cls(**found)


NOTHING_SAID = TableKeys()
