"""The manifest beside a checkpoint's tensors: what the state means, its run, and checksums that show it is complete."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dnewton.config.old_keys import renew
from dnewton.errors import UserError, one_line

FORMAT = 2  # of checkpoints; 1 was a single file without checksums
NAME = "manifest.json"


class Manifest(BaseModel):
    """One checkpoint. All of it is covered by the SHA-256 that the file ends with."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    format: int
    version: str  # of dnewton
    iteration: int = Field(ge=0)
    position: int = Field(ge=0)  # batches done of the next iteration
    replicas: int = Field(ge=1)
    samples_seen: float
    train_seconds: float
    best: tuple[int, float] | None  # the iteration of the best model, and its score
    unreported: dict[str, Any] | None  # what the iteration reports, where it is not yet in metrics.jsonl
    values: dict[str, str]  # of the solver
    identity: dict[str, Any]  # what may not change
    config: dict[str, Any]  # resolved; what else may change
    tensors: dict[str, str]  # checksums, hexadecimal
    header: str  # SHA-256 of the tensor file's header
    size: int  # bytes of the tensor file


def render(manifest: Manifest) -> bytes:
    """As it stands in the file."""
    return sealed(json.loads(json.dumps(manifest.model_dump(), default=_plain)))


def sealed(content: Any) -> bytes:
    """What a manifest holds, with its SHA-256."""
    return _bytes({"manifest": content, "sha256": _hash(content)})


def parse(path: str, data: bytes) -> Manifest:
    """A complete manifest. Raises UserError naming the file."""
    try:
        sealed_content = json.loads(data)
        content, known = sealed_content["manifest"], sealed_content["sha256"]
        version = content["format"]
        whole = known == _hash(content) and data == _bytes(sealed_content)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: is damaged: not the JSON of a manifest") from None
    if not whole:
        raise UserError(f"{path}: is damaged: its SHA-256 differs from the one it states")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        remedy = "update dnewton" if newer else "it cannot be read any more"
        raise UserError(f"{path}: has format {version!r}, this version of dnewton reads {FORMAT}; {remedy}")
    try:
        manifest = Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {one_line(first['msg'])}") from None
    renew(manifest.config, path, strict=False)
    return manifest


def _plain(value: Any) -> Any:
    return value.item()  # of NumPy's scalars


def _hash(content: Any) -> str:
    return hashlib.sha256(_bytes(content)).hexdigest()


def _bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
