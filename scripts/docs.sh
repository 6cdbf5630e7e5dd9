#!/usr/bin/env bash
# Builds the documentation site into build/site and checks it: pages, links and anchors by `mkdocs build --strict`, that
# docs/keys.md is what the schema gives, and that no page loads anything from another host. Needs no network.
#
#   scripts/docs.sh              in .venv, which `EXTRAS=docs scripts/quickstart.sh --install-only` makes
#   VENV=DIR scripts/docs.sh     in another environment with the extra `docs`
#
# To read it: open build/site/index.html, or, for the search, `python -m http.server -d build/site`.
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
if [[ ! -x $venv/bin/mkdocs ]]; then
  printf 'docs.sh: %s has no mkdocs; run: EXTRAS=docs scripts/quickstart.sh --install-only\n' "$venv" >&2
  exit 1
fi
export NO_MKDOCS_2_WARNING=1 # pyproject.toml asks for mkdocs < 2
PATH="$(cd "$venv/bin" && pwd):$PATH" # ruff formats the signatures

python scripts/keys_page.py --check
mkdocs build --strict # not --quiet, which drops warnings before they are counted
if grep -rlE '<(script|img|iframe)[^>]* src="?(https?:)?//|<link[^>]* href="?(https?:)?//[^>]*stylesheet|<link[^>]*(preconnect|stylesheet)[^>]*"?(https?:)?//' \
  --include='*.html' build/site; then
  printf 'docs.sh: the pages above load something from another host\n' >&2
  exit 1
fi
printf 'build/site: %s pages\n' "$(find build/site -name '*.html' | wc -l)"
