#!/usr/bin/env python3
"""Seals and mounts many images, restarts the server, and unmounts them again: what it takes, and what is left.

    many.py --lamina BINARY --directory DIR [--images 500]

Each image has a chain of its own. Prints the figures; ends with 1 if a file was not readable at any step, or if a mount, a loop
device or an EROFS file system was left.
"""
import argparse
import io
import os
import subprocess
import sys
import tarfile
import time

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--lamina", required=True)
parser.add_argument("--directory", required=True, help="for the images, the store and the mounts; emptied by nobody else")
parser.add_argument("--images", type=int, default=500)
options = parser.parse_args()
root = options.directory + "/root"
faults = []


def lamina(*words):
    done = subprocess.run([options.lamina, *words], capture_output=True, text=True)
    if done.returncode != 0:
        faults.append(f"lamina {' '.join(words)}: {done.returncode} {done.stderr.strip()[-300:]}")
    return done.stdout


def tables():
    with open("/proc/self/mountinfo") as table:
        lines = [line for line in table if options.directory in line]
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout.count(options.directory)
    known = os.listdir("/sys/fs/erofs") if os.path.isdir("/sys/fs/erofs") else []
    return len(lines), loops, {name for name in known if name != "features"}


def server(since):
    os.environ["LAMINA_SEAL_MODE"] = "auto"
    process = subprocess.Popen([options.lamina, "serve", "--root", root], stderr=subprocess.DEVNULL)
    for _ in range(3000):
        # It listens when all that was mounted is mounted again.
        if os.path.exists(root + "/control.sock") and "pid" in subprocess.run(
                [options.lamina, "status", "--json", "--root", root], capture_output=True, text=True).stdout.lower():
            return process, time.monotonic() - since
        time.sleep(0.01)
    raise SystemExit("the server does not start")


def memory(process):
    with open(f"/proc/{process.pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]) // 1024, int(fields["VmHWM"].split()[0]) // 1024


def target(number):
    return f"{options.directory}/mounts/{number}"


def read(step):
    for number in range(options.images):
        try:
            with open(f"{target(number)}/file-{number % 10}") as file:
                if file.read() != f"content {number} {number % 10}\n":
                    faults.append(f"{step}: {number} has other bytes")
        except OSError as error:
            faults.append(f"{step}: {error}")


before = tables()
for number in range(options.images):
    archive = f"{options.directory}/layer.tar"
    with tarfile.open(archive, "w") as tar:
        for name in range(10):
            info, content = tarfile.TarInfo(f"file-{name}"), f"content {number} {name}\n".encode()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    lamina("convert", f"tar:{archive}", f"oci:{options.directory}/layout:{number}")
    os.makedirs(target(number), exist_ok=True)

process, _ = server(time.monotonic())
begin = time.monotonic()
for number in range(options.images):
    lamina("seal", "--root", root, f"oci:{options.directory}/layout:{number}")
sealed = time.monotonic() - begin
begin = time.monotonic()
for number in range(options.images):
    lamina("mount", "--sealed", "--root", root, f"oci:{options.directory}/layout:{number}", target(number))
mounted = time.monotonic() - begin
mounts, loops, _ = tables()
read("mounted")
resident, peak = memory(process)
process.kill()
process.wait()
read("without a server")
process, started = server(time.monotonic())
read("after a restart")
begin = time.monotonic()
for number in range(options.images):
    lamina("umount", "--root", root, target(number))
unmounted = time.monotonic() - begin
for _ in range(100):
    left = tables()
    if left[0] <= before[0] + 1 and left[2] <= before[2]:
        break
    time.sleep(0.2)
process.terminate()
process.wait()
# Without a server FUSE's own mount is gone, too.
left = tables()
if left[0] > before[0] or left[1] > before[1] or left[2] - before[2]:
    faults.append(f"left: {left[0] - before[0]} mounts, {left[1] - before[1]} loop devices, {left[2] - before[2]}")
print(f"{options.images} images: sealed in {sealed / options.images * 1000:.0f} ms each, mounted in "
      f"{mounted / options.images * 1000:.0f} ms each, {mounts - before[0]} lines in the table of mounts, {loops} loop devices")
print(f"server: {resident} MiB, at most {peak} MiB; started again in {started:.2f} s with all of them there; "
      f"unmounted in {unmounted / options.images * 1000:.0f} ms each")
for fault in faults[:20]:
    print("FAULT", fault)
print(f"{len(faults)} faults")
sys.exit(1 if faults else 0)
