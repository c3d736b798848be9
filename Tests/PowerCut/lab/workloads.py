"""What lamina does while the power may go. See promises.py for the marks."""

import os
import signal
import time
from dataclasses import dataclass
from typing import Callable

from . import snapshots
from .programs import Failed, last_words

# Two of the images do not fit.
LIMIT = {"LAMINA_STORE_MAX_BYTES": 130 << 20}
# Images that have landed are sealed, and mounted so.
SEALING = {"LAMINA_SEAL_MODE": "auto"}


class Context:
    """What a workload works with."""

    def __init__(self, machine, registry, images, mark, chance):
        self.machine, self.registry, self.images, self.mark, self.chance = machine, registry, images, mark, chance
        self.has_store = False

    def lamina(self, *words, **options):
        done = self.machine.lamina(*words, **options)
        if not self.has_store and done.returncode == 0:
            self.has_store = True
            self.mark("store")
        return done

    def slow(self, rate):
        """Bytes a second of the registry, for images of full size; smaller ones take as long."""
        self.registry.rate = rate * self.images.scale

    def limit(self):
        return limit(self.images)

    def pull(self, name, promise=True, **options):
        """Without `promise` it may be evicted at once, but stays listed."""
        done = self.lamina("pull", self.machine.reference(name), **options)
        if done.returncode == 0:
            self.mark(f"complete {name}" if promise else f"listed {name}")
        return done

    def rm(self, name, *flags):
        self.mark(f"gone {name}")
        self.lamina("rm", *flags, self.machine.reference(name))

    def mount(self, name, **options):
        point = self.machine.point(name)
        self.lamina("mount", self.machine.reference(name), point, **options)
        return point

    def umount(self, point):
        self.lamina("umount", point)

    def read_some(self, point, count):
        paths = sorted(os.path.join(parent, name) for parent, _, names in os.walk(point) for name in names)
        self.chance.shuffle(paths)
        for path in paths[:count]:
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


def limit(images):
    # What the index takes does not shrink with the images.
    scale = max(images.scale, 0.1)
    return {name: str(int(value * scale + (16 << 20) * max(0, 1 - scale))) for name, value in LIMIT.items()}


def nothing(context):
    """No more than an empty disk."""


@dataclass
class Workload:
    """`prepare` comes before the cuts, `act` among them; `images` are pulled afterwards."""
    act: Callable
    images: list
    prepare: Callable = nothing
    # Variables of lamina's environment, also of those that look at the disk afterwards.
    extra: dict | None = None
    # A store with a limit, below which not all of the images fit.
    is_limited: bool = False
    # The disk has wrong bytes before the cut.
    is_damaged: bool = False
    # The disk's size, and how much of its one image may be fetched after a cut in the middle, as a share; None: all of it.
    mebibytes: int = 1024
    median_share: float | None = None
    # containerd's calls are made, and these images are lazy layers of it; None: no calls.
    chains: list | None = None

    @property
    def has_snapshots(self):
        return self.chains is not None


def pulling(name, rate):
    def act(context):
        context.slow(rate)
        context.pull(name)
        # The journal of the file system has its own time, and so has what lies in the cache.
        time.sleep(2)
    return act


# --- mounts ---

def start_once(context):
    context.lamina("gc")


def first_start(context):
    """All that the first command makes: directories, schema, views."""
    context.lamina("gc")
    time.sleep(6)
    context.lamina("gc")


def read_mounted(context):
    context.slow(12e6)
    point = context.mount("estargz-a")
    for _ in range(4):
        context.read_some(point, 60)
        time.sleep(0.7)
    context.umount(point)
    time.sleep(1)


def restart(context):
    """The server is killed under its mount, ended, and another one started."""
    context.slow(15e6)
    point = context.mount("estargz-a")
    context.read_some(point, 40)
    for _ in range(3):
        if (server := context.machine.server()) is not None:
            os.kill(server, signal.SIGKILL)
        context.read_some(point, 60)
    other = context.mount("zstd-b")
    context.read_some(other, 80)
    context.lamina("shutdown")
    context.pull("estargz-a")
    time.sleep(2)


# --- removing ---

def pull_two(context):
    context.pull("estargz-a")
    context.pull("plain-b")
    time.sleep(1)


def rm_gc(context):
    context.slow(40e6)
    context.rm("estargz-a")
    time.sleep(6)
    context.pull("estargz-a")
    context.rm("plain-b", "--no-gc")
    context.lamina("gc")
    time.sleep(1)
    context.pull("plain-b")
    context.rm("estargz-a")
    context.rm("plain-b")
    context.pull("estargz-b")
    time.sleep(6)


def pull_three_by_a_server(context):
    """The server goes on: nothing is synced because a process ends."""
    context.lamina("gc")
    context.mount("estargz-b")
    for name in ("estargz-b", "estargz-a", "plain-b"):
        context.pull(name)
    time.sleep(6)


def server_rm(context):
    context.slow(40e6)
    context.rm("estargz-a")
    time.sleep(7)
    context.pull("estargz-a")
    context.rm("plain-b")
    time.sleep(7)
    context.umount(context.machine.point("estargz-b"))


def pull_plain_by_a_server(context):
    context.lamina("gc")
    context.mount("zstd-b")
    context.pull("plain-a")
    time.sleep(6)
    os.sync()


def server_rm_other(context):
    """An image goes, and another one with the same files comes at once: the same names again, of new files."""
    context.slow(6e6)
    context.rm("plain-a")
    context.pull("estargz-a")
    time.sleep(1)
    context.umount(context.machine.point("zstd-b"))


# --- a limit: what one image takes, the other one loses ---

def fill(context):
    context.pull("estargz-a", promise=False, extra=context.limit())
    time.sleep(1)


def evict(context):
    context.slow(40e6)
    for name in ("estargz-b", "estargz-a", "estargz-b"):
        context.pull(name, promise=False, extra=context.limit())
        time.sleep(3)


def fill_by_a_server(context):
    context.mount("estargz-b", extra=context.limit())
    context.pull("estargz-a", promise=False)
    time.sleep(6)
    # As the kernel does after half a minute: that it is durable is on the disk, too.
    os.sync()


def server_evict(context):
    context.slow(40e6)
    for name in ("estargz-b", "estargz-a", "estargz-b"):
        context.pull(name, promise=False)
        time.sleep(6)
    context.umount(context.machine.point("estargz-b"))


# --- repairing ---

def backing_files(root):
    found = [os.path.join(parent, name) for parent, _, names in os.walk(f"{root}/content") for name in names]
    return sorted(found, key=lambda path: (os.path.getsize(path), path))


def overwrite(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def damage_files(context):
    """Bytes change behind the index's back."""
    context.pull("estargz-a")
    os.sync()
    context.mark("incomplete estargz-a")
    files = backing_files(context.machine.root)
    for path in files[-6:] + files[40:60]:
        overwrite(path, os.path.getsize(path) // 2, b"damage" * 20)
    os.sync()


def repair(context):
    context.slow(12e6)
    done = context.lamina("check", "--read-data", "--repair", check=False)
    # 2 says that it found damage.
    if done.returncode not in (0, 2):
        raise Failed(f"check --repair: {last_words(done)}")
    context.mark("complete estargz-a")
    time.sleep(6)


def damage_index(context):
    context.pull("estargz-a")
    context.mark("gone estargz-a")
    index = os.path.join(context.machine.root, "index.db")
    for page in range(2, os.path.getsize(index) // 4096, 3):
        overwrite(index, page * 4096, b"damage" * 600)
    os.sync()


def rebuild(context):
    """An index that is damaged is made anew from the files."""
    context.slow(12e6)
    context.lamina("check", "--read-data", "--repair", check=False)
    time.sleep(2)
    context.pull("estargz-a")
    time.sleep(2)


# --- sealed images ---

def seal(context):
    """Chains come, are mounted and go: the image on the disk, its row, and what it shows."""
    context.slow(15e6)
    context.pull("estargz-a", extra=SEALING)
    context.lamina("seal", context.machine.reference("estargz-a"), extra=SEALING)
    point = context.mount("estargz-a", extra=SEALING)
    context.read_some(point, 60)
    context.pull("plain-b", extra=SEALING)
    other = context.machine.point("plain-b")
    context.lamina("mount", "--sealed", context.machine.reference("plain-b"), other, extra=SEALING)
    time.sleep(1)
    context.read_some(other, 60)
    context.umount(point)
    context.rm("estargz-a")
    time.sleep(4)
    context.read_some(other, 60)
    context.pull("estargz-a", extra=SEALING)
    time.sleep(4)
    context.umount(other)


# The median of what is fetched after a cut, of a plain layer that takes as long as the recording: at most 24 of 54 MiB.
PLAIN_SHARE = 24 / 54

WORKLOADS = {
    "first-start": Workload(first_start, ["estargz-b"]),
    "pull-estargz": Workload(pulling("estargz-a", 8e6), ["estargz-a"]),
    "pull-zstd": Workload(pulling("zstd-a", 8e6), ["zstd-a"]),
    "pull-plain": Workload(pulling("plain-a", 6e6), ["plain-a"], median_share=PLAIN_SHARE),
    "pull-plain-large": Workload(pulling("plain-large", 40e6), ["plain-large"], mebibytes=4096, median_share=PLAIN_SHARE),
    "mount-read": Workload(read_mounted, ["estargz-a"], start_once),
    "restart": Workload(restart, ["estargz-a", "zstd-b"], start_once),
    "rm-gc": Workload(rm_gc, ["estargz-a", "plain-b", "estargz-b"], pull_two),
    "server-rm": Workload(server_rm, ["estargz-a", "plain-b", "estargz-b"], pull_three_by_a_server),
    "server-rm-other": Workload(server_rm_other, ["estargz-a", "plain-a"], pull_plain_by_a_server),
    "evict": Workload(evict, ["estargz-a", "estargz-b"], fill, is_limited=True),
    "server-evict": Workload(server_evict, ["estargz-a", "estargz-b"], fill_by_a_server, is_limited=True),
    # The same, but after the cut there is no limit: all must come.
    "server-evict-then-all": Workload(server_evict, ["estargz-a", "estargz-b"], fill_by_a_server),
    "repair": Workload(repair, ["estargz-a"], damage_files, is_damaged=True),
    "rebuild": Workload(rebuild, ["estargz-a"], damage_index, is_damaged=True),
    "sealed": Workload(seal, ["estargz-a", "plain-b"], start_once, extra=SEALING),
    "snapshotter": Workload(snapshots.use, [], snapshots.serve_for_long(0), chains=["estargz-a", "zstd-b"]),
    "snapshotter-long": Workload(snapshots.use, [], snapshots.serve_for_long(400), chains=["estargz-a", "zstd-b"]),
}
