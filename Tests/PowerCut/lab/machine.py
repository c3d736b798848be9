"""A machine: a disk image, mounted, and lamina on it in a boot of its own."""

import json
import os
import signal
import sys
import time
import uuid

from .programs import PATIENCE, SOURCES, Failed, Hangs, NoDisk, run

BOOT_ID = "/proc/sys/kernel/random/boot_id"
MAKE_FILE_SYSTEM = {
    # All of the disk is zeros: nothing of it has to be written for that.
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
    "btrfs": ["mkfs.btrfs", "-q", "-f", "-K"],
}
# What the smallest disk of each takes, in MiB.
SMALLEST = {"ext4": 64, "xfs": 320, "btrfs": 160}
# One try for what the registry does not answer, and no long waits in between.
NETWORK = {
    "LAMINA_BLOB_MAX_RETRIES": "1", "LAMINA_BLOB_MIN_WAIT_MSEC": "1", "LAMINA_BLOB_MAX_WAIT_MSEC": "2",
    "LAMINA_BLOB_FETCHING_TIMEOUT_SEC": "20",
}
READ_TREE = """
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from lab.images import describe
json.dump(describe(sys.argv[2]), sys.stdout)
"""


def make_disk(path, file_system, mebibytes):
    with open(path, "wb") as file:
        file.truncate(max(mebibytes, SMALLEST[file_system]) << 20)
    run(*MAKE_FILE_SYSTEM[file_system], path)


class Machine:
    def __init__(self, lamina, registry, directory, file_system, mount_options=""):
        self.lamina_path, self.registry, self.directory = lamina, registry, directory
        self.file_system, self.mount_options = file_system, mount_options
        self.disk = os.path.join(directory, "disk")
        self.root = os.path.join(self.disk, "lamina")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("LAMINA_")}
        self.environment.update(NETWORK, LAMINA_ROOT=self.root)
        # Most workloads look at what FUSE shows: POWERCUT_SEAL=auto has images sealed all the same.
        self.environment.update(LAMINA_SEAL_MODE=os.environ.get("POWERCUT_SEAL", "off"))
        self.is_mounted = self.is_booted = False
        os.makedirs(self.disk, exist_ok=True)

    # --- the disk ---

    def start(self, image, past_cache=False, same_boot=None):
        """Mounts `image`, in another boot than any before; or in that of `same_boot`, an ID."""
        boot = os.path.join(self.directory, "boot")
        with open(boot, "w") as file:
            file.write((same_boot or str(uuid.uuid4())) + "\n")
        run("mount", "--bind", boot, BOOT_ID)
        self.is_booted = True
        direct = ["--direct-io=on"] if past_cache else []
        device = run("losetup", "--find", "--show", *direct, image).stdout.strip()
        options = ["-o", self.mount_options] if self.mount_options else []
        try:
            run("mount", "-t", self.file_system, *options, device, self.disk)
            self.is_mounted = True
        except Failed as error:
            raise NoDisk(str(error)) from error
        finally:
            # Busy, it goes when the disk is unmounted, by whomever.
            run("losetup", "--detach", device, check=False)

    def stop(self):
        """Ends everything; returns what did not go well."""
        problems = []
        if self.is_mounted:
            problems += self.end_server()
            problems += self._unmount()
        if self.is_booted:
            run("umount", BOOT_ID, check=False)
        self.is_mounted = self.is_booted = False
        return problems

    def _unmount(self):
        # Where a server was killed, its mounts are left; and sealed ones need no server. What was mounted before the cut is mounted again
        # where it was, which is not here.
        with open("/proc/self/mounts") as file:
            left = [line.split()[:2] for line in file]
        for source, place in reversed(left):
            is_ours = place.startswith(self.directory + "/") or source.endswith(":" + self.root)
            if is_ours and place != self.disk:
                run("umount", "-l", place, check=False)
        for _ in range(100):
            if run("umount", self.disk, check=False).returncode == 0:
                return []
            time.sleep(0.1)
        self.kill_all()
        run("umount", "-R", "-l", self.disk, check=False)
        return ["the disk stays busy"]

    # --- lamina ---

    def lamina(self, *words, check=True, timeout=PATIENCE, extra=None, under=()):
        """`under`: a program that runs it."""
        environment = dict(self.environment, **(extra or {}))
        return run(*under, self.lamina_path, *words, check=check, timeout=timeout, env=environment, cwd=self.directory)

    def reference(self, name):
        return self.registry.reference(name)

    def images(self):
        """What `ls` lists, by name; nothing where it fails."""
        done = self.lamina("ls", "--json", check=False)
        entries = json.loads(done.stdout or "[]") if done.returncode == 0 else []
        return {self.registry.name(entry["reference"]): entry for entry in entries}, done

    def point(self, name):
        path = os.path.join(self.directory, "at-" + name)
        os.makedirs(path, exist_ok=True)
        return path

    def read(self, directory):
        """What a process reads there that may be left behind when it hangs."""
        return json.loads(run(sys.executable, "-c", READ_TREE, SOURCES, directory).stdout)

    def processes(self):
        """lamina's processes of this store: process ID -> parent's."""
        found = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    is_ours = f"LAMINA_ROOT={self.root}\0".encode() in file.read()
                if is_ours and os.path.samefile(f"/proc/{name}/exe", self.lamina_path):
                    with open(f"/proc/{name}/stat") as file:
                        found[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                pass
        return found

    def server(self):
        """The process that answers: the youngest that has a parent among the others, its supervisor."""
        found = self.processes()
        return max((pid for pid, parent in found.items() if parent in found), default=None)

    def end_server(self, patience=30):
        """As `shutdown` does; by force where that does not help. Returns what did not go well."""
        problems = []
        if os.path.exists(os.path.join(self.root, "control.sock")):
            try:
                self.lamina("shutdown", check=False, timeout=60)
            except Hangs as error:
                problems.append(str(error))
        # One that is idle ends by itself, when it has put its things in order.
        for _ in range(patience * 20):
            if not self.processes():
                return problems
            time.sleep(0.05)
        self.kill_all()
        return problems + ["a process had to be killed"]

    def kill_all(self):
        for _ in range(100):
            pids = self.processes()
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
        raise Failed(f"processes that do not end: {self.processes()}")
