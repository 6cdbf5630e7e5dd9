# shellcheck shell=bash
# The batch scripts source this from the repository root. It activates the environment and sets
#
#   launcher    the words that start a program on all ranks of the job:  "${launcher[@]}" python -m dnewton.train ...
#   runs        the folder of the run directories
#
# What can be set when submitting (`LAUNCHER=mpiexec sbatch ...`; sbatch hands the environment on):
#
#   DNEWTON_VENV  environment to activate. Default: the one active at submission, else .venv if there is one, else none
#                 (conda, modules: load them before submitting)
#   LAUNCHER      auto (default), srun, mpiexec, or a whole command such as "srun --mpi=pmix_v4"; see docs/slurm.md
#   RUNS          folder of the run directories, on a file system that all nodes share. Default: runs

venv=${DNEWTON_VENV:-${VIRTUAL_ENV:-.venv}}
if [[ -f $venv/bin/activate ]]; then
  # shellcheck disable=SC1091 # exists where the job runs
  source "$venv/bin/activate"
elif [[ -n ${DNEWTON_VENV-} ]]; then
  printf 'launch.sh: DNEWTON_VENV=%s holds no environment\n' "$DNEWTON_VENV" >&2
  exit 2
fi
# shellcheck disable=SC2034 # for the script that sources this
runs=${RUNS:-runs}

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" # BLAS threads of one rank
export SRUN_CPUS_PER_TASK="$OMP_NUM_THREADS"       # since Slurm 22.05 srun no longer takes it over from sbatch
# When a rank has ended, the others have a minute to end, too. By default srun waits without limit, also for ranks that
# wait in MPI_Init for one that was killed.
export SLURM_WAIT="${SLURM_WAIT:-60}"

# With a --mpi that does not fit the MPI library, every rank would be a job of its own (dnewton refuses to run then). So
# the library that the ranks will use is asked, and Slurm is asked what it offers.
set_launcher() {
  local library offered open_mpi=false
  case ${LAUNCHER:-auto} in
    auto | srun | mpiexec) ;;
    *)
      read -r -a launcher <<<"$LAUNCHER"
      return
      ;;
  esac
  library=$(set -o pipefail && python -m mpi4py --mpi-lib-version | tr -d '\0') || {
    echo "launch.sh: python -m mpi4py fails, see above; is the environment the right one? ($(command -v python))" >&2
    exit 2
  }
  [[ $library != *"Open MPI"* ]] || open_mpi=true
  offered=$(srun --mpi=list 2>&1)
  launcher=(mpiexec -n "$SLURM_NTASKS") # MPI's own launcher; it asks Slurm for the nodes
  [[ ${LAUNCHER:-auto} != mpiexec ]] || return 0
  if [[ $open_mpi == true ]]; then
    if [[ ${LAUNCHER-} == srun ]] || grep -qw pmix <<<"$offered"; then
      launcher=(srun --mpi=pmix)
    fi
  elif [[ $library == *Intel* && -z ${I_MPI_PMI_LIBRARY-} && ${LAUNCHER-} != srun ]]; then
    : # Intel MPI works with srun only when this names Slurm's libpmi2.so
  elif [[ ${LAUNCHER-} == srun ]] || grep -qw pmi2 <<<"$offered"; then
    launcher=(srun --mpi=pmi2)
  fi
}
set_launcher
printf 'launcher: %s (%s ranks on %s)\n' "${launcher[*]}" "$SLURM_NTASKS" "$SLURM_JOB_NODELIST"
