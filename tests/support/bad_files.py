"""YAML files that no run can use, and command lines: what the one line about each must say."""

from __future__ import annotations

import os
from pathlib import Path

import bad_data
from bad_inputs import Entry


def write(folder: Path) -> None:
    """All files of the entries below and in bad_data."""
    for name, content in {**texts(), **bad_data.models(), **bad_data.samples()}.items():
        (folder / name).write_bytes(content)
    for name in ("loop.yaml", "loop.npz", "loop.safetensors", "looped"):
        os.symlink(name, folder / name)
    os.symlink("nowhere.yaml", folder / "dangling.yaml")
    os.symlink("nowhere.npz", folder / "dangling.npz")
    os.mkfifo(folder / "pipe.yaml")
    os.mkfifo(folder / "pipe.npz")
    for name in ("folder.npz", "runs", "runs/begun", "runs/model", "runs/bare", "runs/odd", "runs/odd/config.yaml"):
        (folder / name).mkdir()
    (folder / "runs/begun/metrics.jsonl").write_text("{}\n")
    (folder / "runs/model/model.safetensors").write_bytes(b"weights")
    (folder / "runs/bare/config.yaml").write_bytes((folder / "mlp.yaml").read_bytes())


# --- YAML -------------------------------------------------------------------------------------------------------------


def texts() -> dict[str, bytes]:
    good = b"net: {input: [5], loss: squared, layers: [{dense: {units: 1}}]}\n"
    return {
        "latin.yaml": good + "# café\n".encode("latin-1"),
        "utf16.yaml": good.decode().encode("utf-16"),
        "binary.yaml": bytes(range(256)),
        "nul.yaml": good + b"data: {train: a\0b}\n",
        "empty.yaml": b"",
        "remarks.yaml": b"# nothing\n\n",
        "tabs.yaml": b"net:\n\tinput: [5]\n",
        "twice.yaml": good + b"solver: {C: 1, C: 2}\n",
        "sections.yaml": good + b"data: {train: iris}\ndata: {train: wine}\n",
        "bomb.yaml": b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
        "flow.yaml": b"net: " + b"[" * 100_000,
        "maps.yaml": b"net: " + b"{a: " * 50_000,
        "block.yaml": b"net:\n" + b"".join(b" " * i + b"-\n" for i in range(1, 1000)),
        "list.yaml": b"- net\n- data\n",
        "word.yaml": b"net\n",
        "number.yaml": b"5\n",
        "two.yaml": good + b"---\n" + good,
        "python.yaml": b"net: !!python/object/apply:os.system [ls]\n",
        "unknown.yaml": b"net: !Net {input: [5]}\n",
        "merge.yaml": b"net:\n  <<: {input: [5]}\n",
        "digits.yaml": b"net: {input: [" + b"9" * 5000 + b"]}\n",
        "half.yaml": good + b'data: {train: "\\ud800.npz"}\n',
        "table.yaml": b"1.5,2.5,3.5,4.5,1\n" * 200_000,
        "conflict.yaml": b"<<<<<<< HEAD\n" + good + b"=======\n" + good + b">>>>>>> other\n",
        "bracket.yaml": b"net: {input: [5, loss: squared}\n",
        "indent.yaml": b"net:\n  input: [5]\n loss: squared\n",
        "colon.yaml": b"net:\n  input:[5]\n  loss: squared\n",
        "quote.yaml": good + b"data: {train: 'iris}\n",
        "key.yaml": b"? [a, b]\n: c\n",
        "tagged.yaml": good + b"solver: {C: !!bool x}\n",
    }


YAMLS: list[Entry] = [  # --net this
    ("nothing.yaml", "nothing.yaml", "no such file", "cnn.yaml"),
    ("folder.npz", "folder.npz", "cannot be read", "directory"),
    ("good.npz", "good.npz", "not a text file"),
    ("loop.yaml", "loop.yaml", "no such file"),
    ("dangling.yaml", "dangling.yaml", "no such file"),
    ("pipe.yaml", "pipe.yaml", "not a regular file", "write the net into a YAML file"),
    ("/dev/zero", "/dev/zero", "not a regular file"),
    ("latin.yaml", "latin.yaml", "not a text file"),
    ("utf16.yaml", "utf16.yaml", "not a text file"),
    ("binary.yaml", "binary.yaml", "not a text file"),
    ("nul.yaml", "nul.yaml:2", "U+0000"),
    ("empty.yaml", "empty.yaml", "the section 'net' is needed", "the file is empty"),
    ("remarks.yaml", "remarks.yaml", "the section 'net' is needed", "the file is empty"),
    ("list.yaml", "list.yaml", "the section 'net' is needed"),
    ("word.yaml", "word.yaml", "the section 'net' is needed"),
    ("number.yaml", "number.yaml", "the section 'net' is needed"),
    ("tabs.yaml", "tabs.yaml:2", "indent with blanks"),
    ("twice.yaml", "twice.yaml:2", "'C' is given twice"),
    ("sections.yaml", "sections.yaml:3", "'data' is given twice"),
    ("bomb.yaml", "bomb.yaml:2", "aliases", "not allowed"),
    ("flow.yaml", "flow.yaml:1", "nested too deeply"),
    ("maps.yaml", "maps.yaml:1", "nested too deeply"),
    ("block.yaml", "block.yaml:", "nested too deeply"),
    ("two.yaml", "two.yaml:2", "leave only one"),
    ("python.yaml", "python.yaml:1", "leave the tag out"),
    ("unknown.yaml", "unknown.yaml:1", "leave the tag out"),
    ("merge.yaml", "net.<<", "unknown key"),
    ("digits.yaml", "digits.yaml:1", "5000 digits"),
    ("half.yaml", "half.yaml:2", "half a character"),
    ("table.yaml", "table.yaml", "at most 2", "data section"),
    ("conflict.yaml", "conflict.yaml:2", "not valid YAML"),
    ("bracket.yaml", "bracket.yaml:1", "close the bracket"),
    ("indent.yaml", "indent.yaml:3", "indent the keys of a section equally"),
    ("colon.yaml", "colon.yaml:3", "a blank after the colon"),
    ("quote.yaml", "quote.yaml:", "quot"),
    ("key.yaml", "key.yaml:1", "a key must be a plain word"),
    ("tagged.yaml", "tagged.yaml", "not valid YAML"),
]

LONG = "a" * 300
LINES: list[Entry] = [  # command lines; the words that must be said stand behind the bar
    ("|", "--net FILE or --resume DIR is needed"),
    ("--net|", "--net: expected one argument", "--help"),
    ("--net mlp.yaml --out run more|", "more", "--help"),
    ("--net mlp.yaml --out run --sett a=b|", "--sett", "--help"),
    ("--net mlp.yaml --out run --overwrit|", "--overwrit", "--help"),
    ("--net mlp.yaml --out run --overwrite=yes|", "--overwrite", "--help"),
    ("--net mlp.yaml --out run --init-only=2|", "--init-only", "--help"),
    ("--net mlp.yaml --out run --set|", "--set: expected one argument", "--help"),
    ("--net mlp.yaml --out run --set solver.C|", "solver.C", "write section.key=value"),
    ("--net mlp.yaml --out run --set =3|", "--set =3", "write section.key=value"),
    ("--net mlp.yaml --out run --set solver.=3|", "solver.", "unknown key"),
    ("--net mlp.yaml --out run --set solver.C=|", "solver.C", "number", "nothing"),
    ("--net mlp.yaml --out run --set solver.C=[1|", "--set solver.C", "close the bracket"),
    ("--net mlp.yaml --out run --set solver.C=*a|", "--set solver.C", "aliases"),
    ("--net mlp.yaml --out run --set solver=!!python/name:os.system|", "--set solver", "leave the tag out"),
    ("--net mlp.yaml --out run --set solver.1=2|", "solver.1", "unknown key"),
    ("--net mlp.yaml --out run --set net.layers.x=1|", "net.layers has entries 0 to 1", "'x'"),
    ("--net mlp.yaml --out run --set net.layers.-1=1|", "net.layers has entries 0 to 1", "'-1'"),
    ("--net mlp.yaml --out run --set net.layers.2.dense.units=1|", "net.layers has entries 0 to 1", "'2'"),
    (f"--net mlp.yaml --out run --set net.layers.{'9' * 5000}=1|", "net.layers has entries 0 to 1"),
    ("--net mlp.yaml --out run --set net.loss.x=1|", "net.loss is a single value", "'x'"),
    (f"--net mlp.yaml --out run --set solver.C{'.x' * 5000}=1|", "--set solver.C", "no entry lies deeper"),
    ("--net mlp.yaml --out mlp.yaml|", "mlp.yaml: is not a directory", "another --out"),
    ("--net mlp.yaml --out mlp.yaml/run|", "mlp.yaml/run", "cannot be written"),
    ("--net mlp.yaml --out mlp.yaml/a/b|", "mlp.yaml/a/b", "cannot be written"),
    ("--net mlp.yaml --out looped|", "looped: "),
    ("--net mlp.yaml --out looped/run|", "looped/run", "cannot be written"),
    ("--net mlp.yaml --out /dev/null|", "/dev/null", "another --out"),
    ("--net mlp.yaml --out /proc/run|", "/proc/run", "cannot be written"),
    (f"--net mlp.yaml --out {LONG}|", "aaa", "too long"),
    ("--net mlp.yaml --out runs/begun|", "runs/begun", "--overwrite"),
    ("--net mlp.yaml --out runs/model|", "runs/model", "--overwrite"),
    ("--net mlp.yaml --out run --max-seconds 0|", "--max-seconds 0", "above 0"),
    ("--net mlp.yaml --out run --max-seconds nan|", "--max-seconds nan", "above 0"),
    ("--net mlp.yaml --out run --max-seconds ten|", "--max-seconds", "'ten'"),
    ("--net mlp.yaml --resume auto|", "--resume auto needs --net FILE", "--out DIR"),
    ("--out run --resume auto|", "--resume auto needs --net FILE", "--out DIR"),
    ("--net mlp.yaml --out run --resume auto --overwrite|", "--resume auto", "leave --overwrite"),
    ("--net mlp.yaml --out run --resume auto --init-only|", "--resume auto", "leave --overwrite and --init-only out"),
    ("--net mlp.yaml --out mlp.yaml/run --resume auto|", "mlp.yaml/run", "cannot be written"),
    ("--resume nothing|", "nothing", "holds no run"),
    ("--resume mlp.yaml|", "mlp.yaml", "holds no run"),
    ("--resume looped|", "looped", "holds no run"),
    ("--resume runs/odd|", "runs/odd", "holds no run"),
    ("--resume runs/bare|", "runs/bare", "has no checkpoint to resume from"),
    ("--resume runs/bare --out run|", "--resume", "leave --out"),
    ("--resume runs/bare --overwrite|", "--resume", "leave --out"),
    ("--resume runs/bare --init-only|", "--resume", "leave --out"),
    ("--resume runs/bare --init good.safetensors|", "--resume", "leave --out"),
]
