# A SLURM cluster on virtual hosts (hosts.sh), for the scripts in this folder to source: the controller runs on the head,
# one slurmd on each host. Partition "high" pre-empts "low".
source "$here/hosts.sh"
source "$here/small_run.sh"

# enter_cluster UPCYCLE: enters the world (hosts.sh); where the script fails there, it shows the output of SLURM and of the job.
enter_cluster() {
  need mpirun jq tc munged slurmctld slurmd sbatch srun
  enter_world "$@"
  trap '(($? == 0)) || show_logs' EXIT
  UPCYCLE_BINARY=$(readlink -f "$1")
  export UPCYCLE_BINARY
}

start_controller() {
  slurmctld -D </dev/null >>"$world/slurmctld.out" 2>&1 &
  controller=$!
}
# SLURM's controller writes what it knows of jobs some seconds later: one that is killed before knows this start no more,
# starts the job a second time and finds it running.
start_is_kept() {
  (($(stat -c %Y "$world/state/job_state" 2>/dev/null || echo 0) > $(date -d "$(job "$id" StartTime)" +%s)))
}
restart_controller() {  # a step or two without one in between
  wait_for 60 "record of the job's start" start_is_kept
  kill -9 "$controller"
  wait "$controller" 2>/dev/null || true
  wait_for 60 "steps without a controller" steps_done $(($(lines) + 2))
  start_controller
}
start_node() {  # number of its host
  mkdir -p "$world/spool.vh$1" "$world/tmp.vh$1"
  on "vh$1" slurmd -D -N "vh$1" </dev/null >>"$world/slurmd.vh$1.out" 2>&1 &
}

start_slurm() {  # number of hosts
  local n tries
  (umask 077 && head -c 128 /dev/urandom >"$world/munge.key")
  export SLURM_CONF=$world/slurm.conf
  # cred_expire: a requeued job waits that long for its old credentials to end, by default two minutes.
  cat >"$SLURM_CONF" <<X
ClusterName=test
SlurmctldHost=head($(address_of 100))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$world/munge.sock,cred_expire=5
StateSaveLocation=$world/state
SlurmdSpoolDir=$world/spool.%n
TmpFS=$world/tmp.%n
SlurmctldPidFile=$world/slurmctld.pid
SlurmdPidFile=$world/slurmd.%n.pid
SlurmctldLogFile=$world/slurmctld.log
SlurmdLogFile=$world/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
JobRequeue=1
RequeueExit=98
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=600
TCPTimeout=2
MessageTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=vh[1-$1] NodeAddr=10.77.0.[1-$1] CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
X
  mkdir -p "$world/state"
  munged --force -S "$world/munge.sock" --key-file="$world/munge.key" --pid-file="$world/munge.pid" \
    --log-file="$world/munge.log" --seed-file="$world/munge.seed" 2>"$world/munged.log"
  start_controller
  for ((n = 1; n <= $1; n++)); do start_node "$n"; done
  for ((tries = 0; tries < 300; tries++)); do
    [[ $(sinfo -h -p low -t idle -o %D 2>/dev/null) == "$1" ]] && return
    sleep 0.1
  done
  tail -n 20 "$world"/slurmctld.log "$world"/slurmd.*.out >&2
  echo "FAILED: no idle nodes after 30 s"
  return 1
}

job() { scontrol --oneliner show job "$1" | sed -n "s/.* $2=\([^ ]*\).*/\1/p"; }  # id field

wait_for() {  # seconds what command...: polls until the command succeeds
  local until=$((SECONDS + $1)) what=$2
  shift 2
  while ! "$@"; do
    if ((SECONDS >= until)); then
      echo "FAILED: no $what in time"
      return 1
    fi
    sleep 0.2
  done
}

# The small run (small_run.sh) on two nodes, with four ranks: $whole is the folder of one that nothing interrupts, $cut
# that of job $id, which is submitted when this returns, with the options $job_options and overrides $job_train. Its link is slow, so
# that its steps take 0.1 s (20mbit) on any machine and the run is met before it ends.
job_options=() job_train=() job_link=20mbit
fewer_exchanges=(--model.num_hidden_layers=1 --train.global_batch_size=4)  # in a step: with 5mbit it takes 0.1 s too
start_job() {  # steps override...
  local steps=$1
  shift
  train=("$world/run.json" --parallel.tp=2 --parallel.ep=4 "$@")
  whole=$world/whole cut=$world/cut
  make_small_run "$UPCYCLE_BINARY" "$world" "$steps"
  mpi_environment
  add_host 1
  add_host 2
  rate vh2 "$job_link"
  start_slurm 2
  logged mpirun -H head:4 -n 4 "$UPCYCLE_BINARY" train "${train[@]}" --checkpoint.dir="$whole"
  submit
}
submit() {
  id=$(sbatch --parsable --partition=low --nodes=2 --ntasks-per-node=2 --output="$world/job.out" "${job_options[@]}" \
    "$here/../../launch/train.sbatch" "${train[@]}" --checkpoint.dir="$cut" "${job_train[@]}")
}
lines() { wc -l <"$cut/metrics.jsonl"; }
steps_done() { [[ -e $cut/metrics.jsonl ]] && (($(lines) >= $1)); }
restarted() { [[ $(job "$id" Restarts) == "$1" && $(job "$id" JobState) == RUNNING ]]; }
ended() { [[ $(job "$id" JobState) =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)$ ]]; }
expect_completed() {
  wait_for 150 "end of the job" ended
  [[ $(job "$id" JobState) == COMPLETED ]] || { echo "FAILED: the job is $(job "$id" JobState)"; return 1; }
}
show_logs() { tail -n 40 "$world"/job.out "$world"/slurm*.log >&2; }
