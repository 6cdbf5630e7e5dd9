#!/usr/bin/env bash
# Two hosts on one machine: runs an MPI command across two network namespaces, "alpha" and "beta", which share files and
# processors but have host names and network addresses of their own, so that all between them goes over a (virtual) cable.
#
#   scripts/two_hosts.sh mpirun -np 4 python -m dnewton.train --net mlp.yaml
#   scripts/two_hosts.sh --slots 4 --rate 100mbit --delay 1ms mpirun -np 8 ...
#   scripts/two_hosts.sh --check      exit status 0 if this machine allows it, else 77 and one line that says why not
#
#   --slots N    ranks that a host takes (default 2): ranks 0 to N-1 run on alpha, N to 2N-1 on beta
#   --rate R     limit of the cable in each direction, such as 200mbit; --delay D one way, such as 5ms. Without a delay the
#                cable is the kernel's (veth, tbf); with one it is scripts/delayed_cable.py, since many kernels lack netem
#
# The command starts on alpha. mpirun learns of the hosts by its environment: MPICH's hydra and Open MPI 5 both find a host
# file and a stand-in for ssh, which enters the other namespace. At the end a line on stderr tells the bytes that each host
# sent. Needs Linux, `ip` and `unshare`; root, or user namespaces. Nothing is left: the namespaces end with their processes.
set -euo pipefail
unset CDPATH

die() {
  printf 'two_hosts: %s\n' "$*" >&2
  exit 2
}
cannot() {
  printf 'two_hosts: %s\n' "$*" >&2
  exit 77
}

# What beta is entered with: ssh's way of calling, HOST COMMAND.
write_ssh() {
  cat >"$1" <<SSH
#!/bin/sh
while case \$1 in -*) true ;; *) false ;; esac; do shift; done
case \$1 in
  beta | $address.2) target=$2 TMPDIR=$place/beta ;;
  *) target=\$\$ TMPDIR=$place/alpha ;;
esac
export TMPDIR # hosts do not share it, and Open MPI's daemons would meet there
shift
exec nsenter --target "\$target" --net --uts --ipc --mount /bin/sh -c "cd '$PWD' && \$*"
SSH
  chmod +x "$1"
}

shape() { # shape PREFIX... : applies --rate to eth0 of one host
  [[ -z $rate ]] || "$@" tc qdisc add dev eth0 root tbf rate "$rate" burst 64kb latency 50ms
}

# The cable with a delay: a device in each namespace, and a process between them that says when both are there.
delayed() { # delayed PID-OF-BETA
  mkfifo "$place/cable"
  python3 "$here/delayed_cable.py" --peer "$1" --delay "$delay" ${rate:+--rate "$rate"} >"$place/cable" &
  read -r _ <"$place/cable" || die "the delayed cable did not start (it needs /dev/net/tun)"
}

sent() { "$@" ip -s -o link show eth0 | sed -E 's/.*TX:[^\\]*\\ *([0-9]+).*/\1/'; }

# The first process of the new namespaces; it is alpha, a sleeping process is beta.
inside() {
  local beta status=0 place=$1 pid
  shift
  mkdir "$place/alpha" "$place/beta"
  hostname alpha
  printf '127.0.0.1 localhost\n%s.1 alpha\n%s.2 beta\n' "$address" "$address" >"$place/hosts"
  mount --bind "$place/hosts" /etc/hosts # seen in here only
  # --ipc: or MPI would find the other host's shared memory. --mount: /sys lists the network devices of whoever mounts it,
  # and UCX looks there.
  unshare --net --uts --ipc --mount sh -c 'mount -t sysfs sysfs /sys && hostname beta && exec sleep infinity' &
  beta=$!
  mount -t sysfs sysfs /sys
  until [[ $(</proc/$beta/comm) == sleep ]]; do
    [[ -d /proc/$beta ]] || die "the second host did not start"
    sleep 0.01
  done
  local in_beta=(nsenter --target "$beta" --net --uts --ipc --mount)
  if [[ -n $delay ]]; then
    delayed "$beta"
    ip link set eth0 mtu 9000
    "${in_beta[@]}" ip link set eth0 mtu 9000
  else
    ip link add eth0 type veth peer name eth0 netns "$beta"
  fi
  ip link set lo up
  ip addr add "$address.1/24" dev eth0
  ip link set eth0 up
  "${in_beta[@]}" ip link set lo up
  "${in_beta[@]}" ip addr add "$address.2/24" dev eth0
  "${in_beta[@]}" ip link set eth0 up
  until [[ $(</sys/class/net/eth0/operstate) != down && $("${in_beta[@]}" cat /sys/class/net/eth0/operstate) != down ]]; do
    sleep 0.01 # the kernel takes up to a second, and MPI leaves out devices that are not up
  done
  if [[ -z $delay ]]; then
    shape
    shape "${in_beta[@]}"
  fi
  printf 'alpha:%s\nbeta:%s\n' "$slots" "$slots" >"$place/mpich"
  printf 'alpha slots=%s\nbeta slots=%s\n' "$slots" "$slots" >"$place/openmpi"
  write_ssh "$place/ssh" "$beta"
  export HYDRA_LAUNCHER=ssh HYDRA_LAUNCHER_EXEC=$place/ssh HYDRA_HOST_FILE=$place/mpich
  export TMPDIR=$place/alpha
  export PRTE_MCA_plm=ssh PRTE_MCA_plm_ssh_agent=$place/ssh PRTE_MCA_prte_default_hostfile=$place/openmpi
  # Not over loopback, which both hosts have: UCX may take alpha's for beta's.
  export UCX_NET_DEVICES=eth0 FI_TCP_IFACE=eth0 OMPI_MCA_btl_tcp_if_include=eth0
  trap 'kill -TERM "$pid" 2>/dev/null; wait "$pid"; exit 143' INT TERM HUP
  "$@" &
  pid=$!
  wait "$pid" || status=$?
  printf 'two_hosts: alpha sent %s bytes, beta sent %s bytes\n' "$(sent)" "$(sent "${in_beta[@]}")" >&2
  exit "$status" # the first process of a process namespace: all others end with it
}

slots=2 rate='' delay='' check=false address=10.222.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
while (($#)); do
  case $1 in
    --slots | --rate | --delay)
      (($# > 1)) || die "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --check) check=true && shift ;;
    --inside)
      shift
      inside "$@"
      ;;
    --) shift && break ;;
    -*) die "unknown option $1" ;;
    *) break ;;
  esac
done
[[ $slots =~ ^[1-9][0-9]*$ ]] || die "--slots $slots: a number of ranks is needed"
for program in unshare nsenter setpriv ip hostname; do
  command -v "$program" >/dev/null || cannot "$program is missing (Debian, Ubuntu: apt-get install util-linux iproute2 hostname)"
done
namespaces=(unshare --mount --net --uts --pid --fork --kill-child --mount-proc)
((EUID == 0)) || namespaces+=(--map-root-user)
"${namespaces[@]}" ip link add eth0 type veth peer name eth1 2>/dev/null ||
  cannot "this machine allows no network namespaces with veth devices (as root, in a container with CAP_SYS_ADMIN, it may)"
[[ $check == false ]] || exit 0
(($#)) || die "a command is needed; the head of this script explains"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
# All processes in there end with unshare, and unshare with this shell.
trap '[[ -z ${child-} ]] || kill -KILL "$child"; exit 143' INT TERM HUP
setpriv --pdeathsig KILL "${namespaces[@]}" \
  "$BASH" "$0" --slots "$slots" --rate "$rate" --delay "$delay" --inside "$place" "$@" <&0 &
child=$!
status=0
wait "$child" || status=$?
exit "$status"
