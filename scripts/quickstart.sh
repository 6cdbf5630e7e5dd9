#!/usr/bin/env bash
# From a bare machine to a trained net: makes .venv, installs dnewton and an MPI from wheels, trains cnn.yaml on 4 ranks.
#
#   scripts/quickstart.sh [ARGUMENT...]     arguments go to the training, which runs in the repository root
#   scripts/quickstart.sh --install-only    makes the environment and stops
#   MPI=openmpi scripts/quickstart.sh       Open MPI instead of MPICH, in .venv-openmpi
#   EXTRAS=test,lint                        also installs these extras of pyproject.toml
#
# Needs bash and Python 3.10 or newer with its venv module; no compiler, no root, no MPI on the machine.
set -euo pipefail
unset CDPATH PYTHONPATH PYTHONHOME # a cluster's modules set these; they would reach into the environment
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)

die() {
  printf 'quickstart: %s\n' "$*" >&2
  exit 1
}

mpi=${MPI:-mpich}
case $mpi in
  mpich) venv=.venv ;;
  openmpi) venv=.venv-openmpi ;; # two MPIs in one environment would overwrite each other's mpirun
  *) die "MPI=$mpi is unknown; choose mpich or openmpi" ;;
esac
extras=$mpi${EXTRAS:+,$EXTRAS}

# Prints the interpreter to build with and a key of all that the environment is made from. Any Python can parse it.
# The base interpreter: with .venv activated, python3 is the one that a new environment would delete.
check='
import sys
if sys.version_info < (3, 10):
    sys.exit("quickstart: python3 is %d.%d, but 3.10 or newer is needed; install one and put it first on PATH" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("quickstart: this python3 cannot make environments; Debian, Ubuntu: apt-get install python3-venv")
import hashlib
made_from = [sys.base_prefix, sys.version] + sys.argv[1:]
made_from += [open(name).read() for name in ("pyproject.toml", "constraints.txt")]
print(getattr(sys, "_base_executable", None) or sys.executable)
print(hashlib.sha256(repr(made_from).encode()).hexdigest())
'
command -v python3 >/dev/null ||
  die "python3 is missing; install Python 3.10 or newer (Debian, Ubuntu: apt-get install python3 python3-venv)"
answer=$(python3 -c "$check" "$root" "$mpi") || exit 1
{ read -r python && read -r key; } <<<"$answer"

log=$venv/pip.log
install() {
  "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --only-binary=:all: \
    --constraint constraints.txt "$@" >>"$log" 2>&1 && return
  cat "$log" >&2
  if grep -qiE 'retrying|connection|timed out|name resolution' "$log"; then
    die "pip could not reach its package index; check the network, or the proxy or mirror in pip's configuration"
  elif grep -qE 'No matching distribution|ResolutionImpossible' "$log"; then # the second: what constraints.txt asks for
    die "pip finds no ready-made wheel of a package named above; for Linux (glibc 2.28 or newer, x86_64 or aarch64) and" \
      "CPython 3.10-3.14 there are wheels of all; this is $("$python" -c 'import platform as p; print(*p.libc_ver(), p.machine(), "Python", p.python_version())')"
  fi
  die "pip failed; its messages are above"
}

# $venv/.dnewton has a line "key extras" for each finished installation; .dnewton-unfinished marks an interrupted one.
stamp=$venv/.dnewton unfinished=$venv/.dnewton-unfinished
if [[ -e $unfinished ]] || ! grep -qxF "$key $extras" "$stamp" 2>/dev/null; then
  export PIP_USER=0 # a site's pip configuration may ask for --user, which an environment refuses
  if [[ -e $unfinished ]] || ! grep -qF "$key " "$stamp" 2>/dev/null; then
    [[ ! -e $venv || -e $stamp || -e $unfinished ]] ||
      die "$root/$venv exists and this script did not make it; move it away and run again"
    printf 'Installing into %s/%s: about 400 MB, a minute or less ...\n' "$root" "$venv"
    # Renamed first, so that a removal or an installation which is killed half-way leaves nothing that looks whole.
    rm -rf "$venv-old"
    [[ ! -e $venv ]] || mv "$venv" "$venv-old"
    rm -rf "$venv-old"
    mkdir "$venv" || die "cannot write to $root"
    : >"$unfinished"
    "$python" -m venv "$venv" >"$log" 2>&1 ||
      { cat "$log" >&2 && die "python3 -m venv failed; Debian, Ubuntu: apt-get install python3-venv"; }
    install setuptools # pinned too: dnewton itself is built with it, without a build environment of its own
  fi
  : >"$unfinished"
  install --no-build-isolation --editable ".[$extras]"
  printf '%s %s\n' "$key" "$extras" >>"$stamp"
  rm "$unfinished"
fi
[[ ${1-} != --install-only ]] || exit 0

options=()
if [[ $mpi == openmpi ]]; then
  options=(--oversubscribe) # Open MPI refuses more ranks than cores unless told
  if ((EUID == 0)); then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
fi
export PATH="$root/$venv/bin:$PATH"
training=(mpirun "${options[@]}" -np 4 python -m dnewton.train --net cnn.yaml "$@")
printf '$ %s\n' "${training[*]}"
"${training[@]}"
printf '\nTo use it from now on:  source %s/%s/bin/activate\n' "$root" "$venv"
