#!/usr/bin/env bash
# A real Slurm on one Debian or Ubuntu machine, for tests: munged, slurmctld and three slurmd (nodes n1, n2, n3 of 8
# pretended cores and 4 pretended GPUs each). It listens on 127.0.0.1 only and uses no file, port or daemon of a Slurm that
# is already there.
#
#   scripts/local_slurm.sh up        starts it (a second time: does nothing) and prints a line for the shell:
#                                    export SLURM_CONF=...
#   scripts/local_slurm.sh status    that line and `sinfo`; exit status 1 when it is not up
#   scripts/local_slurm.sh down      ends its jobs and daemons and removes all its files
#   scripts/local_slurm.sh run COMMAND...
#                                    up in a folder of its own, the command with SLURM_CONF set, down in any case
#
#   LOCAL_SLURM_DIR=DIR              where everything is kept (default: dnewton-slurm in /run or in the temporary folder)
#   LOCAL_SLURM_INSTALL=0            never install packages
#
# up installs what is missing with apt-get when it may. Exit status: 0 done, 1 failed, 77 this machine cannot (one line on
# stderr says why).
set -euo pipefail
unset CDPATH

packages=(slurm-wlm slurm-client munge libpmix-dev) # the last: Slurm's pmix plugin looks for libpmix.so
programs=(munged mungekey slurmctld slurmd srun sbatch scontrol)
nodes=(n1 n2 n3)

die() {
  printf 'local_slurm: %s\n' "$*" >&2
  exit 1
}
cannot() {
  printf 'local_slurm: %s\n' "$*" >&2
  exit 77
}

export PATH="$PATH:/usr/sbin:/sbin"
default=${TMPDIR:-/tmp}/dnewton-slurm-$EUID
((EUID != 0)) || default=/run/dnewton-slurm
if [[ ${1-} == run && -z ${LOCAL_SLURM_DIR-} ]]; then
  default=$(mktemp -d "$default-XXXXXX") # several may run at the same time
  chmod 755 "$default"
fi
dir=${LOCAL_SLURM_DIR:-$default}
[[ $dir == /* ]] || dir=$PWD/$dir
[[ $dir != *[[:space:]]* ]] || die "LOCAL_SLURM_DIR=$dir: Slurm takes no path with spaces"
export SLURM_CONF=$dir/slurm.conf
host=$(uname -n)
host=${host%%.*}

# A daemon of ours: its pid file names a living process whose command line has our folder. (Ended daemons can stay as
# zombies for a while; those have no command line.)
alive() {
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) || return 1
  [[ -n $pid ]] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$dir/"
}
daemons() { printf '%s\n' slurmctld "${nodes[@]/#/slurmd.}" munged; }
is_up() {
  local daemon
  for daemon in $(daemons); do
    alive "$daemon" || return 1
  done
}
has() { command -v "$1" >/dev/null; }

# wait_until SECONDS COMMAND...
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

has_pmix() { compgen -G '/usr/lib/*/pmix2/lib/libpmix.so' >/dev/null; }

install_packages() {
  local missing=() program may=true
  for program in "${programs[@]}"; do
    has "$program" || missing+=("$program")
  done
  if ((${#missing[@]} == 0)) && has_pmix; then
    return
  fi
  [[ ${LOCAL_SLURM_INSTALL:-1} != 0 && $EUID == 0 ]] && has apt-get || may=false
  if [[ $may == true ]]; then
    # The packages would start daemons of their own where a service manager runs; RUNLEVEL=1 keeps their scripts from it.
    { apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      "${packages[@]}"; } >"$dir/log/apt.log" 2>&1 && return
    tail -n 5 "$dir/log/apt.log" >&2
  fi
  ((${#missing[@]})) || return 0 # only srun --mpi=pmix does not work
  cannot "missing: ${missing[*]}; on Debian or Ubuntu, as root: apt-get install --no-install-recommends ${packages[*]}"
}

# Ports that nobody listens on: one for slurmctld, one for each slurmd.
free_port() {
  local base port
  for ((base = 16817; base < 17817; base += 100)); do
    for ((port = base; port <= base + ${#nodes[@]}; port++)); do
      ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
    done
    echo "$base"
    return
  done
  die "no free ports between 16817 and 17817"
}

write_configuration() {
  local port=$1
  echo CgroupPlugin=cgroup/v1 >"$dir/cgroup.conf" # slurmd loads one; this one does without a mounted cgroup tree
  echo "Name=gpu File=$dir/gpu[0-3]" >"$dir/gres.conf"
  local gpu
  for gpu in 0 1 2 3; do
    ln -sfn /dev/null "$dir/gpu$gpu" # it only has to be a device
  done
  # NodeName=...: pretended cores, so config_overrides. cred_expire: a requeued job waits that long plus 1 s (1 would be taken
  # as the default, 120). sched_interval: otherwise it waits for the main cycle, 60 s. TmpFS: pmix of several nodes on one host.
  # KillWait: less than that, or what is left of a job's first run on a node that only pretended to fail kills its second one.
  # SlurmUser: whoever starts it. FirstJobId: MPICH names its shared memory after the job, and a killed job of an earlier
  # Slurm may have left some.
  cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=cred_expire=5,socket=$dir/run/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
TmpFS=$dir/tmp/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=5
MinJobAge=600
FirstJobId=$((10000 + $(date +%s) % 1000000 * 50))
JobRequeue=1
GresTypes=gpu
NodeName=n[1-3] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 3))] CPUs=8 Boards=1 Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:4 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

# Slurm needs a host name that resolves and, to resolve 127.0.0.1 at all, one address that is not loopback's.
prepare_network() {
  if ! getent hosts "$host" >/dev/null; then
    [[ -w /etc/hosts ]] || cannot "the host name $host does not resolve; add '127.0.0.1 $host' to /etc/hosts"
    echo "127.0.0.1 $host # local_slurm $dir" >>/etc/hosts
  fi
  if has ip && [[ -z $(ip -o addr show up scope global) ]]; then
    ip addr add 198.18.0.1/32 dev lo || cannot "only loopback is up, and no address can be added to it"
    touch "$dir/run/address"
  fi
}

up() {
  if is_up; then
    echo "export SLURM_CONF=$SLURM_CONF"
    return
  fi
  [[ ! -e $dir ]] || down # a part of it, from a start that failed
  umask 022
  mkdir -p "$dir"/{log,run,state,spool,tmp} "${nodes[@]/#/$dir/tmp/}" "${nodes[@]/#/$dir/spool/}"
  : >"$dir/made-by-local_slurm"
  trap down EXIT
  install_packages
  trap 'tail -n 5 "$dir"/log/*.log >&2 || true; down' EXIT
  prepare_network
  write_configuration "$(free_port)"
  mkdir -m 0700 "$dir/key"
  mungekey --create --keyfile="$dir/key/munge.key"
  munged --force --key-file="$dir/key/munge.key" --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/key/seed" 2>>"$dir/log/start.log"
  slurmctld -f "$SLURM_CONF" 2>>"$dir/log/start.log"
  for node in "${nodes[@]}"; do
    slurmd -f "$SLURM_CONF" -N "$node" 2>>"$dir/log/start.log"
  done
  wait_until 30 all_idle || die "the nodes did not come up"
  trap - EXIT
  echo "export SLURM_CONF=$SLURM_CONF"
}
all_idle() { [[ $(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l) -eq ${#nodes[@]} ]]; }
no_jobs() { [[ -z $(squeue -h -o %A 2>/dev/null) ]]; }

# Daemons and job steps that remain: told apart from any others by the configuration in their environment.
stragglers() {
  local file exe
  for file in /proc/[0-9]*/environ; do
    exe=$(readlink "${file%environ}exe" 2>/dev/null) || continue
    if { tr '\0' '\n' <"$file" | grep -qxF "SLURM_CONF=$SLURM_CONF"; } 2>/dev/null &&
      { [[ $exe == */slurm* ]] || { tr '\0' '\n' <"$file" | grep -q '^SLURM_JOB_ID='; } 2>/dev/null; }; then
      basename "${file%/environ}"
    fi
  done
}

down() {
  [[ -e $dir/made-by-local_slurm ]] || return 0
  local pids
  if alive slurmctld; then
    squeue -h -o %A | sort -u | xargs -r timeout 10 scancel || true
    wait_until 15 no_jobs || true
    timeout 10 scontrol shutdown || true
  fi
  local daemon
  for daemon in $(daemons); do
    ! alive "$daemon" || kill "$(cat "$dir/run/$daemon.pid")" 2>/dev/null || true
  done
  for daemon in $(daemons); do
    wait_until 5 not alive "$daemon" || kill -KILL "$(cat "$dir/run/$daemon.pid")" 2>/dev/null || true
  done
  mapfile -t pids < <(stragglers)
  ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null || true
  [[ ! -e $dir/run/address ]] || ip addr del 198.18.0.1/32 dev lo || true
  if grep -qsF "# local_slurm $dir" /etc/hosts; then
    local hosts
    hosts=$(grep -vF "# local_slurm $dir" /etc/hosts || true)
    printf '%s\n' "$hosts" >/etc/hosts # in place: in a container the file cannot be replaced
  fi
  rm -rf "$dir"
}
not() { ! "$@"; }

status() {
  is_up || {
    echo "local_slurm: not up" >&2
    exit 1
  }
  echo "export SLURM_CONF=$SLURM_CONF"
  sinfo -N
}

run() {
  local status=0
  trap 'exit 143' INT TERM HUP
  up >/dev/null
  trap down EXIT
  "$@" || status=$?
  exit "$status"
}

case ${1-} in
  up | down | status) "$1" ;;
  run) shift && run "$@" ;;
  *) die "use: $0 up|status|down|run COMMAND..." ;;
esac
