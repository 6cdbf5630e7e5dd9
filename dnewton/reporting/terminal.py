"""A run in a terminal, as lines of text: where it stands, its main figures, curves of characters."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from dnewton.reporting import facts_tables, pictures
from dnewton.reporting.figures import metric_names, numbers
from dnewton.reporting.marks import shortened
from dnewton.reporting.runs import Run
from dnewton.reporting.scales import Scale
from dnewton.reporting.text_plot import Curve, plot

RECENT = 5  # iterations that the estimate of the time left is made of
TALL = 32  # lines of a terminal that has room for a second curve


@dataclass(frozen=True)
class Screen:
    """The room for a picture, and whether it can show more than ASCII."""

    width: int = 80
    height: int = 40
    fine: bool = True


def view(run: Run, screen: Screen, now: float | None = None) -> list[str]:
    """The picture: no line longer than the screen is wide."""
    width = max(40, screen.width)
    lines = [headline(run, width), standing(run, now), ""]
    if run.records:
        lines += _table(run, width, screen.fine)
        phases = _phases(run, width, screen.fine)
        room = screen.height - len(lines) - len(phases) - 2
        lines += ["", *_curves(run, width, room, screen.fine), *phases]
    lines += [f"warning: {text}" for text in run.facts.warnings[:2]]
    return [_plain(line, screen.fine)[: screen.width].rstrip() for line in lines]


def headline(run: Run, width: int = 80) -> str:
    """What is run, in a line of so many characters."""
    facts = run.facts
    known = [str(run.setting("solver", "name") or ""), f"{facts.ranks} rank(s)" if facts.ranks else ""]
    known.append(f"dnewton {facts.version}" if facts.version else "")
    what = ", ".join(filter(None, known))
    return f"{shortened(run.path, max(10, width - len(what) - 2))}  {what}"


def standing(run: Run, now: float | None = None) -> str:
    """How far it is, how fast, and how long it may still take."""
    if not run.records:
        return "no iteration has been written yet"
    done, most = last(run, "iteration"), run.setting("solver", "max_iterations")
    passes = sum(1 for record in run.records if record.get("adam_pass"))  # which it does not count
    if isinstance(most, int) and passes:
        under_way = bool(run.records[-1].get("adam_pass"))
        most += (run.setting("solver", "start_passes") or passes) if under_way else passes
    seconds = last(run, "seconds") or 0.0
    of = f"/{most}" if isinstance(most, int) else ""
    text = f"iteration {facts_tables.shown(done, 'g')}{of}  {clock(seconds)}"
    pace = _pace(run)
    if pace is not None:
        text += f"  {pace:.3g} s/it"
    if run.ended or run.facts.stopped:
        return f"{text}  {facts_tables.state(run)}"
    if pace is not None and isinstance(most, int) and done is not None:
        text += f"  left at most {clock(pace * max(0, most - done))}"
    quiet = (time.time() if now is None else now) - run.written
    return text if quiet < 60 else f"{text}  (nothing new for {clock(quiet)})"


def last(run: Run, name: str) -> float | None:
    """The last value of a figure."""
    values = numbers(run.columns, name)
    return values[-1] if values else None


def clock(seconds: float) -> str:
    """4.2 s, 1:05, 2:03:04."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _pace(run: Run) -> float | None:
    at = [value for value in numbers(run.columns, "seconds")[-RECENT - 1 :] if value is not None]
    return median(b - a for a, b in zip(at, at[1:], strict=False)) if len(at) > 1 else None


def _table(run: Run, width: int, fine: bool) -> list[str]:
    scored = [f"{part}_{name}" for name in metric_names(run.columns) for part in facts_tables.PARTS]
    rows = [("f", "loss"), *((name.replace("_", " "), name) for name in scored if name in run.columns)]
    lines = [f"{'':<20} {'now':>12}   best"]
    for label, name in rows:
        lines.append(f"{label:<20} {facts_tables.shown(last(run, name), '.6g'):>12}   {facts_tables.best(run, name)}")
    parts = []
    for label, name in (("|g|", "grad_norm"), ("λ", "lambda"), ("ρ", "ratio"), ("α", "step")):
        if (value := last(run, name)) is not None:
            parts.append(_plain(f"{label} {value:.3g}", fine))
    counts = [last(run, f"cg_iterations.{key}") for key in ("min", "mean", "max")]
    if counts[1] is not None and counts[2]:
        parts.append(f"CG {counts[0]:g}/{counts[1]:.1f}/{counts[2]:g}")
    if cut := last(run, "early_stopped"):
        parts.append(f"cut off {cut:g}")
    if parts:
        lines.append(parts[0])
    for part in parts[1:]:
        if len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


def _curves(run: Run, width: int, room: int, fine: bool) -> list[str]:
    """The loss, and below it the metrics where there is room."""
    x = numbers(run.columns, "iteration")
    loss = [Curve("f", x, numbers(run.columns, "loss"))]
    names = metric_names(run.columns)
    two = bool(names) and room >= TALL - 14
    height = max(4, (room - 4) * 3 // 5 if two else room - 2)
    lines = plot(loss, width, min(height, 16), log=True, fine=fine)
    if two:
        found = [(part, numbers(run.columns, f"{part}_{names[0]}")) for part in facts_tables.PARTS]
        curves = [Curve(f"{part} {names[0]}", x, y) for part, y in found if any(v is not None for v in y)]
        lines += plot(curves, width, min(max(4, room - 4 - height), 12), log=names[0] == "rmse", fine=fine)
    return lines


def _phases(run: Run, width: int, fine: bool) -> list[str]:
    """Bars of the seconds that the last iterations took by phase."""
    recent = {name: sum(values[-RECENT:]) for name, values in pictures.phases(run, pictures.SECONDS).items()}
    count = min(RECENT, len(run.records))
    largest = sorted((name for name in recent if recent[name] > 0), key=lambda name: -recent[name])[:4]
    if not largest:
        return []
    bar = Scale(0.0, recent[largest[0]], 0.0, width - 34)
    sign = "█" if fine else "#"
    return [
        f"{name:<18} {recent[name] / count:>9.3g} s {sign * max(1, round(bar.place(recent[name])))}" for name in largest
    ]


def _plain(line: str, fine: bool) -> str:
    if fine:
        return line
    for sign, word in (("λ", "lambda"), ("ρ", "ratio"), ("α", "alpha"), ("–", "-"), ("…", "~")):
        line = line.replace(sign, word)
    return line.encode("ascii", "replace").decode()
