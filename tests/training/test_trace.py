"""The timeline of a run, against its metrics."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import needs
from runs import metrics, train

from dnewton.comm import trace
from dnewton.comm.communicator import Comm
from dnewton.comm.trace import COLLECTIVE, PHASE, Trace
from dnewton.training.trace_file import TraceFile


@pytest.mark.parametrize("ranks", [needs(1, 1), needs(3, 3), needs(4, 4)])
def test_events_and_metrics_agree(tmp_path: Path, ranks: int) -> None:
    settings = ["solver.max_iterations=3", "output.trace=true", *(["parallel.grid=[2,2]"] if ranks == 4 else [])]
    result = train(ranks, tmp_path, "mlp.yaml", "run", settings=settings)
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "run" / "trace.json").read_text())
    assert content["otherData"] == {"ranks": ranks, "solver": "newton", "left_out": 0}
    spans = [e for e in content["traceEvents"] if e["ph"] == "X"]
    assert {e["pid"] for e in spans} == set(range(ranks)) and min(e["ts"] for e in spans) == 0
    lines = metrics(tmp_path, "run")
    for phase in ("function", "gradient", "jacobian", "cg"):  # none of which has another one inside
        ours = sum(e["dur"] for e in spans if e["pid"] == 0 and e["cat"] == "phase" and e["name"] == phase) / 1e6
        assert ours == pytest.approx(sum(line["phase_seconds"][phase] for line in lines), rel=1e-3, abs=1e-5)
    for rank in range(ranks):
        assert [e["name"] for e in spans if e["pid"] == rank and e["cat"] == "iteration"] == [
            "iteration 1",
            "iteration 2",
            "iteration 3",
        ]
    _collectives_match(spans, ranks)


def _collectives_match(spans: list[dict[str, Any]], ranks: int) -> None:
    """As many on every rank of a communicator; none ends before all have come; who comes last does not wait."""
    by_group: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for event in spans:
        if event["cat"] == "collective":
            by_group[event["args"]["ranks"]][event["pid"]].append(event)
    assert by_group if ranks > 1 else True
    if ranks == 4:
        assert {"world", "world row 0", "world row 1", "world column 0", "world column 1"} >= set(by_group)
    for group, members in by_group.items():
        assert len(members) == (2 if group != "world" else ranks)
        assert len({len(events) for events in members.values()}) == 1
        for together in zip(*members.values(), strict=True):
            last = max(e["ts"] for e in together)
            for e in together:
                assert e["ts"] + e["dur"] >= last - 1 or not e["name"].startswith("All")  # a root may be done at once
                assert e["args"]["wait_us"] == pytest.approx(min(last - e["ts"], e["dur"]), abs=0.01)


def test_clocks(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks of other nodes, whose clocks are seconds apart."""
    real, ahead = time.perf_counter, 7.25 * comm.rank
    monkeypatch.setattr(trace, "_host", lambda: f"node {comm.rank}")
    monkeypatch.setattr(trace.time, "perf_counter", lambda: real() + ahead)
    assert trace.clock_offset(comm) == pytest.approx(ahead, abs=0.2)
    monkeypatch.setattr(trace, "_host", lambda: "one node")
    assert trace.clock_offset(comm) == 0.0


def test_it_is_bounded(comm: Comm, tmp_path: Path) -> None:
    file = TraceFile(comm)
    file.spans.limit = 5
    for _ in range(9):
        comm.sum_scalars([1.0])
    before = len(file.spans.spans)
    with comm.phase("combine"):
        comm.barrier()
    assert before == (5 if comm.size > 1 else 0) and len(file.spans.spans) <= 5
    left_out = file.write(tmp_path / "t.json", {})
    assert left_out == (6 * comm.size if comm.size > 1 else 0)
    assert comm.ledger.trace is None
    if comm.rank == 0:
        assert json.loads((tmp_path / "t.json").read_text())["otherData"]["left_out"] == left_out


def test_spans_keep_what_they_are_given() -> None:
    spans = Trace(10)
    spans.add(PHASE, "cg", 1.0, 2.0)
    spans.add(COLLECTIVE, "Allreduce", 1.5, 1.75, spans.name("world"), 3)
    assert spans.table().tolist() == [[PHASE, 0, 1, 2, -1, 0], [COLLECTIVE, 2, 1.5, 1.75, 1, 3]]
    assert list(spans.names) == ["cg", "world", "Allreduce"]
    assert Trace(3).table().shape == (0, 6) and np.isfinite(Trace(3).table()).all()
