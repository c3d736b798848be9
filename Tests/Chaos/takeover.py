#!/usr/bin/env python3
"""Measures the time from a server's death to the first answer of the next one, with many images and inodes.

    takeover.py --lamina PATH --directory DIR [--images 10] [--files 100000] [--kills 200]

Prints JSON; ends with 1 when the median is above 100 ms or the 99th percentile above 500 ms. Needs root.
"""
import argparse, io, json, os, signal, subprocess, sys, tarfile, time

# What is tried here is what FUSE shows.
os.environ.setdefault("LAMINA_SEAL_MODE", "off")

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from chaos import Server, mounts_below, percentile, wait_until


def write_tar(path, image, count):
    """Empty files are inodes like others."""
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            if number % 1000 == 0:
                parent = tarfile.TarInfo(f"d{number // 1000}")
                parent.type, parent.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(parent)
            tar.addfile(tarfile.TarInfo(f"d{number // 1000}/f{number}"))
        text = f"image {image}".encode()
        own = tarfile.TarInfo("own")
        own.size = len(text)
        tar.addfile(own, io.BytesIO(text))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lamina", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    directory, lamina = os.path.abspath(options.directory), os.path.abspath(options.lamina)
    server = None
    try:
        server = Server(lamina, directory)
        places = []
        for image in range(options.images):
            write_tar(f"{directory}/layer.tar", image, options.files)
            subprocess.run([lamina, "convert", "--level", "1", f"tar:{directory}/layer.tar", f"oci:{directory}/images:{image}"],
                           check=True, stdout=subprocess.DEVNULL)
            place = f"{directory}/mount{image}"
            os.makedirs(place)
            server.command("mount", f"oci:{directory}/images:{image}", place)
            places.append(place)
        os.unlink(f"{directory}/layer.tar")
        inodes = int(subprocess.run(["sqlite3", "-readonly", f"{server.root}/index.db", "SELECT count(*) FROM inode"],
                                    check=True, capture_output=True, text=True).stdout)
        # Kept open over all kills, in both ways.
        kept = [open(f"{place}/own", "rb") for place in places]
        first, second, failures = [], [], 0
        for turn in range(options.kills):
            pid = wait_until(lambda: server.pid, 30, "a server")
            # Ready, as one in service is.
            before = time.monotonic()
            server.status()
            started = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            # A name that nobody asked for before, so that the kernel has to ask.
            try: os.lstat(f"{places[turn % len(places)]}/d{turn % 90}/f{turn % 90 * 1000 + turn}")
            except OSError: failures += 1
            first.append(time.monotonic() - started)
        for number, file in enumerate(kept):
            if file.read() != f"image {number}".encode(): failures += 1
        milliseconds = lambda seconds: round(seconds * 1000, 1)
        result = {"images": options.images, "inodes": inodes, "kills": options.kills, "failures": failures,
                  "takeover_ms": {"p50": milliseconds(percentile(first, 0.5)), "p90": milliseconds(percentile(first, 0.9)),
                                  "p99": milliseconds(percentile(first, 0.99)), "max": milliseconds(max(first))}}
        print(json.dumps(result, indent=1))
        server.command("shutdown", tries=1)
        return int(failures > 0 or percentile(first, 0.5) > 0.1 or percentile(first, 0.99) > 0.5)
    finally:
        if server is not None and server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try: server.process.wait(60)
            except subprocess.TimeoutExpired: server.process.kill()
        for place in reversed(mounts_below(directory)): subprocess.run(["umount", "-l", "-f", place])


if __name__ == "__main__":
    sys.exit(main())
