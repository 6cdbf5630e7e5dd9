#!/usr/bin/env bash
# Installs what the tests need (.venv with MPICH, .venv-openmpi with Open MPI) and runs them all; no step can hang.
#
#   scripts/test.sh                   all steps; exit status 1 if any failed
#   STEPS="1 4" scripts/test.sh       only these steps, by the numbers at the end of this file
#   STEP_TIMEOUT=600 scripts/test.sh  seconds that one step may take
#
# What this machine does not allow (a Slurm for tests, network namespaces) is left out, and the end says so.
set -uo pipefail # no -e: a failed step is counted, and the next one runs
unset CDPATH PYTHONPATH PYTHONHOME
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

export OMP_NUM_THREADS=1 # ranks share the cores
[[ -t 1 ]] || export PY_COLORS=0 # Open MPI gives its ranks a terminal, always
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ledger='' beside='' beside_log=''
if [[ -z ${DNEWTON_TEST_LEDGER-} ]]; then # conftest writes down here which tests ran
  ledger=$(mktemp) || exit 1
  export DNEWTON_TEST_LEDGER=$ledger
fi
unset PYTHONDONTWRITEBYTECODE # hundreds of processes import the same modules: they are compiled once
child='' installed='' passed=0 failures=() left_out=() not_run=()
trap 'rm -f -- ${ledger:+"$ledger"} ${beside_log:+"$beside_log"}' EXIT
trap '[[ -z $child ]] || kill -TERM -- "-$child"; [[ -z $beside ]] || kill -TERM "$beside"; exit 130' INT TERM HUP

# All steps are wanted unless some are named; those that run beside are not wanted twice.
wanted() { if [[ -z ${STEPS-} ]]; then [[ $1 != 14 ]]; else [[ " $STEPS " == *" $1 "* ]]; fi; }

# step NAME COMMAND... - under a time limit and in a process group of its own, so that all of it can be ended.
step() {
  local name=$1 status start=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  set -m
  timeout --kill-after=30 "${STEP_TIMEOUT:-1800}" "$@" </dev/null &
  child=$!
  set +m
  wait "$child"
  status=$?
  kill -KILL -- "-$child" 2>/dev/null # what a failed step left behind
  child=''
  if ((status == 0)); then
    passed=$((passed + 1))
  elif ((status == 77)); then # as scripts/local_slurm.sh says; its reason is printed above
    left_out+=("$name")
  else
    ((status != 124 && status != 137)) || status="$status (time limit)"
    failures+=("$name: status $status")
  fi
  printf '=== %s: status %s, %s s\n' "$name" "$status" "$((SECONDS - start))"
}

# Only rank 0 reports; what the others write to stderr (their tracebacks) stays visible.
# shellcheck disable=SC2016 # for the ranks' shells to expand
report_once='((${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}} == 0)) || exec >/dev/null; exec python -m pytest "$@"'

install() { # MPI EXTRAS
  [[ $installed != *" $1 "* ]] || return 0
  installed+=" $1 "
  step "install $1" env MPI="$1" EXTRAS="$2" scripts/quickstart.sh --install-only
}

# start_beside STEPS - run these at the same time as what follows; join_beside waits for them and counts what they say.
start_beside() {
  beside_log=$(mktemp) || exit 1
  STEPS=$1 scripts/test.sh >"$beside_log" 2>&1 </dev/null &
  beside=$!
}

join_beside() {
  local line status before=${#failures[@]}
  [[ -n $beside ]] || return 0
  wait "$beside"
  status=$?
  beside=''
  while IFS= read -r line; do
    case $line in
      'LEFT OUT '*) line=${line#LEFT OUT } && left_out+=("${line%: this machine does not allow it, see above}") ;;
      'FAILED step'* | 'FAILED install'*) failures+=("${line#FAILED }") ;;
      *' passed, '*' failed, '*' left out') ;;
      *)
        [[ $line != '=== '*': status 0, '* ]] || passed=$((passed + 1))
        printf '%s\n' "$line"
        ;;
    esac
  done <"$beside_log"
  ((status == 0 || ${#failures[@]} > before)) || failures+=("the steps beside: status $status")
}

# tests NUMBER MPI RANKS ARGUMENT...
tests() {
  local number=$1 mpi=$2 ranks=$3 venv=.venv extras=test,notebook,lint,docs launcher=()
  shift 3
  wanted "$number" || return 0
  ((ranks == 1)) || launcher=(mpirun -np "$ranks")
  if [[ $mpi == openmpi ]]; then
    venv=.venv-openmpi extras=test
    ((ranks == 1)) || launcher+=(--oversubscribe)
  fi
  install "$mpi" "$extras"
  step "step $number: pytest $* on $ranks rank(s), $mpi" \
    env PATH="$PWD/$venv/bin:$PATH" "${around[@]}" "${launcher[@]}" bash -c "$report_once" pytest "$@"
}

around=() # what a step's command is started with

# All tests run on 1 and on 3 ranks, which no grid divides evenly; a test that knows no other ranks on 1 only, and jobs
# inside the session (tests/support/inside.py) once. On 2, 4 and 16 ranks and under Open MPI runs what differs there.
t=tests s=tests/solvers b=tests/solvers/baselines
two_ranks=($t/comm $t/model $s/newton/test_newton.py)
smoke=($b/test_baselines.py::test_trajectory $b/test_kfac.py::test_trajectory $b/test_parameter_server.py) # all solvers
on_four=($t/cli/test_{train,compare,predict}.py $t/cli/test_bad_input.py::test_on_four_ranks # jobs
  $t/api/test_fit.py $t/cli/test_plan.py $t/training/test_{changed_data,closing,trace}.py)
at16=($t/model/test_network.py $t/planning/test_traffic_forecast.py $t/storage/test_tensors.py $s/newton/test_newton.py)
signals=$t/cli/test_stopped_jobs.py::test_a

# Beside the others run, on one rank: what waits for most of its time (Slurm's jobs; an installation, for the network),
# and what looks at memory alone, in jobs of its own.
if [[ -z ${STEPS-} ]]; then
  install mpich test,notebook,lint,docs
  start_beside '11 12 14'
fi
tests 1 mpich 1 -q --ignore=$t/planning/test_memory.py
tests 14 mpich 1 -q $t/planning/test_memory.py
tests 2 mpich 2 -q "${two_ranks[@]}"
tests 3 mpich 3 -q
tests 4 mpich 4 -q "${two_ranks[@]}" $t/{curvature,planning/test_traffic_forecast.py} $s/newton/test_replicated.py \
  "${smoke[@]}" "${on_four[@]}"
tests 5 mpich 16 -q -m 'at16 or jobs' "${at16[@]}" $t/cli/test_compare.py
join_beside
tests 6 openmpi 1 -q $t/cli/test_train.py $t/comm/test_two_hosts.py "${signals}_rank_that_stops_answering_is_named"
tests 7 openmpi 2 -q "${two_ranks[@]}" $t/training "${smoke[@]}"
tests 8 openmpi 3 -q -m 'at16 or jobs' "${at16[@]}" $t/cli/test_train.py \
  "${signals}_signal_to_the_launcher_stops_all" "${signals}_killed_rank_ends_the_job"
engine=(tests/{arrays/test_arrays,hardware/test_device,model/test_network,solvers/newton/test_newton}.py tests/solvers
  tests/curvature/test_hessian.py tests/training/test_resume.py tests/planning/test_curvature_plan.py)
if command -v "${CXX:-c++}" g++ clang++ >/dev/null; then # the fake GPU compiles its kernels
  around=(env DNEWTON_TEST_ARRAYS=cuda DNEWTON_TEST_BUFFERS=straight)
  tests 9 mpich 2 -q "${engine[@]}"
elif wanted 9; then
  left_out+=("step 9: no C++ compiler") && not_run+=(tests/hardware/test_device.py tests/arrays/test_fake_cuda.py)
fi
around=(env DNEWTON_TEST_ARRAYS=strict)
tests 10 mpich 2 -q "${engine[@]:0:4}"
[[ -n ${STEPS-} ]] || STEPS=13 # 11, 12 and 14 have run
around=(env DNEWTON_TEST_SLURM=1 scripts/local_slurm.sh run) # up before the step, down after it in any case
tests 11 mpich 1 -q tests/slurm
tests 12 openmpi 1 -q tests/slurm -k 'end or saved or pmi'
if wanted 13; then
  [[ -n ${DNEWTON_REAL_CUPY-} ]] || not_run+=(tests/arrays/test_fake_cuda.py::test_the_real_cupy_has_what_the_fake_has)
  if ! .venv/bin/python -c 'import torch' 2>/dev/null; then # an oracle, which takes too long to install
    not_run+=('*-torch]' '*[torch-' '*went_to_pytorch' '*autograd_of_torch' '*test_float64_models_stay_so')
  fi
  [[ " ${left_out[*]} " != *" step 11: "* ]] || not_run+=(tests/slurm/)
  scripts/two_hosts.sh --check || { left_out+=("tests/comm/test_two_hosts.py") && not_run+=(tests/comm/test_two_hosts.py); }
  step "step 13: every test ran on some number of ranks" \
    python3 tests/check_ran.py "$DNEWTON_TEST_LEDGER" "${not_run[@]}"
fi

printf '\n'
for name in "${left_out[@]}"; do
  printf 'LEFT OUT %s: this machine does not allow it, see above\n' "$name"
done
for failure in "${failures[@]}"; do
  printf 'FAILED %s\n' "$failure"
done
printf '%s passed, %s failed, %s left out\n' "$passed" "${#failures[@]}" "${#left_out[@]}"
((passed > 0 && ${#failures[@]} == 0))
