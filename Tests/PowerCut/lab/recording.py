"""Runs a workload once on a disk that notes every write."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time

from .disk import Journal, copy_sparse
from .machine import Machine, make_disk
from .programs import Failed, run
from .workloads import Context

# Somebody beside lamina who syncs some times a second. `own` syncs a file of its own on the same disk, which commits the journal
# of the file system, and with it what lamina has renamed and unlinked. `index` syncs the index's log, which the kernel may write
# back before the files that it speaks of whenever it likes.
NOISE = """
import itertools, os, sys, time
kind, disk = sys.argv[1:]
for number in itertools.count():
    try:
        if kind == "own": file = os.open(f"{disk}/noise", os.O_RDWR | os.O_CREAT)
        else: file = os.open(f"{disk}/lamina/index.db-wal", os.O_RDWR)
    except OSError:
        time.sleep(0.02)
        continue
    if kind == "own": os.pwrite(file, b"%08d" % number, number % 64 * 4096)
    os.fdatasync(file)
    os.close(file)
    time.sleep(0.15)
"""
NOISES = ("none", "own", "index")


class Recording:
    """`bench`: what all recordings have in common; see powercut.py."""

    def __init__(self, bench, directory):
        self.bench, self.directory = bench, directory
        self.facts = os.path.join(directory, "facts.json")

    def exists(self):
        return os.path.exists(self.facts)

    def journal(self):
        return Journal(self.directory)

    def remove(self):
        shutil.rmtree(self.directory)

    def _boot(self):
        with open(os.path.join(self.directory, "machine", "boot")) as file:
            return file.read().strip()

    def load(self):
        with open(self.facts) as file:
            return json.load(file)

    def make(self, registry, prepare, act, disk=None):
        """Records what `prepare` and `act` do, on an empty disk or on one that is there already."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        base = os.path.join(self.directory, "base.img")
        if disk:
            copy_sparse(disk, base)
        else:
            make_disk(base, self.bench.file_system, self.bench.disk_mebibytes)
        running = os.path.join(self.bench.memory, "running.img")
        copy_sparse(base, running)
        began = time.monotonic()
        try:
            problems = self._record(running, registry, prepare, act)
        finally:
            os.unlink(running)
            registry.rate = None
        facts = {"port": registry.port, "boot": self._boot(), "scale": self.bench.images.scale,
                 "seconds": round(time.monotonic() - began, 1), "problems": problems}
        with open(self.facts + ".new", "w") as file:
            json.dump(facts, file)
        os.rename(self.facts + ".new", self.facts)

    def _record(self, image, registry, prepare, act):
        served = os.path.join(self.directory, "served")
        os.makedirs(served)
        machine = Machine(self.bench.lamina, registry, os.path.join(self.directory, "machine"), self.bench.file_system,
                          self.bench.mount_options)
        recorder = subprocess.Popen([self.bench.tools.recorder, image, self.directory, served])
        noise, meter, problems = None, None, []
        try:
            wait_for(os.path.join(served, "disk"), recorder)
            machine.start(os.path.join(served, "disk"), past_cache=True)
            if self.bench.noise != "none":
                noise = subprocess.Popen([sys.executable, "-c", NOISE, self.bench.noise, machine.disk])
            meter = Meter(os.path.join(served, "mark"), registry)
            context = Context(machine, registry, self.bench.images, meter.mark, random.Random(self.bench.seed))
            prepare(context)
            meter.mark("begin")
            act(context)
            meter.mark("end")
            time.sleep(0.3)
        finally:
            if meter:
                meter.stop()
            if noise:
                noise.kill()
                noise.wait()
            problems += machine.stop()
            run("umount", served, check=False)
            recorder.wait()
        if recorder.returncode:
            raise Failed(f"the recorder ended with {recorder.returncode}")
        return problems


class Meter:
    """Writes marks; among them, some times a second, how much the registry has sent."""

    def __init__(self, path, registry):
        self.file, self.registry, self.first = os.open(path, os.O_WRONLY), registry, registry.sent
        self.is_over, self.lock = threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self._measure, daemon=True)
        self.thread.start()

    def mark(self, text):
        with self.lock:
            os.write(self.file, text.encode())

    def _measure(self):
        last = 0
        while not self.is_over.wait(0.05):
            if (sent := self.registry.sent - self.first) != last:
                self.mark(f"sent {sent}")
                last = sent

    def stop(self):
        self.is_over.set()
        self.thread.join()
        os.close(self.file)


def wait_for(path, process):
    for _ in range(500):
        if os.path.exists(path):
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise Failed("the recorder does not start")
