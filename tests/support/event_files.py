"""TensorBoard's event files read as TensorBoard reads them: length and checksums around a protocol buffer each."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any


def events(path: Path) -> list[Any]:
    """The events of one file."""
    from tensorboardX.proto.event_pb2 import Event

    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        (length,) = struct.unpack("<Q", content[at : at + 8])
        found.append(Event.FromString(content[at + 12 : at + 12 + length]))
        at += 16 + length
    return found


def scalars(folder: Path) -> dict[str, dict[int, list[float]]]:
    """By name and step all values; where a file begins with a step, what others have from it on does not count."""
    from tensorboardX.proto.event_pb2 import SessionLog

    found: dict[str, dict[int, list[float]]] = {}
    for path in sorted(folder.glob("events.*"), key=lambda p: p.stat().st_mtime_ns):
        for event in events(path):
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                for steps in found.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {}).setdefault(event.step, []).append(value.simple_value)
    return found
