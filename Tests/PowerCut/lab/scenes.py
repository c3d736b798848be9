"""Commands of which a system call fails. What comes before the command is done once, and kept as a disk."""

import subprocess
from dataclasses import dataclass
from typing import Callable

from . import grpc, snapshots, workloads
from .programs import Failed, Hangs, last_words
from .verdict import INDEX_IS_BAD
from .workloads import Workload, nothing

# A command takes seconds; who has to wait for a fault's end waits for ever.
PATIENCE = 60


class Faulted:
    """What a scene works with: as workloads.Context, and `under`, which makes a call of what it runs fail."""

    def __init__(self, context, under, verdict):
        self.context, self.under, self.verdict = context, under, verdict

    def run(self, *words, **options):
        """The command that the fault is for. Its exit code and message are judged here."""
        done = self.context.lamina(*words, check=False, under=self.under, timeout=PATIENCE, **options)
        self.verdict.facts.update(exit=done.returncode, said=last_words(done)[-300:])
        self.judge(done)
        return done

    def judge(self, done):
        code = done.returncode
        # Swift's runtime traps with SIGILL or SIGTRAP, a shell adds 128.
        if code < 0 or code in (132, 133, 134, 139):
            self.verdict.add("crashed", last_words(done))
        elif code not in (0, 2) and not (done.stderr + done.stdout).strip():
            self.verdict.add("crashed", f"exit code {code} without a word")
        if code == 130:
            self.verdict.add("misled", f"exit code 130, but nobody pressed Ctrl-C: {last_words(done)}")
        if INDEX_IS_BAD.search(done.stderr):
            self.verdict.add("misled", f"the index is sound: {last_words(done)}")


@dataclass
class Scene:
    """`workload.prepare` comes before, `workload.act` is not used: `act` is the command, and what is done with it."""
    act: Callable
    workload: Workload


def pull(name):
    def act(faulted):
        done = faulted.run("pull", faulted.context.machine.reference(name))
        if done.returncode == 0:
            faulted.context.mark(f"complete {name}")
    return act


def rm(faulted):
    context = faulted.context
    context.mark("gone estargz-a")
    done = faulted.run("rm", context.machine.reference("estargz-a"))
    if done.returncode == 0 and "estargz-a" in context.machine.images()[0]:
        faulted.verdict.add("misled", "rm ended with 0, and the image is listed")


def collect(faulted):
    faulted.run("gc")


def evict(faulted):
    faulted.run("pull", faulted.context.machine.reference("estargz-b"), extra=faulted.context.limit())


def repair(faulted):
    done = faulted.run("check", "--read-data", "--repair")
    if done.returncode == 0:
        faulted.verdict.add("misled", "check --read-data found no damage where there was some")


def mount_and_read(faulted):
    """Readers may get errors, but no other bytes."""
    context = faulted.context
    point = context.machine.point("estargz-a")
    if faulted.run("mount", context.machine.reference("estargz-a"), point).returncode:
        return
    try:
        found = context.machine.read(point)
    except Hangs as error:
        faulted.verdict.add("manual", f"amid the fault: {error}")
        return
    files = context.images["estargz-a"].files
    for path, seen in found.items():
        if not isinstance(seen, str) and tuple(seen) != files.get(path):
            faulted.verdict.add("wrong", f"amid the fault, {path}: {seen}")
    faulted.verdict.facts["errors"] = sum(isinstance(seen, str) for seen in found.values())


def snapshot(faulted):
    """Prepare, files, Commit and Remove, of a server that the fault is for."""
    context = faulted.context
    target = context.machine.point("snapshot")
    try:
        server, client = snapshots.serve(context.machine, faulted.under)
    except Failed as error:
        faulted.verdict.facts["said"] = str(error)
        return
    below, failed = "", []
    try:
        for number in range(4):
            key, name = f"extract-{number}", f"chain-{number}"
            try:
                mounts = client.prepare(key, below)
                context.mark(f"snapshot A {key} {below or '-'}")
                snapshots.write_files(mounts, target, number)
                context.mark(f"snapshotgone {key}")
                client.commit(name, key)
                context.mark(f"snapshot C {name} {below or '-'}")
                below = name
                client.prepare(f"container-{number}", below)
                context.mark(f"snapshot A container-{number} {below}")
                context.mark(f"snapshotgone container-{number}")
                client.remove(f"container-{number}")
            except grpc.CallFailed as error:
                failed.append(str(error))
    finally:
        faulted.verdict.facts.update(said=(failed or [""])[0], failed=len(failed))
        server.terminate()
        try:
            faulted.verdict.facts["exit"] = server.wait(20)
        except subprocess.TimeoutExpired:
            faulted.verdict.add("manual", "the server does not end at SIGTERM")
            server.kill()
            server.wait()
        if server.returncode < 0 and server.returncode not in (-15, -9):
            faulted.verdict.add("crashed", f"the server ended by signal {-server.returncode}")


# --- what comes before ---

def have_two(context):
    context.pull("estargz-a")
    context.pull("estargz-b")


def have_garbage(context):
    have_two(context)
    context.rm("estargz-a", "--no-gc")


def have_snapshots(context):
    context.lamina("gc")


SCENES = {
    "pull-estargz": Scene(pull("estargz-a"), Workload(nothing, ["estargz-a"])),
    "pull-plain": Scene(pull("plain-a"), Workload(nothing, ["plain-a"])),
    "rm": Scene(rm, Workload(nothing, ["estargz-b", "estargz-a"], have_two)),
    "gc": Scene(collect, Workload(nothing, ["estargz-b", "estargz-a"], have_garbage)),
    "evict": Scene(evict, Workload(nothing, ["estargz-a", "estargz-b"], workloads.fill, is_limited=True)),
    "repair": Scene(repair, Workload(nothing, ["estargz-a"], workloads.damage_files, is_damaged=True)),
    "mount-read": Scene(mount_and_read, Workload(nothing, ["estargz-a"], workloads.start_once)),
    "snapshots": Scene(snapshot, Workload(nothing, [], have_snapshots, chains=[])),
}
