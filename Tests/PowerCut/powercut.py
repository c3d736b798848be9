#!/usr/bin/env python3
"""Cuts the power under lamina: records what a workload writes to a disk, makes disks as a cut may leave them, and looks at each.

    powercut.py --lamina PATH --directory DIR [--cuts N] [--again N] [--fs ext4,xfs,btrfs] [--noise none,own,index]
                [--workloads A,B]
    powercut.py --lamina PATH --directory DIR --cut NAME        one cut once more, by the name that was printed

A disk with a volatile cache loses any part of what was written after its last flush. The workload runs once for each file system
and noise (see lab/workloads.py, lab/recording.py); each cut then is a disk of its own, looked at in another boot with the registry
off, on, and off again (lab/inspection.py). With --again the power goes so often a second time, amid the recovery from the first.

Results are lines of JSON in DIR/powercut.jsonl. A recording in which a cut was bad stays there, for --cut. The last lines are a
table of counts, by the kinds of lab/verdict.py. Ends with 1 when one of them is not 0. Needs root.
"""
import argparse
import itertools
import os
import random
import sys
import time
from dataclasses import dataclass

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
from lab import isolation, snapshots
from lab.disk import FLUSH, WRITE, Cut
from lab.images import Images
from lab.inspection import Inspection
from lab.machine import MAKE_FILE_SYSTEM, Machine
from lab.programs import Failed, Hangs, NoDisk, Tools
from lab.promises import Promises
from lab.recording import NOISES, Recording
from lab.registry import Registry
from lab.results import Results
from lab.verdict import Verdict
from lab.workloads import WORKLOADS, limit, nothing


@dataclass
class Bench:
    """What all cuts of one recording have in common."""
    lamina: str
    directory: str
    memory: str
    tools: Tools
    images: Images
    workload_name: str
    file_system: str
    noise: str
    seed: int
    mount_options: str = ""
    same_boot: bool = False

    @property
    def is_small(self):
        return self.images.scale < 0.5

    @property
    def workload(self):
        return WORKLOADS[self.workload_name]

    @property
    def name(self):
        return f"{self.file_system}/{self.workload_name}/{self.noise}"

    @property
    def disk_mebibytes(self):
        size = self.workload.mebibytes if not self.is_small else 320
        # btrfs keeps metadata twice, and room for it.
        return size * 3 // 2 if self.file_system == "btrfs" else size

    @property
    def extra(self):
        return dict(limit(self.images) if self.workload.is_limited else {}, **(self.workload.extra or {}))

    def place(self, *words):
        return os.path.join(self.directory, "-".join([self.file_system, self.workload_name, self.noise, *words]))


class Cutter:
    def __init__(self, bench, recording, registry):
        self.bench, self.recording, self.registry = bench, recording, registry
        facts = recording.load()
        self.journal = recording.journal()
        print(f"{bench.name}: {self.journal.count(WRITE)} writes, {self.journal.count(FLUSH)} flushes, in {facts['seconds']} s",
              *facts["problems"], flush=True)

    def once(self, cut):
        verdict = Verdict(f"{self.bench.name}/{cut}")
        promises = Promises().after(self.journal.promised(cut.at))
        self.look(self.journal, cut, promises, verdict)
        return verdict

    def twice(self, first, second=None):
        """Goes on with what the first cut has left, and cuts the power amid that."""
        bench, images = self.bench, self.bench.workload.images
        promises = Promises().after(self.journal.promised(first.at))
        disk = os.path.join(bench.memory, "first.img")
        recording = Recording(bench, bench.place("again", str(first).replace(":", "-")))

        def recover(context):
            context.slow(12e6)
            # Whose bytes were wrong before the cut, nobody else puts them right.
            if bench.workload.is_damaged:
                context.lamina("check", "--read-data", "--repair", check=False)
            for name in images:
                done = context.pull(name, promise=not bench.workload.is_limited, check=False, extra=bench.extra)
                if done.returncode:
                    raise Failed(f"pull {name} after the first cut: {done.stderr[-300:]}")
            if bench.workload.has_snapshots:
                snapshots.recover(context)
            time.sleep(1)

        if not (second and recording.exists()):
            self.journal.make(first, disk)
            try:
                recording.make(self.registry, nothing, recover, disk)
            finally:
                os.unlink(disk)
        journal = recording.journal()
        second = second or journal.choose(random.Random(f"{first}"), bench.file_system)
        verdict = Verdict(f"{bench.name}/{first}+{second}")
        sent, promises.sent = promises.sent, 0
        promises.after(journal.promised(second.at)).sent += sent
        self.look(journal, second, promises, verdict)
        if not verdict.is_bad:
            recording.remove()
        return verdict

    def look(self, journal, cut, promises, verdict):
        bench = self.bench
        image = os.path.join(bench.memory, "cut.img")
        verdict.facts.update(journal.make(cut, image), after=promises.last)
        machine = Machine(bench.lamina, self.registry, os.path.join(bench.directory, "machine"), bench.file_system,
                          bench.mount_options)
        try:
            machine.start(image, same_boot=self.recording.load()["boot"] if bench.same_boot else None)
            inspection = Inspection(machine, bench.images, bench.workload, promises, verdict, bench.extra)
            is_measured = bench.workload.median_share is not None
            inspection.run(reads_first=cut.seed % 2 == 1 and not is_measured)
            if is_measured and "fetched" in verdict.facts:
                # Of what the registry had sent before: what does not have to come again was kept.
                size = sum(bench.images[name].size for name in bench.workload.images)
                verdict.facts["again"] = max(0, promises.sent + verdict.facts["fetched"] - size)
        finally:
            for problem in machine.stop():
                verdict.add("manual", problem)
            os.unlink(image)


def cut_all(bench, options, results, ends):
    recording = Recording(bench, bench.place("recording"))
    is_there = options.reuse and recording.exists()
    # The store remembers where its images came from.
    registry = Registry(bench.images, recording.load()["port"] if is_there else 0)
    try:
        if not is_there:
            recording.make(registry, bench.workload.prepare, bench.workload.act)
        cutter = Cutter(bench, recording, registry)
        cut_often(cutter, cutter.once, options.cuts, bench.name, options, results, ends)
        cut_often(cutter, cutter.twice, options.again, bench.name + "/again", options, results, ends)
    except (Failed, Hangs, OSError) as error:
        verdict = Verdict(f"{bench.name} without a cut")
        verdict.add("manual", str(error))
        results.add(bench.name, verdict)
        return
    finally:
        registry.stop()
    # Of few cuts, or of an image that is smaller than what is on its way, a median says nothing.
    share = bench.workload.median_share
    if share is not None and options.cuts >= 10 and not bench.is_small:
        results.hold(bench.name, share * sum(bench.images[name].size for name in bench.workload.images))
    if not (options.keep or results.is_bad_row(bench.name) or results.is_bad_row(bench.name + "/again")):
        recording.remove()


def cut_often(cutter, how, count, row, options, results, ends):
    chance = random.Random(f"{options.seed} {row}")
    for number in range(count):
        cut = cutter.journal.choose(chance, cutter.bench.file_system)
        # One is made however late it is: a row without a cut would say that nothing is wrong.
        if time.monotonic() > ends and (number > 0 or row.endswith("/again")):
            return
        results.add(row, judge(how, cutter.bench, cut), options.verbose)


def judge(how, bench, *cuts):
    try:
        return how(*cuts)
    except NoDisk as error:
        return Verdict(f"{bench.name}/{cuts[0]}", disk=str(error)[-300:])
    except (Failed, Hangs) as error:
        # A recovery does not go on, or the laboratory has not done what it should.
        verdict = Verdict(f"{bench.name}/{cuts[0]}")
        verdict.add("manual", str(error))
        return verdict


def repeat(options, make_bench, results):
    """One cut, of a recording that is there."""
    file_system, workload, noise, cuts = options.cut.split("/")
    bench = make_bench(workload, file_system, noise)
    recording = Recording(bench, bench.place("recording"))
    if not recording.exists():
        sys.exit(f"powercut: {recording.directory} is not there; a recording of the same seed is similar, not the same")
    bench.images = Images(bench.lamina, bench.directory, recording.load()["scale"])
    first, *second = map(Cut.parse, cuts.split("+"))
    cutter = Cutter(bench, recording, Registry(bench.images, recording.load()["port"]))
    results.add(bench.name, judge(cutter.twice if second else cutter.once, bench, first, *second), shows=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    listed = lambda text: [word for word in text.split(",") if word]
    parser.add_argument("--lamina", required=True, help="the program under test")
    parser.add_argument("--directory", required=True, help="for images, recordings and results; on a disk with some GB")
    parser.add_argument("--workloads", type=listed, default=[], help=", ".join(WORKLOADS) + "; all but pull-plain-large without it")
    parser.add_argument("--fs", type=listed, default=["ext4"], help=", ".join(MAKE_FILE_SYSTEM))
    parser.add_argument("--noise", type=listed, default=["none"], help=", ".join(NOISES))
    parser.add_argument("--cuts", type=int, default=20, help="of each workload, file system and noise")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", type=int, default=0, help="how many second cuts, amid the recovery from a first")
    parser.add_argument("--cut", metavar="NAME", help="only this one, as it was printed")
    parser.add_argument("--reuse", action="store_true", help="take the recordings that are there")
    parser.add_argument("--keep", action="store_true", help="keep all recordings")
    parser.add_argument("--scale", type=float, default=1.0, help="how large the images are")
    parser.add_argument("--mount-options", default="")
    parser.add_argument("--same-boot", action="store_true",
                        help="tries the laboratory itself: a store that believes in what was not flushed must be found out")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cut after so long")
    parser.add_argument("--verbose", action="store_true", help="print good cuts too")
    options = parser.parse_args()
    options.workloads = options.workloads or [name for name in WORKLOADS if name != "pull-plain-large"]
    for words, known in ((options.workloads, WORKLOADS), (options.fs, MAKE_FILE_SYSTEM), (options.noise, NOISES)):
        for word in words:
            if word not in known:
                parser.error(f"{word} is none of {', '.join(known)}")
    return options


def main():
    options = parse()
    isolation.enter()
    ends = time.monotonic() + options.seconds
    directory, lamina = os.path.abspath(options.directory), os.path.abspath(options.lamina)
    memory = isolation.occupy(directory)
    tools = Tools(os.path.join(directory, "tools"))
    images = Images(lamina, directory, options.scale)
    results = Results(os.path.join(directory, "powercut.jsonl"))

    def make_bench(workload, file_system, noise):
        return Bench(lamina, directory, memory, tools, images, workload, file_system, noise, options.seed,
                     options.mount_options, options.same_boot)

    if options.cut:
        repeat(options, make_bench, results)
    else:
        rows = list(itertools.product(options.fs, options.workloads, options.noise))
        for number, (file_system, workload, noise) in enumerate(rows):
            # What time there is is shared among the rows that are left.
            now = time.monotonic()
            share = max(0, ends - now) / (len(rows) - number)
            cut_all(make_bench(workload, file_system, noise), options, results, now + share)
    print(results.table())
    return 1 if results.is_bad else 0


if __name__ == "__main__":
    sys.exit(main())
