"""Which charts a report has: from runs to charts. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from dnewton.reporting.bar_chart import Row, Rows, Stack, largest_parts
from dnewton.reporting.figures import finite, metric_names, numbers
from dnewton.reporting.groups import Group, cg_line, line_of, lines_of
from dnewton.reporting.line_chart import Chart, Line
from dnewton.reporting.runs import Run
from dnewton.reporting.scales import bytes_unit, seconds_unit

PARTS = ("train", "validation", "test")
MIB = 2.0**20
RANK_ROWS = 16  # more ranks are drawn together
OWN_RULE, CUT_OFF = "ended by the rank's own rule", "cut off"
BAND = "line: median of the seeds, band: lowest to highest, of those that came so far"
KNOWN = {
    *("iteration", "loss", "grad_norm", "lambda", "step", "ratio", "samples_seen", "early_stopped", "wait_seconds"),
    *("seconds", "train_seconds", "peak_rss_bytes", "peak_device_bytes", "device_waits", "staged_bytes"),
}


def convergence(groups: Sequence[Group]) -> list[Chart]:
    """The loss over iterations and seconds, and the metrics of every part of the data."""
    charts = [
        _chart("loss", "Loss f", "f", _lines(groups, "loss"), log=True),
        _chart(
            "loss-seconds",
            "Loss f over time",
            "f",
            [line for group in groups for line in lines_of(group, "loss", "train_seconds")],
            x_label="seconds of training",
            log=True,
        ),
    ]
    names = dict.fromkeys(name for group in groups for run in group.runs for name in metric_names(run.columns))
    for name in names:
        charts += _metric(groups, name)
    return [chart for chart in charts if chart is not None]


def _metric(groups: Sequence[Group], name: str) -> list[Chart | None]:
    """One chart of all parts for one group, else one for each part. Accuracies are from 0 to 1."""
    unit = "accuracy (share of samples)" if name == "accuracy" else "rmse (units of the targets)"
    log = name == "rmse"
    if len(groups) == 1:
        found = [line_of(groups[0], f"{part}_{name}", part, index=k) for k, part in enumerate(PARTS)]
        return [_chart(name, name.capitalize(), unit, [line for line in found if line], log=log)]
    return [
        _chart(f"{part}-{name}", f"{part.capitalize()} {name}", unit, _lines(groups, f"{part}_{name}"), log=log)
        for part in PARTS
    ]


def method(groups: Sequence[Group]) -> list[Chart]:
    """What the solver did: |g|, λ, ρ, steps, CG iterations, ranks cut off, waiting, and figures of its own."""
    charts = [
        _chart("grad_norm", "Norm of the gradient |g|", "|g|", _lines(groups, "grad_norm"), log=True),
        _chart("lambda", "Damping λ", "λ", _lines(groups, "lambda"), log=True),
        _chart(
            "ratio",
            "Ratio ρ of the actual to the predicted reduction",
            "ρ",
            _lines(groups, "ratio"),
            limits=(-1.0, 2.0),
            note="values below -1 or above 2 are drawn at the edge",
        ),
        _chart("step", "Step length α", "α", _lines(groups, "step")),
    ]
    counts = [line for group in groups if (line := cg_line(group)) is not None and any(line.y)]
    charts.append(
        _chart(
            "cg",
            "CG iterations of the ranks",
            "iterations",
            counts,
            note="line: mean over the ranks, band: least to largest rank",
        )
    )
    for name, title, unit in (
        ("early_stopped", "Ranks cut off by early termination", "ranks"),
        ("wait_seconds", "Waiting for other ranks, summed over ranks", "s per iteration"),
    ):
        lines = [line for line in _lines(groups, name) if any(line.y)]
        charts.append(_chart(name, title, unit, lines))
    charts += [_chart(name, name.replace("_", " "), name, _lines(groups, name)) for name in own_figures(groups)]
    return [chart for chart in charts if chart is not None]


def own_figures(groups: Sequence[Group]) -> list[str]:
    """Figures that only some solvers have, such as learning_rate; those that never change are left out."""
    found: dict[str, set[float]] = {}
    for group in groups:
        for run in group.runs:
            for name in run.columns:
                beside = name in KNOWN or "." in name or name.startswith(tuple(f"{part}_" for part in PARTS))
                if not beside:
                    found.setdefault(name, set()).update(v for v in numbers(run.columns, name) if v is not None)
    return [name for name, values in found.items() if len(values) > 1]


def phases(run: Run, figure: str) -> dict[str, list[float]]:
    """By phase its seconds ("phase_seconds.*", of rank 0), or what all ranks did in it ("comm.*.bytes"); a missing
    value counts as 0."""
    before, _, after = figure.partition("*")
    found = {}
    for name in run.columns:
        if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after):
            phase = name[len(before) : len(name) - len(after)]
            found[phase] = [value or 0.0 for value in numbers(run.columns, name)]
    return found


SECONDS, BYTES, IN_MPI, CALLS = "phase_seconds.*", "comm.*.bytes", "comm.*.seconds", "comm.*.calls"


def phase_names(runs: Sequence[Run]) -> dict[str, str]:
    """By phase the name under which it is drawn in all charts, in the order of their colours: the same or "other"."""
    shares: dict[str, float] = {}
    for figure in (SECONDS, BYTES):
        totals: dict[str, float] = {}
        for run in runs:
            for phase, values in phases(run, figure).items():
                totals[phase] = totals.get(phase, 0.0) + sum(values)
        together = sum(totals.values()) or 1.0
        for phase, total in totals.items():
            shares[phase] = shares.get(phase, 0.0) + total / together
    return largest_parts(shares)


def phase_stacks(run: Run) -> list[Stack]:
    """Seconds and bytes of every iteration by phase. The first line has what was done before it, and is left out."""
    iterations = [value or 0.0 for value in numbers(run.columns, "iteration")][1:]
    if not iterations:
        return []
    stacks = []
    drawn = phase_names([run])
    for name, figure, unit_of, title, note in (
        ("seconds", SECONDS, seconds_unit, "Seconds by phase", "of rank 0; what is in the first line is not shown"),
        ("bytes", BYTES, bytes_unit, "Bytes sent by phase", "by all ranks; what is in the first line is not shown"),
    ):
        parts = {phase: values[1:] for phase, values in phases(run, figure).items()}
        largest = max((sum(column) for column in zip(*parts.values(), strict=True)), default=0.0)
        if largest > 0:
            divisor, unit = unit_of(largest)
            scaled = {phase: [value / divisor for value in values] for phase, values in parts.items()}
            stacks.append(Stack(name, title, f"{unit} per iteration", scaled, iterations, note, drawn))
    return stacks


def phase_rows(runs: Sequence[Run]) -> list[Rows]:
    """Seconds and bytes of whole runs by phase, a bar for each run."""
    charts = []
    drawn = phase_names(runs)
    for name, figure, unit_of, title, note in (
        ("seconds", SECONDS, seconds_unit, "Seconds by phase, whole runs", "of rank 0"),
        ("bytes", BYTES, bytes_unit, "Bytes sent by phase, whole runs", "by all ranks"),
    ):
        totals = [{phase: sum(values) for phase, values in phases(run, figure).items()} for run in runs]
        largest = max((sum(total.values()) for total in totals), default=0.0)
        if largest > 0:
            divisor, unit = unit_of(largest)
            rows = [
                Row(run.name, {phase: value / divisor for phase, value in total.items()})
                for run, total in zip(runs, totals, strict=True)
            ]
            charts.append(Rows(f"{name}-total", title, unit, rows, note, drawn))
    return charts


def ranks_solves(run: Run) -> Rows | None:
    """A bar for each rank: its CG iterations, apart those of solves that early termination cut off."""
    rows: dict[int, dict[str, float]] = {}
    cut = dict.fromkeys(range(RANK_ROWS), 0)
    lines = 0
    for record in run.records:
        counts, ended = record.get("rank_cg_iterations"), record.get("early_stopped_ranks")
        if not isinstance(counts, list) or not isinstance(ended, list) or not 1 < len(counts) <= RANK_ROWS:
            continue
        lines += 1
        for rank, count in enumerate(counts):
            was_cut = rank in ended
            cut[rank] += was_cut
            parts = rows.setdefault(rank, {OWN_RULE: 0.0, CUT_OFF: 0.0})
            parts[CUT_OFF if was_cut else OWN_RULE] += finite(count) or 0.0
    if not any(sum(parts.values()) for parts in rows.values()):
        return None
    named = [
        Row(f"rank {rank}, cut off {cut[rank]} of {lines} times", {name: n / lines for name, n in parts.items()})
        for rank, parts in rows.items()
    ]
    drawn = {OWN_RULE: OWN_RULE, CUT_OFF: CUT_OFF}
    return Rows("rank-cg", "CG iterations of each rank", "iterations, mean over the run", named, "", drawn)


def memory(runs: Sequence[Run]) -> Rows | None:
    """The peak of the largest rank beside what was planned for it."""
    rows = []
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        if run.facts.planned:
            parts = run.facts.plan_parts or {"planned": run.facts.planned}
            rows.append(Row(f"{name}planned", {part: value / MIB for part, value in parts.items()}, faint=True))
        peak = peak_bytes(run)
        if peak:
            rows.append(Row(f"{name}measured", {"measured": peak / MIB}))
    if not rows:
        return None
    return Rows("memory", "Memory of the largest rank", "MiB", rows, "planned: by what it is for; measured: the peak")


def peak_bytes(run: Run) -> float:
    """What the largest rank had at most: of its GPU where it has one."""
    for name in ("peak_device_bytes", "peak_rss_bytes"):
        known = [value for value in numbers(run.columns, name) if value]
        if known:
            return max(known)
    return 0.0


def _lines(groups: Sequence[Group], name: str) -> list[Line]:
    found = [line_of(group, name, group.label) for group in groups]
    return [line for line in found if line is not None]


def _chart(
    name: str,
    title: str,
    y_label: str,
    lines: Sequence[Line],
    *,
    x_label: str = "iteration",
    log: bool = False,
    limits: tuple[float, float] | None = None,
    note: str = "",
) -> Chart | None:
    if not lines:
        return None
    outside = limits and any(v is not None and not limits[0] <= v <= limits[1] for line in lines for v in line.y)
    if limits and not outside:
        note = ""
    if not note and any(line.low is not None for line in lines):
        note = BAND
    if log and any(value == 0 for line in lines for value in line.y):
        note = "; ".join(filter(None, [note, "values of 0 have no place on this axis"]))
    return Chart(name, title, x_label, y_label, lines, log, limits, note)
