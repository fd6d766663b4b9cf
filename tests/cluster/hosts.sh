# Virtual hosts on one machine, for the scripts in this folder to source: each host has network, name, process, IPC and
# mount namespaces of its own, so its own address, shared memory and process table; the files are common, as on a cluster's
# file system. All of it lives in one more set of namespaces, the world, and ends with the script, however that ends.

PATH=$PATH:/usr/sbin:/sbin  # administrators' programs

address_of() { echo "10.77.0.$1"; }  # of host 1, 2, ...; the head, where the script itself runs, is number 100

not_run() {
  echo "not run: $(basename "$0" .sh): $*"
  exit 77  # ctest: skipped
}

need() {  # programs of the package group "cluster", and a namespace of our own
  local program
  for program in "$@" ip nsenter unshare; do
    command -v "$program" >/dev/null || not_run "there is no $program (launch/install.sh cluster)"
  done
  ((EUID == 0)) || not_run "virtual hosts need root"
  unshare --net --uts --pid --mount --fork true 2>/dev/null || not_run "this machine lets root make no namespaces"
}

# enter_world "$@": starts the script again as the first process of the world, with $world, a folder removed at the end.
enter_world() {
  if (($$ != 1)); then  # only the first process of the world may go on: what follows would change the machine's own network
    world=$(mktemp -d)
    export world
    trap 'rm -rf "$world"' EXIT
    # Should ctest kill this shell, the world goes with it.
    setpriv --pdeathsig KILL unshare --net --uts --pid --mount --fork --kill-child --mount-proc --propagation private \
      bash "$0" "$@"
    exit
  fi
  hostname head
  ip link set lo up
  ip link add br0 type bridge
  ip addr add "$(address_of 100)/24" dev br0
  ip link set br0 up
  printf '127.0.0.1 localhost\n%s head\n' "$(address_of 100)" >"$world/hosts"
  mount --bind "$world/hosts" /etc/hosts
}

add_host() {  # number: host vhN
  local n=$1 name=vh$1
  grep -q " $name\$" "$world/hosts" || echo "$(address_of "$n") $name" >>"$world/hosts"
  rm -f "$world/$name.ready"  # of one that was killed
  unshare --net --uts --ipc --pid --mount --fork --kill-child --mount-proc --propagation private bash -c "
    hostname $name; ip link set lo up; mount -t tmpfs tmpfs /dev/shm
    trap 'exit 0' TERM; : >'$world/$name.ready'; while :; do sleep 1000 & wait; done" </dev/null &
  local outer=$! tries
  for ((tries = 0; tries < 1200; tries++)); do
    [[ -e $world/$name.ready ]] && break
    sleep 0.05
  done
  read -r "pid_of_$name" <"/proc/$outer/task/$outer/children" || true  # the line has no end
  local -n pid="pid_of_$name"
  echo "$pid" >"$world/$name.pid"
  ip link add "p$n" type veth peer name eth0 netns "$pid"
  ip link set "p$n" master br0 up
  nsenter -t "$pid" -n sh -c "ip addr add $(address_of "$n")/24 dev eth0; ip link set eth0 up"
}

on() {  # host command...
  local host=$1
  shift
  nsenter -t "$(<"$world/$host.pid")" --net --uts --ipc --pid --mount --wd="$PWD" "$@"
}

kill_host() { kill -9 "$(<"$world/$1.pid")"; }   # a power failure: all its processes end with the first
cut() { ip link set "p${1#vh}" down; }           # nothing gets through
join() { ip link set "p${1#vh}" up; }
rate() {  # host rate ("100mbit"): both directions of its link
  tc qdisc replace dev "p${1#vh}" root tbf rate "$2" burst 256k latency 50ms
  on "$1" tc qdisc replace dev eth0 root tbf rate "$2" burst 256k latency 50ms
}

# Open MPI among the hosts. Their cores are the same ones, so nothing is bound, and waiting ranks yield.
mpi_environment() {
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
  export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_rmaps_base_oversubscribe=1
  export OMPI_MCA_oob_tcp_if_include=10.77.0.0/24 OMPI_MCA_btl_tcp_if_include=10.77.0.0/24
  export OMPI_MCA_plm_rsh_agent="$here/rsh.sh" OMP_NUM_THREADS=1
}
