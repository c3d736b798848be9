#!/usr/bin/env python3
"""Reads sealed mounts while everything of lamina is killed, replaced and removed.

    survive.py --lamina BINARY [--other BINARY] --directory DIR IMAGE [--seconds 600]

IMAGE is what `lamina mount` takes. Four processes read files of two sealed mounts, one of which takes writes, and compare their digests.
Meanwhile servers and supervisors are started and killed; the program is replaced by the other one and back; for the last third of the
time it is not there at all. Prints the figures; ends with 1 if a read failed or had other bytes.
"""
import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--lamina", required=True)
parser.add_argument("--other", help="another version of the program")
parser.add_argument("--directory", required=True)
parser.add_argument("--seconds", type=float, default=600)
parser.add_argument("image")
options = parser.parse_args()
root, program = f"{options.directory}/root", f"{options.directory}/lamina"
points = [f"{options.directory}/{name}" for name in ("read-only", "writable")]
environment = dict(os.environ, LAMINA_SEAL_MODE="auto", LAMINA_ROOT=root)


def install(binary):
    shutil.copy(binary, program + ".new")
    os.chmod(program + ".new", 0o755)
    os.rename(program + ".new", program)


def lamina(*words):
    return subprocess.run([program, *words], capture_output=True, text=True, env=environment)


def digest(path):
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(number, known, point, ends, results):
    chance, reads, failures = random.Random(number), 0, []
    while time.time() < ends:
        name = chance.choice(list(known))
        try:
            if digest(f"{point}/{name}") != known[name]:
                failures.append(f"{point}/{name} has other bytes")
            if reads % 50 == 0:
                os.listdir(os.path.dirname(f"{point}/{name}"))
        except OSError as error:
            failures.append(str(error))
        reads += 1
        time.sleep(0.005)
    results.put((reads, failures))


def processes():
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if f"LAMINA_ROOT={root}\0".encode() in file.read():
                    with open(f"/proc/{name}/cmdline", "rb") as line:
                        if b"\0serve\0" in line.read():
                            found.append(int(name))
        except OSError:
            pass
    return found


install(options.lamina)
for point, words in zip(points, ([], ["--rw", f"{options.directory}/upper"])):
    os.makedirs(point, exist_ok=True)
    os.makedirs(f"{options.directory}/upper", exist_ok=True)
    done = lamina("mount", "--sealed", *words, options.image, point)
    if done.returncode:
        sys.exit(f"mount: {done.stderr}")
files = [os.path.relpath(os.path.join(parent, name), points[0]) for parent, _, names in os.walk(points[0]) for name in names]
files = [name for name in files if os.path.isfile(f"{points[0]}/{name}") and not os.path.islink(f"{points[0]}/{name}")]
files = random.Random(1).sample(files, min(len(files), 2000))
known = {name: digest(f"{points[0]}/{name}") for name in files}
ends, results = time.time() + options.seconds, multiprocessing.Queue()
readers = [multiprocessing.Process(target=read, args=(number, known, points[number % 2], ends, results)) for number in range(4)]
for reader in readers:
    reader.start()

chance, kills, upgrades = random.Random(2), 0, 0
while time.time() < ends - options.seconds / 3:
    if options.other and chance.random() < 0.2:
        install(chance.choice([options.lamina, options.other]))
        upgrades += 1
    server = subprocess.Popen([program, "serve", "--supervise", "--root", root], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(chance.uniform(0.05, 2))
    for pid in processes():
        try:
            os.kill(pid, signal.SIGKILL)
            kills += 1
        except ProcessLookupError:
            pass
    server.wait()
os.unlink(program)
reads, failures = 0, []
for _ in readers:
    count, found = results.get()
    reads, failures = reads + count, failures + found
for reader in readers:
    reader.join()
print(f"{reads} reads of {len(known)} files in {options.seconds:.0f} s, {kills} processes killed, {upgrades} times another program, "
      f"then none: {len(failures)} failures")
for failure in failures[:20]:
    print("FAILED", failure)
install(options.lamina)
for point in points:
    done = lamina("umount", point)
    if done.returncode:
        failures.append(f"umount {point}: {done.stderr}")
        print(failures[-1])
for pid in processes():
    os.kill(pid, signal.SIGTERM)
time.sleep(1)
with open("/proc/self/mounts") as table:
    # That of FUSE is of whoever was killed last; the next server takes it away.
    left = [line for line in table if options.directory in line and f"{root}/fs" not in line]
if left:
    print("left:", left)
sys.exit(1 if failures or left else 0)
