"""A SLURM cluster of one node, without systemd: munged, slurmctld and slurmd as children.

    python -m tests.sweep.slurm sinfo      # run a command in it; needs Debian's slurm-wlm and munge

The node claims four processors, whatever it has. It needs root, as slurmd does to start jobs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CPUS = 4
PATIENCE = 30.0  # seconds until a daemon answers

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
NodeName={host} NodeAddr=127.0.0.1 Port={slurmd} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
SlurmctldPort={slurmctld}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
JobRequeue=1
ReturnToService=2
MinJobAge=3600
SchedulerParameters=sched_interval=1,batch_sched_delay=0
"""


def missing() -> str | None:
    """Return why no cluster can be started here; None if it can."""
    absent = [name for name in DAEMONS if _command(name) is None]
    if absent:
        return f"needs SLURM ({', '.join(absent)} absent): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd needs root"
    return None


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start the daemons, and yield the environment in which SLURM's commands find them."""
    # A short path: that of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        for part in ("state", "spool"):
            (folder / part).mkdir()
        settings = folder / "slurm.conf"
        settings.write_text(
            CONFIG.format(
                host=socket.gethostname().split(".")[0],
                folder=folder,
                cpus=CPUS,
                slurmctld=_free_port(),
                slurmd=_free_port(),
            )
        )
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        environment = {**os.environ, "SLURM_CONF": str(settings)}
        _start(stack, folder, *_munged(folder))
        _wait_for("munged", folder, (folder / "munge.socket").exists)
        _start(stack, folder, "slurmctld", "-D", "-f", str(settings))
        _start(stack, folder, "slurmd", "-D", "-f", str(settings))

        def idle() -> bool:
            command = ["sinfo", "--noheader", "--format=%T"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            return done.stdout.strip() == "idle"

        _wait_for("slurmd", folder, idle)
        yield environment


def _munged(folder: Path) -> Sequence[str]:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    folder.chmod(0o755)
    return (
        *("munged", "--foreground", "--force", f"--key-file={key}"),
        *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"),
        *(f"--seed-file={folder}/munged.seed", f"--log-file={folder}/munged.log"),
    )


def _start(stack: ExitStack, folder: Path, name: str, *arguments: str) -> None:
    """Start a daemon that ends with the stack."""
    command = _command(name)
    assert command is not None
    with open(folder / f"{name}.out", "wb") as log:
        daemon = subprocess.Popen([command, *arguments], stdout=log, stderr=subprocess.STDOUT)

    def stop() -> None:
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    stack.callback(stop)


def _wait_for(name: str, folder: Path, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            logs = [path.read_text(errors="replace")[-2000:] for path in folder.glob("*.out")]
            raise RuntimeError(f"{name} does not answer:\n" + "\n".join(logs))
        time.sleep(0.2)


def _command(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


if __name__ == "__main__":
    with cluster() as found:
        sys.exit(subprocess.run(sys.argv[1:], env=found).returncode)
