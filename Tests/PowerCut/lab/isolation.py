"""Namespaces of its own. Mounts, the other boot ID and every process of lamina end with them, however this program ends."""

import fcntl
import os
import sys

from .programs import run

MARK = "LAMINA_LAB_IS_ISOLATED"


def enter():
    """Starts this program again: its mounts are its own, and it sees no process but those below it."""
    if os.environ.get(MARK):
        return
    if os.geteuid() != 0:
        sys.exit("mounting disks takes root")
    # A shell is the first process there: it takes away whoever ends without a parent.
    os.execvpe(
        "unshare",
        ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
         "sh", "-c", '"$@"; exit $?', "sh", sys.executable, *sys.argv],
        dict(os.environ, **{MARK: "1"}))


def occupy(directory):
    """Takes a directory for this run alone. Returns one in it, in memory, for disks: it goes with the namespaces."""
    memory = os.path.join(directory, "memory")
    os.makedirs(memory, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"another run has {directory}")
    # Inherited by nobody, open until the end.
    run("mount", "-t", "tmpfs", "-o", "mode=0700,size=90%", "lamina-lab", memory)
    return memory
