"""Disks as a power cut may leave them, made of what recorder.c has noted.

A disk may lose what was not flushed. So a cut keeps every write before the last flush, and of those after it what `MODES` says. Of
two writes to one block the later one never lies under the earlier one.
"""

import mmap
import os
import random
import struct
from dataclasses import dataclass

RECORD = struct.Struct("<IIQQQ")
WRITE, FLUSH, MARK = map(ord, "WFM")
# How likely each is to be chosen.
MODES = {
    "prefix": 15,    # all of them: the power went between two writes
    "none": 12,      # none of them
    "subset": 25,    # whole writes, by chance
    "drop1": 10,     # all but one
    "only1": 8,      # one alone
    "torn4k": 20,    # blocks of 4,096 bytes, by chance
    "torn512": 10,   # blocks of 512 bytes, by chance
}
BLOCKS = {"torn4k": 4096, "torn512": 512}
SHARES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Record:
    kind: int
    length: int
    offset: int
    place: int
    nanoseconds: int


@dataclass(frozen=True)
class Cut:
    """After so many records the power goes."""
    at: int
    mode: str
    seed: int

    def __str__(self):
        return f"{self.at}:{self.mode}:{self.seed}"

    @classmethod
    def parse(cls, text):
        at, mode, seed = text.split(":")
        if mode not in MODES:
            raise ValueError(f"{mode} is none of {', '.join(MODES)}")
        return cls(int(at), mode, int(seed))


class Journal:
    """All records of a disk, and its bytes before the first."""

    def __init__(self, directory):
        self.base, self.bytes = os.path.join(directory, "base.img"), os.path.join(directory, "bytes")
        with open(os.path.join(directory, "records"), "rb") as file:
            data = file.read()
        self.records = [Record(*fields) for fields in RECORD.iter_unpack(data[:len(data) // RECORD.size * RECORD.size])]
        with open(self.bytes, "rb") as file:
            self.marks = [(number, os.pread(file.fileno(), record.length, record.place).decode())
                          for number, record in enumerate(self.records) if record.kind == MARK]

    def count(self, kind):
        return sum(record.kind == kind for record in self.records)

    def promised(self, at):
        """The marks that the user had seen by then."""
        return [text for number, text in self.marks if number < at]

    def begin(self):
        return next(number for number, text in self.marks if text == "begin")

    def choose(self, chance, file_system):
        """Somewhere: among the writes, in time, around flushes, or soon after the user was told something."""
        first, last = self.begin(), len(self.records)
        flushes = [number for number in range(first, last) if self.records[number].kind == FLUSH]
        marks = [number for number, text in self.marks if number >= first and not text.startswith("sent ")]
        how = chance.random()
        if how < 0.45 or not flushes:
            at = chance.randint(first, last)
        elif how < 0.65:
            moment = chance.uniform(self.records[first].nanoseconds, self.records[-1].nanoseconds)
            at = next((number for number in range(first, last) if self.records[number].nanoseconds >= moment), last)
        elif how < 0.85:
            at = chance.choice(flushes) + chance.randint(-3, 4)
        else:
            at = chance.choice(marks) + chance.randint(-2, 40)
        mode, = chance.choices(list(MODES), MODES.values())
        # btrfs counts on its superblock of 4 KiB being written as a whole.
        if file_system == "btrfs" and mode == "torn512":
            mode = "torn4k"
        return Cut(min(max(at, first), last), mode, chance.randrange(1 << 30))

    def make(self, cut, path):
        """Makes the disk of a cut; returns how much of it was volatile, and how much of that is lost."""
        before = self.records[:cut.at]
        flushed = max((number for number, record in enumerate(before) if record.kind == FLUSH), default=0)
        settled = [record for record in before[:flushed] if record.kind == WRITE]
        volatile = [record for record in before[flushed:] if record.kind == WRITE]
        copy_sparse(self.base, path)
        kept = 0
        with open(self.bytes, "rb") as file, open(path, "r+b") as disk:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data, memoryview(data) as view:
                for record in settled:
                    write_part(disk, view, record, 0, record.length)
                for record, start, end in survivors(volatile, cut):
                    write_part(disk, view, record, start, end)
                    kept += end - start
        total = sum(record.length for record in volatile)
        return {"writes": len(settled) + len(volatile), "volatile": len(volatile), "kept": kept, "lost": total - kept}


def survivors(writes, cut):
    """Which parts of these writes reach the disk: (record, start, end)."""
    chance = random.Random(cut.seed)
    share = chance.choice(SHARES)
    chosen = chance.randrange(len(writes)) if writes else None
    for number, record in enumerate(writes):
        if cut.mode in BLOCKS:
            for start in range(0, record.length, BLOCKS[cut.mode]):
                if chance.random() < share:
                    yield record, start, min(start + BLOCKS[cut.mode], record.length)
        elif (cut.mode == "prefix" or cut.mode == "drop1" and number != chosen or cut.mode == "only1" and number == chosen
              or cut.mode == "subset" and chance.random() < share):
            yield record, 0, record.length


def write_part(disk, view, record, start, end):
    with view[record.place + start:record.place + end] as part:
        if os.pwrite(disk.fileno(), part, record.offset + start) != end - start:
            raise OSError("a short write to the image of a disk")


def copy_sparse(source, target):
    """Copies an image of a disk, of which most is a hole."""
    with open(source, "rb") as old, open(target, "wb") as new:
        end = os.fstat(old.fileno()).st_size
        new.truncate(end)
        data = 0
        while True:
            try:
                data = os.lseek(old.fileno(), data, os.SEEK_DATA)
            except OSError:
                return
            hole = os.lseek(old.fileno(), data, os.SEEK_HOLE)
            while data < hole:
                part = os.pread(old.fileno(), min(hole - data, 1 << 20), data)
                os.pwrite(new.fileno(), part, data)
                data += len(part)
