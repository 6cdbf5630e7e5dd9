"""What the curves of time_to_target.py say: seconds to targets, ratios, medians and worst over seeds, and summaries."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from target_methods import Curve, Point

TARGETS = (1e-3, 1e-5, 1e-7)
NEAR = 1.05  # of noisy data, a target is this many times the lowest held-out error of all methods
HELD_OUT = "held-out"  # so the label of that target begins
FAMILIES = ("Adam", "L-BFGS", "SciPy")  # names of other methods begin so
Row = dict[str, Any]


def seconds_until(curve: Curve, main: str, good: Callable[[Point], bool]) -> float:
    """By the clock `main`; inf if never."""
    return next((getattr(point, main) for point in curve if good(point)), math.inf)


def lowest(curve: Curve, column: str) -> float:
    """The smallest finite value; inf if there is none."""
    return min((v for p in curve if math.isfinite(v := getattr(p, column))), default=math.inf)


def until(curve: Curve, main: str, column: str, value: float) -> float:
    """Seconds until a column is at most a value."""
    return seconds_until(curve, main, lambda p: getattr(p, column) <= value)


def family(curves: dict[str, Curve], prefix: str) -> dict[str, Curve]:
    """The methods whose names begin so."""
    return {name: curve for name, curve in curves.items() if name.startswith(prefix)}


def thinned(curve: Curve) -> list[list[float]]:
    """About 60 points of a curve."""
    return [[float(f"{v:.5g}") for v in p] for p in [*curve[:: max(1, len(curve) // 60)], curve[-1]]]


def quotient(a: float, b: float) -> float:
    """a / b, where inf / inf says nothing."""
    return math.nan if math.isinf(a) and math.isinf(b) else a / b


def label_of(target: float) -> str:
    """1e-3 and the like."""
    return f"{target:.0e}".replace("e-0", "e-")


# --- regression ---------------------------------------------------------------------------------------------------


def regression_row(curves: dict[str, Curve], main: str, noisy: bool) -> Row:
    """All figures of one problem and seed."""
    targets = [(label_of(t), "train", t) for t in TARGETS]
    if noisy:
        value = NEAR * min(lowest(curve, "held_out") for curve in curves.values())
        targets.append((f"{HELD_OUT} {value:.3g}", "held_out", value))
    mine, ours = curves.get("default", []), family(curves, "ours")
    row: Row = {
        "targets": [],
        "settings": {name: [] for name in ours},
        "others": [],
        "train": lowest(mine, "train"),
        "held_out": {},
    }
    for label, column, value in targets:
        times = {name: until(curve, main, column, value) for name, curve in ours.items()}
        best = min(times, key=times.__getitem__, default="")
        for name, took in times.items():
            row["settings"][name].append(took)
        here = until(mine, main, column, value)
        there = times.get(best, math.inf)
        of = {
            "target": label,
            "default": here,
            "best": there,
            "which": best if math.isfinite(there) else "",
            "ratio": quotient(here, there),
        }
        row["targets"].append(of)
    judged = "held_out" if noisy else "train"  # to fit the noise sooner is no merit
    for prefix in FAMILIES:
        if some := family(curves, prefix):
            # SciPy computes in float64: beyond the last target the types are compared
            loss = max(min(lowest(curve, judged) for curve in some.values()), TARGETS[-1])
            took, name = min((until(curve, main, judged, loss), name) for name, curve in some.items())
            by = until(mine, main, judged, loss)
            row["others"].append({"method": name, "loss": loss, "seconds": took, "default": by, "sooner": took / by})
    for prefix in ("default", "ours", *FAMILIES):
        if some := family(curves, prefix):
            row["held_out"][prefix] = min(lowest(curve, "held_out") for curve in some.values())
    if noisy and "default, C" in curves:
        row["held_out"]["default, C"] = lowest(curves["default, C"], "held_out")
        row["held_out"]["default"] = lowest(mine, "held_out")
    return row


def show_regression(title: str, row: Row, failed: dict[str, str]) -> None:
    """The tables of one problem and seed."""
    print(f"\n{title}")
    print(f"  {'mean square error':20} {'default':>9} {'best of ours':>13} {'ratio':>6}  which")
    for t in row["targets"]:
        print(f"  {t['target']:20} {t['default']:>7.2f} s {t['best']:>11.2f} s {t['ratio']:>6.2f}  {t['which']}")
    for name, times in row["settings"].items():
        print(f"    {name:32}" + "".join(f"{took:>8.2f} s" for took in times))
    print(f"  {'other method':20} {'its best':>9} {'reached after':>13}   default after   sooner")
    for o in row["others"]:
        print(
            f"  {o['method']:20} {o['loss']:>9.2e} {o['seconds']:>11.2f} s {o['default']:>13.2f} s {o['sooner']:>7.1f}x"
        )
    held = ", ".join(f"{k} {v:.3g}" for k, v in row["held_out"].items())
    print(f"  the default's best {row['train']:.2e}; lowest held-out error: {held}")
    for name, why in failed.items():
        print(f"  {name}: {why}")


def spread(values: Iterable[float], worst: Callable[[list[float]], float]) -> tuple[float, float]:
    """Median and worst of what is a number; nan where nothing is."""
    known = [v for v in values if not math.isnan(v)]
    return (statistics.median(known), worst(known)) if known else (math.nan, math.nan)


def ratio_to(row: Row, target: str) -> float:
    """The default's time over that of the best of ours, to the target whose label begins so; nan if none gets there, or
    if it is a training loss of noisy data."""
    noisy = any(t["target"].startswith(HELD_OUT) for t in row["targets"])
    found = (t["ratio"] for t in row["targets"] if t["target"].startswith(target) and noisy == (target == HELD_OUT))
    return next(found, math.nan)


def sooner_than(row: Row, prefix: str) -> float:
    """How much sooner the default reaches the best of a family, or with an empty prefix the best of all families."""
    some = [o for o in row["others"] if o["method"].startswith(prefix)]
    best = min(some, key=lambda o: (o["loss"], o["seconds"]), default=None)
    return math.nan if best is None else float(best["sooner"])


def over_seeds(
    rows: list[Row], columns: list[str], figure: Callable[[Row, str], float], worst: Callable[[list[float]], float]
) -> dict[str, list[float]]:
    """Print a line per problem with median and worst of each column; the medians."""
    width = max(len(r["problem"]) for r in rows)
    print(f"  {'problem':{width}}" + "".join(f"{column:>20}" for column in columns))
    medians: dict[str, list[float]] = {}
    for problem in dict.fromkeys(r["problem"] for r in rows):
        mine = [r for r in rows if r["problem"] == problem]
        pairs = [spread((figure(r, column) for r in mine), worst) for column in columns]
        medians[problem] = [middle for middle, _ in pairs]
        print(f"  {problem:{width}}" + "".join(f"{middle:>12.2f} {end:>7.2f}" for middle, end in pairs))
    return medians


def kept(values: Iterable[float], bounds: tuple[float, ...], sign: str) -> str:
    """On how many problems each bound is kept, of those that have a figure."""
    known = [v for v in values if not math.isnan(v)]
    counts = [sum(v >= bound if sign == ">=" else v <= bound for v in known) for bound in bounds]
    return ", ".join(f"{sign} {b:g} on {n}" for b, n in zip(bounds, counts, strict=True)) + f" of {len(known)} problems"


def regression_summary(rows: list[Row]) -> Row:
    """Medians and worst over seeds per problem, and on how many problems a bound is kept; printed and returned.

    A problem's ratio to the best of ours is the largest of its medians over the targets; of noisy data, the held-out
    error's. `best` is the method, of those that are not ours, with the lowest loss on that seed.
    """
    print("\nThe default's seconds over those of the best of ours: median and worst seed")
    targets = [*(label_of(t) for t in TARGETS), HELD_OUT]
    found = over_seeds(rows, targets, ratio_to, max)
    ratios = {p: max((v for v in values if not math.isnan(v)), default=math.nan) for p, values in found.items()}
    for i, target in enumerate(targets):
        print(f"  to {target}: {kept((values[i] for values in found.values()), (1, 1.5, 2), '<=')}")
    print(f"  to the target that is worst: {kept(ratios.values(), (1, 1.5, 2), '<=')}")
    print("\nHow many times sooner the default reaches the best loss of others: median and worst seed")
    columns = ["the best of all", *FAMILIES]
    found = over_seeds(rows, columns, lambda r, column: sooner_than(r, column if column in FAMILIES else ""), min)
    for i, column in enumerate(columns):
        print(f"  {column}: {kept((values[i] for values in found.values()), (10, 3, 1), '>=')}")
    sooner = {c: {p: v[i] for p, v in found.items()} for i, c in enumerate(columns) if i}
    return {"ratios": ratios, "sooner": sooner, "best": {p: values[0] for p, values in found.items()}}


# --- classification -----------------------------------------------------------------------------------------------


def classification_row(curves: dict[str, Curve], main: str) -> Row:
    """All figures of one set and seed."""
    best = max(p.held_out for curve in curves.values() for p in curve)
    times = {n: seconds_until(c, main, lambda p: p.held_out >= 0.98 * best) for n, c in curves.items()}
    row: Row = {"best": best, "seconds": times, "final": {n: c[-1].held_out for n, c in curves.items()}}
    plain = {n: t for n, t in times.items() if n.startswith("Adam") and "decay" not in n}
    row["adam"] = min(plain, key=plain.__getitem__, default="")
    row["ratio"] = quotient(times.get("default", math.inf), plain.get(row["adam"], math.nan))
    first = {n: row["final"][n] for n in curves if n.startswith(("Adam", "SGD"))}
    row["tuned"] = max(first, key=first.__getitem__, default="")
    mine = curves.get("default")
    row["points"] = 100 * (mine[-1].held_out - first[row["tuned"]]) if mine and first else math.nan
    row["after 50"] = mine[min(50, len(mine) - 1)].held_out if mine else math.nan
    return row


def show_classification(title: str, row: Row, grid: list[list[float]]) -> None:
    """The tables of one set and seed."""
    print(f"\n{title}; best accuracy of all {row['best']:.4f}")
    print(f"  {'method':28} {'98 % of it after':>17} {'accuracy at the end':>20}")
    for name, took in row["seconds"].items():
        if not name.startswith("ours"):
            print(f"  {name:28} {took:>15.2f} s {row['final'][name]:>20.4f}")
    if row["adam"] and row["tuned"]:
        print(f"  default to {row['adam']}: {row['ratio']:.2f}; after 50 iterations {row['after 50']:.4f}")
        print(f"  default at the end minus {row['tuned']}: {row['points']:+.2f} points")
    if grid:
        flat = [v for line in grid for v in line]
        print("  accuracy at the end by lambda (down) and subsample (across):")
        for line in grid:
            print("   ", "  ".join(f"{v:.4f}" for v in line))
        print(f"  spread {100 * (max(flat) - min(flat)):.2f} points")


def classification_summary(rows: list[Row]) -> Row:
    """Medians and worst over seeds; printed and returned."""
    print(
        "\nOver seeds (median, worst): the default's time to 98 % over the best Adam's; accuracy at the end minus that"
    )
    print("of the best first-order run, in points")
    found: dict[str, Any] = {}
    for problem in dict.fromkeys(r["problem"] for r in rows):
        mine = [r for r in rows if r["problem"] == problem]
        ratio, points = spread((r["ratio"] for r in mine), max), spread((r["points"] for r in mine), min)
        found[problem] = {"ratio": ratio, "points": points}
        print(f"  {problem:30} {ratio[0]:>8.2f} {ratio[1]:>8.2f}   {points[0]:>+7.2f} {points[1]:>+7.2f}")
    kept = sum(f["points"][0] >= -0.3 for f in found.values())
    quick = [sum(f["ratio"][0] <= bound for f in found.values()) for bound in (1, 1.5, 2)]
    print(f"  within 0.3 points of the best on {kept} of {len(found)}")
    print(f"  time over Adam's: <= 1 on {quick[0]}, <= 1.5 on {quick[1]}, <= 2 on {quick[2]} of {len(found)}")
    return found
