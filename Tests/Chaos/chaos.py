#!/usr/bin/env python3
"""Kills the server of a store again and again under readers, and compares every byte that they get.

    chaos.py --lamina PATH --directory DIR --seconds N [--minimum-kills N] [--seed N] [--hang [--watchdog-seconds N]]

With --hang the server is stopped (SIGSTOP) instead, and the supervisor's watchdog is what has to kill it.

Images come from a docker-registry behind a proxy that is slow, so that merges are always under way; every few seconds another
image is mounted and the one before the last unmounted, one of them writable. Prints what was done as JSON; ends with 0 when
no system call failed, no byte was wrong, and nothing is left behind. Needs root.
"""
import argparse, ctypes, errno, fcntl, hashlib, http.client, json, mmap, multiprocessing, os, random, shutil
import signal, socket, struct, subprocess, sys, threading, time, traceback

# What is tried here is what FUSE shows.
os.environ.setdefault("LAMINA_SEAL_MODE", "off")

BACKING_CLOSE = 0x4004E502  # _IOW(229, 2, uint32_t)
PAGE = 4096


# --- the images and their registry ---

def make_tree(path, seed):
    """Small files in directories, large ones that are opened before they are merged, and programs."""
    chance = random.Random(seed)
    def noise(size):
        # Some of it compresses.
        return b"".join(chance.randbytes(3000) + bytes(1096) for _ in range(size // 4096 + 1))[:size]
    for number in range(240):
        parent = f"{path}/files/{number // 40}"
        os.makedirs(parent, exist_ok=True)
        with open(f"{parent}/{number}", "wb") as file:
            file.write(noise(chance.choice([0, 1, 4095, 4096, 4097, chance.randrange(200_000)])))
        if number % 8 == 0:
            os.symlink(f"{number}", f"{parent}/link{number}")
    for number in range(4):
        with open(f"{path}/large{number}", "wb") as file:
            file.write(noise(chance.randrange(9 << 20, 20 << 20)))
    os.makedirs(f"{path}/bin")
    for program in ("sha256sum", "cat"):
        shutil.copy2(f"/usr/bin/{program}", f"{path}/bin/{program}")


class Registry:
    def __init__(self, directory):
        self.port = free_port()
        os.makedirs(directory)
        with open(f"{directory}/config.yml", "w") as file:
            file.write(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
                       f"storage: {{filesystem: {{rootdirectory: {directory}}}}}\nhttp: {{addr: '127.0.0.1:{self.port}'}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", f"{directory}/config.yml"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self.answers(), 30, "the registry")

    def answers(self):
        try:
            return self.request("GET", "/v2/")[0] == 200
        except OSError:
            return False

    def request(self, method, path, body=None, headers={}):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    def push(self, layout, name):
        def blob(digest):
            with open(f"{layout}/blobs/{digest.replace(':', '/')}", "rb") as file:
                return file.read()
        with open(f"{layout}/index.json") as file:
            top = json.load(file)["manifests"][0]
        manifest = blob(top["digest"])
        document = json.loads(manifest)
        for part in [document["config"]] + document["layers"]:
            status, headers, _ = self.request("POST", f"/v2/{name}/blobs/uploads/")
            assert status == 202, status
            place = headers["Location"].split(f":{self.port}", 1)[-1]
            place += ("&" if "?" in place else "?") + "digest=" + part["digest"]
            status, _, text = self.request("PUT", place, blob(part["digest"]))
            assert status == 201, text
        status, _, text = self.request("PUT", f"/v2/{name}/manifests/latest", manifest,
                                       {"Content-Type": document.get("mediaType", top["mediaType"])})
        assert status == 201, text


class SlowProxy:
    """Hands TCP connections on, with so many bytes a second from the registry."""
    def __init__(self, upstream, rate):
        self.upstream, self.rate, self.bytes = upstream, rate, 0
        self.lock, self.allowed, self.since = threading.Lock(), 0.0, time.monotonic()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream))
            except OSError:
                client.close()
                continue
            threading.Thread(target=self.copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self.copy, args=(server, client, True), daemon=True).start()

    def copy(self, source, target, slow):
        try:
            while data := source.recv(32768):
                if slow: self.wait(len(data))
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try: end.shutdown(socket.SHUT_RDWR)
            except OSError: pass

    def wait(self, count):
        with self.lock:
            self.bytes += count
            now = time.monotonic()
            self.allowed = max(self.allowed, now) + count / self.rate
            pause = self.allowed - now
        if pause > 0: time.sleep(pause)


# --- the readers: processes of their own, each call of which must succeed ---

class Mounted:
    """What a reader reads: a mount and the tree that it must be like."""
    def __init__(self, mount, tree):
        self.mount, self.tree = mount, tree
        self.files, self.directories = [], []
        for parent, directories, files in os.walk(tree):
            relative = os.path.relpath(parent, tree)
            self.directories.append(relative)
            self.files += [os.path.normpath(f"{relative}/{name}") for name in files]
        self.files.sort()
        self.plain = [name for name in self.files if not os.path.islink(f"{tree}/{name}")]
        self.large = [name for name in self.plain if name.startswith("large")]


class Wrong(Exception):
    pass


def same(have, want, what):
    if have != want:
        raise Wrong(f"{what}: {len(have)} bytes of {len(want)}" if isinstance(want, bytes) else f"{what}: {have}, not {want}")


def source(mounted, name):
    with open(f"{mounted.tree}/{name}", "rb") as file: return file.read()


def read_whole(chance, mounted, count):
    name = chance.choice(mounted.plain)
    with open(f"{mounted.mount}/{name}", "rb", buffering=0) as file:
        have = b"".join(iter(lambda: file.read(chance.choice([4096, 65536, 1 << 20])), b""))
    count["opens"] += 1
    same(have, source(mounted, name), f"read {name}")
    count["bytes"] += len(have)


def read_parts(chance, mounted, count):
    """Keeps a large file open across some kills and reads it in places, opening it again meanwhile."""
    name = chance.choice(mounted.large)
    want = os.open(f"{mounted.tree}/{name}", os.O_RDONLY)
    have = [os.open(f"{mounted.mount}/{name}", os.O_RDONLY)]
    try:
        size = os.fstat(want).st_size
        same(os.fstat(have[0]).st_size, size, f"size of {name}")
        for _ in range(chance.randrange(20, 80)):
            offset, length = chance.randrange(size), chance.choice([1, 4096, 131072])
            data = os.pread(chance.choice(have), length, offset)
            same(data, os.pread(want, length, offset), f"{name} at {offset}")
            count["bytes"] += len(data)
            if chance.random() < 0.1:
                have.append(os.open(f"{mounted.mount}/{name}", os.O_RDONLY))
                count["opens"] += 1
            if len(have) > 3: os.close(have.pop(0))
            time.sleep(0.01)
    finally:
        for descriptor in have + [want]: os.close(descriptor)
    count["opens"] += 1


def map_pages(chance, mounted, count):
    name = chance.choice(mounted.large + mounted.plain)
    want = source(mounted, name)
    with open(f"{mounted.mount}/{name}", "rb") as file:
        count["opens"] += 1
        if not want: return
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    for _ in range(40):
        offset = chance.randrange(len(want)) // PAGE * PAGE
        same(mapped[offset:offset + PAGE], want[offset:offset + PAGE], f"mapped {name} at {offset}")
        count["bytes"] += PAGE
        time.sleep(0.002)
    mapped.close()


def execute(chance, mounted, count):
    name = chance.choice(mounted.plain)
    done = subprocess.run([f"{mounted.mount}/bin/sha256sum", f"{mounted.mount}/{name}"], capture_output=True)
    same(done.returncode, 0, f"exit code of sha256sum {name} {done.stderr.decode()}")
    same(done.stdout[:64], hashlib.sha256(source(mounted, name)).hexdigest().encode(), f"digest of {name}")
    count["executions"] += 1


def list_directory(chance, mounted, count):
    name = chance.choice(mounted.directories)
    same(sorted(os.listdir(f"{mounted.mount}/{name}")), sorted(os.listdir(f"{mounted.tree}/{name}")), f"names in {name}")
    count["listings"] += 1
    drop_caches(chance)


def look(chance, mounted, count):
    for _ in range(50):
        name = chance.choice(mounted.files)
        have, want = os.lstat(f"{mounted.mount}/{name}"), os.lstat(f"{mounted.tree}/{name}")
        for field in ("st_size", "st_mode", "st_uid", "st_gid"): same(getattr(have, field), getattr(want, field), f"{field} of {name}")
        if os.path.islink(f"{mounted.tree}/{name}"):
            same(os.readlink(f"{mounted.mount}/{name}"), os.readlink(f"{mounted.tree}/{name}"), f"target of {name}")
        try:
            os.lstat(f"{mounted.mount}/{name}.none")
            raise Wrong(f"{name}.none is there")
        except FileNotFoundError:
            pass
        count["looks"] += 2
    drop_caches(chance)


def open_and_close(chance, mounted, count):
    for _ in range(50):
        os.close(os.open(f"{mounted.mount}/{chance.choice(mounted.plain)}", os.O_RDONLY))
        count["opens"] += 1


def drop_caches(chance):
    """Names and attributes are kept by the kernel for ever; dropped, they are asked for again."""
    if chance.random() < 0.02:
        with open("/proc/sys/vm/drop_caches", "w") as file: file.write("2")


def copy_up(chance, mounted, count):
    """Writes to a file of a writable mount, and reads it back with what the image has before that."""
    if not mounted.mount.endswith("-rw"): return
    name = chance.choice(mounted.plain)
    if name.startswith(("large", "bin")) or "link" in name: return
    copy = f"{mounted.mount}/{os.path.dirname(name)}/copy-{os.getpid()}"
    if os.path.exists(copy): os.unlink(copy)
    shutil.copyfile(f"{mounted.mount}/{name}", copy)
    with open(copy, "ab") as file: file.write(b"more")
    with open(copy, "rb") as file: same(file.read(), source(mounted, name) + b"more", f"copy of {name}")
    os.unlink(copy)
    os.chmod(f"{mounted.mount}/bin/cat", 0o755)
    count["copies"] += 1


KINDS = [read_whole, read_whole, read_parts, read_parts, map_pages, execute, list_directory, look, open_and_close, copy_up]


def reader(number, kind, seed, mounts, stop, results):
    chance = random.Random(f"{seed} {number}")
    count = dict.fromkeys(("opens", "bytes", "executions", "listings", "looks", "copies", "turns"), 0)
    failures, known = [], {}
    while not stop.is_set() and len(failures) < 5:
        with mounts.get_lock():
            pair = [text for text in mounts.value.decode().split("\n") if text]
        mount, tree = chance.choice(pair).split("\t")
        if kind is copy_up:
            writable = [text for text in pair if text.split("\t")[0].endswith("-rw")]
            if not writable:
                time.sleep(0.1)
                continue
            mount, tree = writable[0].split("\t")
        # Held for the turn: what looks at names alone has nothing open that would keep the mount from being unmounted.
        held = os.open(mount, os.O_PATH)
        try:
            if not os.path.ismount(mount): continue
            if mount not in known: known = {mount: Mounted(mount, tree), **dict(list(known.items())[:1])}
            if kind is not copy_up and mount.endswith("-rw") and kind is list_directory:
                continue  # others write there
            kind(chance, known[mount], count)
            count["turns"] += 1
        except Exception as error:
            failures.append(f"{time.monotonic():.3f} {kind.__name__}: {error!r} {traceback.format_exc(limit=2) if not isinstance(error, Wrong) else ''}")
        finally:
            os.close(held)
    results.put((kind.__name__, count, failures))


# --- the server, and its end ---

def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (result := condition()): return result
        time.sleep(0.01)
    raise SystemExit(f"chaos: {what} is not there after {seconds} s")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file: return [int(text) for text in file.read().split()]
    except OSError:
        return []


def memory(pid, field):
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith(field + ":"): return int(line.split()[1])
    except OSError:
        pass
    return 0


def mounts_below(directory):
    with open("/proc/self/mounts") as file: return [line.split()[1] for line in file if line.split()[1].startswith(directory)]


class Server:
    def __init__(self, lamina, directory, options=()):
        self.lamina, self.root = lamina, f"{directory}/store"
        self.log = open(f"{directory}/server.log", "ab")
        self.process = subprocess.Popen([lamina, "serve", "--supervise", "--root", self.root, *options],
                                        stdout=self.log, stderr=self.log, start_new_session=True)
        wait_until(lambda: os.path.exists(f"{self.root}/control.sock"), 60, "the server")

    @property
    def pid(self):
        found = children(self.process.pid)
        return found[0] if found else None

    def command(self, *words, tries=100):
        """A command through the control socket, given again where the server ended under it."""
        for _ in range(tries):
            done = subprocess.run([self.lamina, *words, "--root", self.root], capture_output=True, text=True)
            if done.returncode == 0: return done.stdout
            if words[0] == "mount" and os.path.ismount(words[-1]): return ""
            if words[0] == "umount" and not os.path.ismount(words[-1]): return ""
            time.sleep(0.05)
        raise SystemExit(f"chaos: lamina {' '.join(words)}: {done.stderr}")

    def status(self):
        return json.loads(self.command("status", "--json"))["server"]

    def connection(self):
        """The held /dev/fuse, out of the supervisor."""
        for name in os.listdir(f"/proc/{self.process.pid}/fd"):
            try:
                if os.readlink(f"/proc/{self.process.pid}/fd/{name}") == "/dev/fuse":
                    return os.pidfd_getfd(self.pidfd, int(name)) if hasattr(os, "pidfd_getfd") else pidfd_getfd(self.process.pid, int(name))
            except OSError:
                pass
        raise SystemExit("chaos: the supervisor holds no connection")


def pidfd_getfd(pid, number):
    pidfd = os.pidfd_open(pid)
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, number, 0)
    os.close(pidfd)
    if descriptor < 0: raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return descriptor


def count_backing_files(connection, limit):
    """How many the kernel has. There is no way to ask but to give them up."""
    count = 0
    for number in range(1, limit):
        try:
            fcntl.ioctl(connection, BACKING_CLOSE, struct.pack("I", number))
            count += 1
        except OSError as error:
            if error.errno != errno.ENOENT: raise
    return count


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lamina", required=True)
    parser.add_argument("--directory", required=True, help="an empty directory on a disk's file system")
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--minimum-kills", type=int, default=30)
    parser.add_argument("--rate", type=float, default=12e6, help="bytes a second from the registry")
    parser.add_argument("--round", type=float, default=9, help="seconds between one mount and the next")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hang", action="store_true", help="stop the server, for the watchdog to find, instead of killing it")
    parser.add_argument("--watchdog-seconds", type=float, default=30)
    options = parser.parse_args()
    # What a client may have to wait for longer than otherwise.
    hang = options.watchdog_seconds if options.hang else 0
    lamina, directory = os.path.abspath(options.lamina), os.path.abspath(options.directory)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chance = random.Random(options.seed)
    context = multiprocessing.get_context("fork")
    registry = server = None
    readers, stop = [], context.Event()
    try:
        registry = Registry(f"{directory}/registry")
        proxy = SlowProxy(registry.port, options.rate)

        def make_image(number):
            tree, layout = f"{directory}/tree{number}", f"{directory}/layout{number}"
            make_tree(tree, f"{options.seed} {number}")
            subprocess.run([lamina, "convert", "--level", "1", "--chunk-size", "1048576", f"dir:{tree}", f"oci:{layout}:latest"],
                           check=True, stdout=subprocess.DEVNULL)
            registry.push(layout, f"image{number}")
            shutil.rmtree(layout)
            return tree

        server = Server(lamina, directory, ["--watchdog-seconds", f"{options.watchdog_seconds}"])

        def mount(number, tree):
            writable = number % 2 == 0
            place = f"{directory}/mount{number}" + ("-rw" if writable else "")
            os.makedirs(place)
            words = ["mount"]
            if writable:
                os.makedirs(f"{directory}/upper{number}")
                words += ["--rw", f"{directory}/upper{number}"]
            server.command(*words, f"127.0.0.1:{proxy.port}/image{number}:latest", place)
            return place

        active = []
        for number in range(2):
            tree = make_image(number)
            active.append((mount(number, tree), tree))
        mounts = context.Array("c", 8192)

        def publish():
            with mounts.get_lock(): mounts.value = "\n".join("\t".join(pair) for pair in active).encode()

        publish()
        results = context.Queue()
        for number, kind in enumerate(KINDS):
            process = context.Process(target=reader, args=(number, kind, options.seed, mounts, stop, results))
            process.start()
            readers.append(process)

        kills, takeovers, server_memory, shared_memory = 0, [], [], []
        supervisor_memory, supervisor_files = memory(server.process.pid, "VmRSS"), len(os.listdir(f"/proc/{server.process.pid}/fd"))
        pending = {}
        end = time.monotonic() + options.seconds
        rounds_done = threading.Event()
        trouble = []

        def rounds():
            """Another image every few seconds, made, mounted, and the one before the last unmounted, while the kills go on."""
            try:
                number = 2
                while time.monotonic() < end - options.round / 2:
                    started = time.monotonic()
                    tree = make_image(number)
                    active.append((mount(number, tree), tree))
                    publish()
                    while len(active) > 2:
                        old, old_tree = active.pop(0)
                        publish()
                        deadline = time.monotonic() + 60 + 4 * hang
                        while True:
                            # Readers that chose it before end their turn first.
                            try:
                                server.command("umount", old, tries=40)
                                break
                            except SystemExit:
                                if time.monotonic() > deadline: raise
                        pending[old_tree] = old
                    number += 1
                    time.sleep(max(0, options.round - (time.monotonic() - started)))
                # Trees are compared with while their mounts are read, so they stay until the readers have ended.
            except BaseException as error:
                trouble.append(f"mounting: {error!r}")
            rounds_done.set()

        thread = threading.Thread(target=rounds, daemon=True)
        thread.start()
        while time.monotonic() < end and not trouble:
            time.sleep(chance.choice([0.02, 0.1, 0.3, 0.5, 0.7]) * chance.random() * 2 + (2 if options.hang else 0))
            pid = server.pid
            if pid is None: continue
            server_memory.append(memory(pid, "RssAnon"))
            shared_memory.append(memory(pid, "RssShmem"))
            started = time.monotonic()
            try: os.kill(pid, signal.SIGSTOP if options.hang else signal.SIGKILL)
            except ProcessLookupError: continue
            kills += 1
            if options.hang: wait_until(lambda: server.pid not in (pid, None), hang + 30, "another server than the one that hangs")
            try: os.lstat(f"{server.root}/fs/none")
            except FileNotFoundError: pass
            takeovers.append(time.monotonic() - started)
        rounds_done.wait(120 + 4 * hang)
        stop.set()
        totals, failures = {}, list(trouble)
        for _ in readers:
            kind, count, failed = results.get(timeout=120 + 4 * hang)
            failures += failed
            for name, value in count.items(): totals[name] = totals.get(name, 0) + value
        for process in readers: process.join(60)
        status = server.status()
        expected = sorted([f"{server.root}/fs"] + [place for place, _ in active])
        if sorted(mounts_below(directory)) != expected: failures.append(f"mounts: {mounts_below(directory)}, not {expected}")
        files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        if files > supervisor_files: failures.append(f"the supervisor has {files} descriptors, {supervisor_files} at first")
        server_files = len(os.listdir(f"/proc/{status['pid']}/fd"))
        if server_files > 200: failures.append(f"the server has {server_files} descriptors")
        growth = memory(server.process.pid, "VmRSS") - supervisor_memory
        if growth > 4096: failures.append(f"the supervisor has grown by {growth} KiB")
        tenth = max(1, len(server_memory) // 10)
        early, late = percentile(server_memory[:tenth], 0.9), percentile(server_memory[-tenth:], 0.9)
        if len(server_memory) > 100 and late > early * 1.5 + 16384: failures.append(f"a server takes {late} KiB, {early} KiB at first")
        for place, _ in active: server.command("umount", place)
        connection = server.connection()
        backing = server.status()["opens"]["backingFiles"]
        found = count_backing_files(connection, 1_000_000 if options.seconds > 120 else 200_000)
        os.close(connection)
        if found != backing: failures.append(f"the kernel has {found} backing files, the server knows of {backing}")
        server.command("shutdown", tries=1)
        code = server.process.wait(60)
        if code != 0: failures.append(f"the supervisor ended with {code}")
        if mounts_below(directory): failures.append(f"mounts are left: {mounts_below(directory)}")
        if options.hang:
            with open(server.log.name, "rb") as file: found_hanging = file.read().count(b"gives no sign of life")
            if found_hanging < kills: failures.append(f"the watchdog found {found_hanging} servers that hang, {kills} were stopped")
        if kills < options.minimum_kills: failures.append(f"only {kills} kills, {options.minimum_kills} were wanted")
        milliseconds = lambda seconds: None if seconds is None else round(seconds * 1000, 1)
        print(json.dumps({
            "seconds": options.seconds, "hangs" if options.hang else "kills": kills, "images": len(active) + len(pending), **totals,
            "fetched": proxy.bytes, "failures": len(failures),
            "takeover_ms": {"p50": milliseconds(percentile(takeovers, 0.5)), "p99": milliseconds(percentile(takeovers, 0.99)),
                            "max": milliseconds(max(takeovers, default=None))},
            "server_kib": {"first": early, "last": late, "record": percentile(shared_memory, 1)},
            "supervisor_kib": {"first": supervisor_memory, "growth": growth},
            "backing_files": {"kernel": found, "server": backing}}, indent=1))
        for failure in failures[:20]: print(failure, file=sys.stderr)
        return 1 if failures else 0
    finally:
        stop.set()
        for process in readers:
            process.join(5)
            if process.is_alive(): process.kill()
        if server is not None and server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try: server.process.wait(20)
            except subprocess.TimeoutExpired: server.process.kill()
        for place in reversed(mounts_below(directory)): subprocess.run(["umount", "-l", "-f", place], stderr=subprocess.DEVNULL)
        if registry is not None:
            registry.process.kill()
            registry.process.wait()


if __name__ == "__main__":
    sys.exit(main())
