#!/usr/bin/env bash
# A real Slurm of one node, for tests: `one_node_slurm.sh start DIR` prints the path of its slurm.conf; `stop DIR` ends it.
# Needs root and Debian's slurm-wlm and munge. Touches nothing outside DIR but munge's key and socket, which it makes if missing.
set -euo pipefail
action=${1:?start or stop} dir=${2:?a folder}
host=$(hostname -s)

if [ "$action" = stop ]; then
  for name in slurmd slurmctld; do
    [ ! -f "$dir/$name.pid" ] || kill "$(cat "$dir/$name.pid")" 2>/dev/null || true
  done
  exit 0
fi

mkdir -p "$dir/state" "$dir/spool" /run/munge
if [ ! -s /etc/munge/munge.key ]; then
  (umask 077; head -c 1024 /dev/urandom > /etc/munge/munge.key)
fi
chown munge: /etc/munge/munge.key /run/munge
pgrep -x munged > /dev/null || runuser -u munge -- /usr/sbin/munged
cat > "$dir/slurm.conf" <<CONF
ClusterName=one_node
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem:/{print int($2 / 2)}') State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf
slurmctld
slurmd
for _ in $(seq 30); do
  if sinfo --noheader --format=%T 2> /dev/null | grep -q idle; then
    echo "$SLURM_CONF"
    exit 0
  fi
  sleep 1
done
tail -n 5 "$dir"/*.log >&2
exit 1
