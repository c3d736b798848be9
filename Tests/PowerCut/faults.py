#!/usr/bin/env python3
"""Lets the n-th system call of a command fail, for many n, and looks whether the store heals by itself.

    faults.py --lamina PATH --directory DIR [--each N] [--scenes A,B] [--kinds open,write] [--fs ext4]
    faults.py --lamina PATH --directory DIR --fault NAME        one fault once more, by the name that was printed

Each scene (lab/scenes.py) is a command on a store that was made before. First it runs without a fault, and its calls on the
store's files are counted by kind. Then one of them fails, or all from one on (failcall.c): N of each kind, spread over all of them,
with the errors in turn that Linux has for such a call. Afterwards the store is looked at without faults, in the same boot, with the
registry off, on, and off again (lab/inspection.py).

Results are lines of JSON in DIR/faults.jsonl. The last lines are a table of counts, by the kinds of lab/verdict.py. Ends with 1
when one of them is not 0. Needs root.
"""
import argparse
import errno
import itertools
import os
import random
import sys
import time
from dataclasses import dataclass

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
from lab import isolation
from lab.disk import copy_sparse
from lab.images import Images
from lab.inspection import Inspection
from lab.machine import MAKE_FILE_SYSTEM, Machine, make_disk
from lab.programs import Failed, Hangs, Tools
from lab.promises import Promises
from lab.registry import Registry
from lab.results import Results
from lab.scenes import SCENES, Faulted
from lab.verdict import Verdict
from lab.workloads import Context, limit

# Which errors Linux has for which calls; see the ERRORS of their manual pages, and what file systems add.
ERRORS = {
    "open": ["EMFILE", "ENOMEM", "EIO", "EINTR", "ENOSPC", "EROFS"],
    "write": ["ENOSPC", "EIO", "EINTR", "EROFS", "ENOMEM"],
    "read": ["EIO", "EINTR", "ENOMEM"],
    "truncate": ["EIO", "ENOSPC", "EINTR", "EROFS"],
    "link": ["ENOSPC", "EIO", "ENOMEM", "EROFS"],
    "rename": ["ENOSPC", "EIO", "ENOMEM", "EROFS"],
    "unlink": ["EIO", "EROFS", "ENOMEM", "ENOSPC"],
    "fsync": ["EIO", "ENOSPC", "EINTR", "EROFS"],
    "fdatasync": ["EIO", "ENOSPC", "EINTR", "EROFS"],
    "syncfs": ["EIO", "ENOSPC", "EINTR"],
    "allocate": ["ENOSPC", "EIO", "EINTR", "EROFS"],
    "mkdir": ["ENOSPC", "EIO", "ENOMEM", "EROFS"],
    "ioctl": ["EIO", "ENOSPC", "ENOMEM", "EMFILE", "EINTR", "EROFS"],
    "copy": ["EIO", "ENOSPC", "EINTR", "ENOMEM"],
}


@dataclass(frozen=True)
class Fault:
    kind: str
    number: int
    error: str
    goes_on: bool

    def __str__(self):
        return f"{self.kind}:{self.number}:{self.error}:{'on' if self.goes_on else 'once'}"

    @classmethod
    def parse(cls, text):
        kind, number, error, how = text.split(":")
        if kind not in ERRORS or not hasattr(errno, error) or how not in ("on", "once"):
            raise ValueError(f"{text} is no KIND:NUMBER:ERROR:on or …:once")
        return cls(kind, int(number), error, how == "on")

    def words(self):
        return [self.kind, str(self.number), str(getattr(errno, self.error)), "on" if self.goes_on else "once"]


COUNT_ALL = ["all", "0", "0", "once"]


class Stage:
    """A scene, with the disk on which it begins."""

    def __init__(self, name, options, tools, images, registry):
        self.name, self.scene = name, SCENES[name]
        self.options, self.tools, self.images, self.registry = options, tools, images, registry
        self.machine = Machine(options.lamina, registry, os.path.join(options.directory, "machine"), options.fs)
        self.base = os.path.join(options.memory, f"scene-{name}.img")
        self.running = os.path.join(options.memory, "fault.img")
        self.report = os.path.join(options.memory, "report")
        self.before = []

    @property
    def extra(self):
        return limit(self.images) if self.scene.workload.is_limited else None

    def prepare(self):
        make_disk(self.base, self.options.fs, 320)
        self.machine.start(self.base)
        try:
            self.scene.workload.prepare(self._context(self.before.append))
        finally:
            self._stop()
        with open(os.path.join(self.machine.directory, "boot")) as file:
            self.boot = file.read().strip()

    def end(self):
        for path in (self.base, self.running, self.report):
            if os.path.exists(path):
                os.unlink(path)

    def _context(self, mark):
        return Context(self.machine, self.registry, self.images, mark, random.Random(self.options.seed))

    def _stop(self):
        for problem in self.machine.stop():
            raise Failed(f"{self.name}: {problem}")

    def count(self):
        """How many calls of each kind the command makes."""
        verdict = self._play(COUNT_ALL, Verdict(f"{self.name} without a fault"), [])
        if verdict.is_bad:
            raise Failed(str(verdict))
        counts, _ = self.read_report()
        return counts

    def read_report(self):
        with open(self.report) as file:
            lines = [line.strip().partition(" ") for line in file]
        counts = {word: int(rest) for word, _, rest in lines if word in ERRORS}
        return counts, next(rest for word, _, rest in lines if word == "failed")

    def try_fault(self, fault):
        verdict = Verdict(f"{self.options.fs}/{self.name}/{fault}")
        marks = list(self.before)
        self._play(fault.words(), verdict, marks, inspects=True)
        return verdict

    def _play(self, words, verdict, marks, inspects=False):
        copy_sparse(self.base, self.running)
        machine = self.machine
        under = [self.tools.failcall, machine.root, self.report, *words]
        # In one boot: nothing that was written is lost.
        machine.start(self.running, same_boot=self.boot)
        try:
            try:
                self.scene.act(Faulted(self._context(marks.append), under, verdict))
            except Hangs as error:
                verdict.add("manual", f"amid the fault: {error}")
            # A server that is left was the faulted one. It may not know how to end, with every call failing.
            for problem in machine.end_server(patience=5):
                verdict.note(problem)
            verdict.facts["failed_call"] = self.read_report()[1]
            if inspects:
                promises = Promises().after(marks)
                # No cut has been: what was left half-made by a first command is not looked at again.
                reads_first = random.Random(verdict.name).random() < 0.5
                Inspection(machine, self.images, self.scene.workload, promises, verdict, self.extra).run(reads_first)
        finally:
            for problem in machine.stop():
                verdict.add("manual", problem)
        return verdict


def choose(counts, kinds, each, chance):
    """`each` numbers of each kind, spread over all; the errors in turn, once and from there on."""
    faults = []
    for kind in kinds:
        count = counts.get(kind, 0)
        wanted = min(each, max(count, len(ERRORS[kind]) * 2) if count else 0)
        ways = [(error, goes_on) for error in ERRORS[kind] for goes_on in (False, True)
                # Who is interrupted for ever may well go on for ever.
                if not (error == "EINTR" and goes_on)]
        chance.shuffle(ways)
        ways = itertools.cycle(ways)
        for number in range(wanted):
            faults.append(Fault(kind, 1 + number * count // wanted, *next(ways)))
    # So that what time allows is a sample of all.
    chance.shuffle(faults)
    return faults


def try_all(stage, options, results, ends):
    stage.prepare()
    try:
        counts = stage.count()
        faults = choose(counts, options.kinds, options.each, random.Random(f"{options.seed} {stage.name}"))
        text = ", ".join(f"{count} of {kind}" for kind, count in counts.items())
        print(f"{stage.name}: {text}; {len(faults)} faults", flush=True)
        for number, fault in enumerate(faults):
            # One is tried however late it is: a scene without a fault would say that nothing is wrong.
            if time.monotonic() > ends and number > 0:
                break
            results.add(stage.name, stage.try_fault(fault), options.verbose)
    finally:
        stage.end()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    listed = lambda text: [word for word in text.split(",") if word]
    parser.add_argument("--lamina", required=True, help="the program under test")
    parser.add_argument("--directory", required=True, help="for images and results")
    parser.add_argument("--scenes", type=listed, default=[], help=", ".join(SCENES) + "; all without it")
    parser.add_argument("--kinds", type=listed, default=list(ERRORS), help=", ".join(ERRORS))
    parser.add_argument("--each", type=int, default=10, help="how many faults of each kind of call, in each scene")
    parser.add_argument("--fs", choices=MAKE_FILE_SYSTEM, default="ext4")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", metavar="NAME", help="only this one, as it was printed")
    parser.add_argument("--scale", type=float, default=0.15, help="how large the images are")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no fault after so long")
    parser.add_argument("--verbose", action="store_true", help="print good ones too")
    options = parser.parse_args()
    options.lamina, options.directory = os.path.abspath(options.lamina), os.path.abspath(options.directory)
    options.scenes = options.scenes or list(SCENES)
    for words, known in ((options.scenes, SCENES), (options.kinds, ERRORS)):
        for word in words:
            if word not in known:
                parser.error(f"{word} is none of {', '.join(known)}")
    return options


def main():
    options = parse()
    isolation.enter()
    options.memory = isolation.occupy(options.directory)
    ends = time.monotonic() + options.seconds
    tools = Tools(os.path.join(options.directory, "tools"))
    images = Images(options.lamina, options.directory, options.scale)
    results = Results(os.path.join(options.directory, "faults.jsonl"))
    registry = Registry(images)
    if options.fault:
        options.fs, name, text = options.fault.split("/")
        stage = Stage(name, options, tools, images, registry)
        stage.prepare()
        try:
            results.add(name, stage.try_fault(Fault.parse(text)), shows=True)
        finally:
            stage.end()
    else:
        for number, name in enumerate(options.scenes):
            # What time there is is shared among the scenes that are left.
            now = time.monotonic()
            stage = Stage(name, options, tools, images, registry)
            try_all(stage, options, results, now + max(0, ends - now) / (len(options.scenes) - number))
    print(results.table())
    return 1 if results.is_bad else 0


if __name__ == "__main__":
    sys.exit(main())
