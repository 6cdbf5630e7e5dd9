"""What the curves of time_to_target.py say: seconds to targets, ratios, medians and worst over seeds, and summaries."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from target_methods import Curve, Point

TARGETS = (1e-3, 1e-5, 1e-7)
NEAR = 1.05  # of noisy data, a target is this many times the lowest held-out error of all methods
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


# --- regression ---------------------------------------------------------------------------------------------------


def regression_row(curves: dict[str, Curve], main: str, noisy: bool) -> Row:
    """All figures of one problem and seed."""
    targets = [(f"{t:.0e}".replace("e-0", "e-"), "train", t) for t in TARGETS]
    if noisy:
        value = NEAR * min(lowest(curve, "held_out") for curve in curves.values())
        targets.append((f"held-out {value:.3g}", "held_out", value))
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
        found = {name: lowest(curve, judged) for name, curve in family(curves, prefix).items()}
        if not found:
            continue
        name = min(found, key=found.__getitem__)
        loss = max(found[name], TARGETS[-1])  # SciPy computes in float64: beyond that the types are compared
        took, by = (until(c, main, judged, loss) for c in (curves[name], mine))
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


def regression_summary(rows: list[Row]) -> Row:
    """Medians and worst over seeds per problem, and on how many problems a bound is kept; printed and returned.

    A problem's ratio is the one of the hardest target that the best of ours reached on that seed; its quotient to the
    others is the smallest over the methods.
    """
    print("\nOver seeds (median, worst): seconds of the default to the hardest target that any of ours reached, over")
    print("those of the best of ours; how many times sooner it reaches the best of each other method")
    head = "".join(f"{p:>20}" for p in FAMILIES)
    print(f"  {'problem':30} {'to best of ours':>18}{head}")
    ratios: dict[str, float] = {}
    sooner: dict[str, dict[str, float]] = {prefix: {} for prefix in FAMILIES}
    for problem in dict.fromkeys(r["problem"] for r in rows):
        mine = [r for r in rows if r["problem"] == problem]
        hardest = [[t["ratio"] for t in r["targets"] if math.isfinite(t["best"])][-1:] for r in mine]
        ratios[problem], worst = spread((x for found in hardest for x in found), max)
        cells = f"{ratios[problem]:>8.2f} {worst:>9.2f}"
        for prefix in FAMILIES:
            found = [o["sooner"] for r in mine for o in r["others"] if o["method"].startswith(prefix)]
            middle, least = spread(found, min)
            if not math.isnan(middle):
                sooner[prefix][problem] = middle
            cells += f"{middle:>10.1f}x {least:>7.1f}x"
        print(f"  {problem:30} {cells}")
    every = {p: min(s[p] for s in sooner.values() if p in s) for p in ratios if any(p in s for s in sooner.values())}
    for name, found in {**sooner, "all others": every}.items():
        if not found:
            continue
        counts = [sum(v >= bound for v in found.values()) for bound in (10, 3, 1)]
        print(
            f"  sooner than {name}: >= 10x on {counts[0]}, >= 3x on {counts[1]}, >= 1x on {counts[2]} of {len(found)}"
        )
    known = [v for v in ratios.values() if not math.isnan(v)]
    within = [sum(v <= bound for v in known) for bound in (1.5, 2)]
    print(f"  to the best of ours: <= 1.5 on {within[0]}, <= 2 on {within[1]} of {len(known)} problems (medians)")
    return {"ratios": ratios, "sooner": sooner, "all": every}


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
