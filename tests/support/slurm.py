"""A private SLURM cluster: munged, slurmctld and one slurmd for each node, all state in one folder, all on loopback.

Each node is a process in its own mount, UTS and PID namespace: it has its own host name and /dev/shm, and killing it is
a power cut. Needs root and Debian's packages:
apt-get install -y --no-install-recommends slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare")
_NODE = r"""
set -e
hostname "$1"
mount --make-rprivate /
mount --bind "$2/etc/hosts" /etc/hosts
mount -t tmpfs -o size=1g tmpfs /dev/shm
slurmd -D -N "$1" &
while :; do wait; sleep 0.2; done  # stays process 1 and reaps orphans, which slurmd does not
"""
# cred_expire: a requeued job may start again that many seconds (+1) later. SlurmdTimeout: a dead node is down after it.
_CONF = """ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge/sock,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd.%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd.%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmdTimeout=5
SlurmctldTimeout=10
MessageTimeout=5
KillWait=10
MinJobAge=600
SlurmdParameters=config_overrides
{nodes}PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=REQUEUE GraceTime=20 State=UP
PartitionName=low Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here, with what would help; None when one can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} missing: {INSTALL}"
    return None if os.geteuid() == 0 else "starting nodes in namespaces needs root"


def _free_ports(count: int) -> int:
    """The first of so many free ports in a row; other clusters may run on this machine."""
    for first in range(24000 + os.getpid() % 800 * 10, 32700, 10):
        try:
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.bind(("0.0.0.0", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports for a SLURM cluster")


class MiniSlurm:
    """A cluster of a few virtual nodes n1, n2, ..."""

    def __init__(self, base: Path, nodes: int = 4, port: int | None = None) -> None:
        self.base, self.names = base, [f"n{i}" for i in range(1, nodes + 1)]
        self.port = port or _free_ports(nodes + 1)
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._cut_off: set[str] = set()
        self._host = socket.gethostname().split(".")[0]

    @property
    def environment(self) -> dict[str, str]:
        """For SLURM's commands."""
        return {**os.environ, "SLURM_CONF": str(self.base / "etc" / "slurm.conf")}

    def start(self) -> None:
        """Start all daemons and wait until the nodes are idle."""
        self._write()
        munge = self.base / "munge"
        files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        subprocess.run(["munged", "--force", "--origin=127.0.0.1", *options], check=True)
        self.start_controller()
        for name in self.names:
            self.start_node(name)
        self.wait_idle()

    def start_controller(self) -> None:
        subprocess.run(["slurmctld"], env=self.environment, check=True)

    def start_node(self, name: str) -> None:
        flags = ["--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
        with (self.base / "log" / f"{name}.out").open("ab") as log:
            self._nodes[name] = subprocess.Popen(
                ["unshare", *flags, "bash", "-c", _NODE, "node", name, str(self.base)],
                env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def power_off(self, name: str) -> None:
        """The node and every process on it are gone at once."""
        self._nodes[name].kill()
        self._nodes[name].wait()

    def cut_off(self, name: str) -> None:
        """The scheduler loses the node, whose jobs go on: slurmd is killed, and nothing else."""
        for process in psutil.Process(self._nodes[name].pid).children(recursive=True):
            if process.name() == "slurmd":
                process.kill()
        self._cut_off.add(name)

    def run(self, *command: str) -> str:
        """Output of a SLURM command."""
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True, timeout=180)
        return done.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """Fields of `scontrol show job`."""
        text = self.run("scontrol", "-o", "show", "job", job_id)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def recover(self) -> None:
        """Cancel all jobs, bring dead nodes back, wait until all are idle."""
        self.run("scancel", "-u", "root")
        for name, process in self._nodes.items():
            if name in self._cut_off:
                self.power_off(name)
            if process.poll() is not None:
                self.start_node(name)
        self._cut_off.clear()
        self.wait_idle(180)

    def wait_idle(self, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            text = subprocess.run(
                ["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"], env=self.environment, capture_output=True, text=True
            ).stdout
            states = dict(line.split() for line in text.splitlines())
            if len(states) == len(self.names) and set(states.values()) == {"idle"}:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"nodes are not idle: {states}\n{(self.base / 'log' / 'slurmctld.log').read_text()[-3000:]}"
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """End everything that was started here."""
        subprocess.run(["scancel", "-u", "root"], env=self.environment, capture_output=True)
        for process in self._nodes.values():
            process.kill()
            process.wait()
        for name in ("run/slurmctld.pid", "munge/pid"):
            file = self.base / name
            if file.is_file():
                os.kill(int(file.read_text()), signal.SIGTERM)

    def _write(self) -> None:
        for name in ("etc", "state", "log", "run", "munge", *(f"spool/{node}" for node in self.names)):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        (self.base / "munge").chmod(0o711)
        (self.base / "munge" / "key").touch(0o600)
        (self.base / "munge" / "key").write_bytes(secrets.token_bytes(1024))
        nodes, hosts = "", Path("/etc/hosts").read_text()
        for number, name in enumerate(self.names, 1):
            address = f"127.0.0.{10 + number}"
            nodes += f"NodeName={name} NodeHostname={name} NodeAddr={address} Port={self.port + number} CPUs=8 State=UNKNOWN\n"
            hosts += f"{address} {name}\n"
        conf = _CONF.format(host=self._host, port=self.port, base=self.base, nodes=nodes)
        (self.base / "etc" / "slurm.conf").write_text(conf)
        (self.base / "etc" / "hosts").write_text(hosts)
