"""What mkdocs.yml adds to the pages in docs/: pages for the files of the repository that they link to.

A link such as `../scripts/slurm/cpu.sbatch` leads to a page that shows the file; a link to a folder leads to a list of
its files. So every link works in the site, without a host that keeps the repository. A link to something that does not
exist stays as it is, and `mkdocs build --strict` refuses it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
PAGES = "repository"  # the folder of the added pages
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?(\))")
WHOLE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")  # in the navigation
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".sbatch": "bash", ".toml": "toml", ".def": "singularity"}
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(?=<code>)")


def _page_of(path: Path) -> str:
    """The page that shows a file or folder of the repository, as a path below docs/."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_relative_to(ROOT / "docs") and path.is_file():
        return path.relative_to(ROOT / "docs").as_posix()
    if path.is_dir():
        return f"{PAGES}/{name}/index.md"
    return f"{PAGES}/{name}" if path.suffix == ".md" else f"{PAGES}/{name}.md"


def _links(text: str, folder: Path) -> set[Path]:
    """The files and folders of the repository that a page in `folder` links to."""
    found = {Path(os.path.normpath(folder / match[2])) for match in LINK.finditer(text)}
    return {path for path in found if path.is_relative_to(ROOT) and path.exists()}


def _rewritten(text: str, folder: Path, page: str) -> str:
    """The text of a page of the site, `page`, whose links were written for a reader of `folder`."""

    def changed(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match[2]))
        if not (target.is_relative_to(ROOT) and target.exists()):
            return match[0]
        there = os.path.relpath(_page_of(target), PurePosixPath(page).parent)
        return f"{match[1]}{there}{match[3] or ''}{match[4]}"

    return LINK.sub(changed, text)


def _shown(path: Path, page: str) -> str:
    """What the page of a file or folder holds."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix == ".md":
        return _rewritten(path.read_text(), path.parent, page)
    if path.is_dir():
        entries = [f"- [{p.name}]({os.path.relpath(_page_of(p), PurePosixPath(page).parent)})" for p in _files_in(path)]
        return "\n".join([f"# {name}/", "", *entries, ""])
    language = LANGUAGES.get(path.suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n# {name}\n\n````{language}\n{path.read_text()}\n````\n"


def _files_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def on_files(files: Files, config: Any) -> Files:
    """Add a page for everything that pages link to, and for what those pages link to."""
    waiting = {ROOT / name for name in WHOLE}
    for page in Path(config.docs_dir).glob("*.md"):
        waiting |= _links(page.read_text(), page.parent)
    known: set[Path] = set()
    while waiting - known:
        path = min(waiting - known)
        known.add(path)
        if path.is_relative_to(ROOT / "docs") and path.is_file():
            continue
        page = _page_of(path)
        level = InclusionLevel.INCLUDED if path.name in WHOLE and path.parent == ROOT else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page, content=_shown(path, page), inclusion=level))
        if path.suffix == ".md":
            waiting |= _links(path.read_text(), path.parent)
        elif path.is_dir():
            waiting |= set(_files_in(path))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of the pages in docs/ lead to the added pages."""
    name = page.file.src_uri
    return markdown if name.startswith(f"{PAGES}/") else _rewritten(markdown, Path(config.docs_dir), name)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Docstrings name things in Sphinx's way, as :class:`Model`; a page shows the name."""
    return ROLE.sub("", html)
