/// Programs in Python for what must happen in a separate process: readers that may be killed, mappings that may fault.
enum Scripts {
    /// `DIR SEED NAME:MEBIBYTES,… COUNT`: large files, and small ones in directories of five hundred.
    static let generate = """
        import os, random, sys
        directory, seed, large, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
        random = random.Random(seed)
        def piece(size):
            # Five parts noise and two parts zeros in every page: compresses about 1.4:1.
            noise = random.randbytes(2926 * (size // 4096 + 1))
            return b"".join(noise[i * 2926:(i + 1) * 2926] + bytes(1170) for i in range(size // 4096 + 1))[:size]
        os.makedirs(directory)
        for name, mebibytes in (part.split(":") for part in large.split(",")):
            with open(f"{directory}/{name}", "wb") as file:
                for _ in range(int(mebibytes)): file.write(piece(1 << 20))
        for number in range(count):
            parent = f"{directory}/files/{number // 500:03}"
            if number % 500 == 0: os.makedirs(parent)
            with open(f"{parent}/{number:05}", "wb") as file: file.write(piece(random.randrange(1, 16384)))
        """

    /// `INDEX MIGRATION`: turns an index into its first version, of which MIGRATION is the SQL; its rows stay.
    static let firstVersion = """
        import os, sqlite3, sys
        index, migration = sys.argv[1:]
        database = sqlite3.connect(index + ".first")
        database.executescript(open(migration).read())
        database.execute("ATTACH ? AS latest", (index,))
        today = {"durable": "sync <= (SELECT syncs FROM latest.store)"}
        names = [name for name, in database.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")]
        for name in names:
            columns = [row[1] for row in database.execute(f"PRAGMA main.table_info({name})")]
            values = [today.get(column, column) for column in columns]
            database.execute(f"INSERT OR REPLACE INTO main.{name} ({', '.join(columns)}) "
                             f"SELECT {', '.join(values)} FROM latest.{name}")
        database.execute("UPDATE main.store SET views = NULL")
        application, = database.execute("PRAGMA latest.application_id").fetchone()
        database.commit()
        database.executescript(f"PRAGMA main.application_id = {application}; PRAGMA main.user_version = 1")
        database.close()
        for end in ("-wal", "-shm"):
            if os.path.exists(index + end): os.unlink(index + end)
        os.rename(index + ".first", index)
        """

    /// `URL`: what is scraped there, read by Prometheus' parser and checked against its conventions; a line for each sample.
    static let scrape = #"""
        import re, sys, urllib.request
        from prometheus_client.parser import text_string_to_metric_families
        with urllib.request.urlopen(sys.argv[1], timeout=20) as answer:
            kind = answer.headers["Content-Type"]
            if kind != "text/plain; version=0.0.4; charset=utf-8": sys.exit(f"Content-Type: {kind}")
            text = answer.read().decode()
        if not text.endswith("\n"): sys.exit("the last line has no end")
        families, samples = set(), {}
        for family in text_string_to_metric_families(text):
            if family.name in families: sys.exit(f"{family.name} comes twice")
            families.add(family.name)
            if family.type not in ("counter", "gauge", "histogram") or not family.documentation.endswith("."):
                sys.exit(f"{family.name}: {family.type} {family.documentation}")
            if not re.fullmatch("(lamina|process)_[a-z_]+", family.name): sys.exit(f"a name: {family.name}")
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                name = f"{sample.name}{{{labels}}}" if labels else sample.name
                if name in samples: sys.exit(f"{name} comes twice")
                samples[name] = sample.value
                if (family.type == "counter") != sample.name.endswith("_total"): sys.exit(f"{name} is a {family.type}")
            if family.type == "histogram":
                buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
                if buckets != sorted(buckets) or buckets[-1] != samples[f"{family.name}_count"]: sys.exit(f"{family.name}: {buckets}")
        if not families: sys.exit("nothing was scraped")
        for name, value in samples.items(): print(name, value)
        """#

    /// `PID NAME`: takes the pages of files of that name away from a process that has them mapped, until it ends. Their paths
    /// may be those of the mount or, for a passthrough open, those within it.
    static let pageOut = """
        import ctypes, os, struct, sys, time
        pid, ending = int(sys.argv[1]), "/" + sys.argv[2]
        process_madvise, MADV_PAGEOUT = 440, 21
        handle, libc = os.pidfd_open(pid), ctypes.CDLL(None, use_errno=True)
        def state():
            try: return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
            except (FileNotFoundError, ProcessLookupError): return "X"
        while state() not in "ZX":
            try: lines = open(f"/proc/{pid}/maps").read().splitlines()
            except (FileNotFoundError, ProcessLookupError): break
            for line in lines:
                words = line.split(maxsplit=5)
                if len(words) < 6 or not words[5].endswith(ending) or "w" in words[1]: continue
                start, end = (int(word, 16) for word in words[0].split("-"))
                place = struct.pack("QQ", start, end - start)
                if libc.syscall(process_madvise, handle, place, ctypes.c_size_t(1), MADV_PAGEOUT, 0) < 0:
                    error = ctypes.get_errno()
                    if state() not in "ZX": sys.exit(f"process_madvise: {os.strerror(error)}")
            time.sleep(0.02)
        """

    /// `DIRECTORY`: an image's files with a program that reads one of them.
    static let workload = #"""
        mkdir -p "$1/data" "$1/proc" "$1/sys" "$1/dev" "$1/etc"
        head -c 300000 /dev/urandom >"$1/data/cold"
        head -c 200000 /dev/urandom >"$1/data/hot"
        cat >"$1/program.c" <<'END'
        #include <fcntl.h>
        #include <unistd.h>
        int main(void) {
            char bytes[4096];
            int file = open("/data/hot", O_RDONLY);
            while (read(file, bytes, sizeof bytes) > 0) {}
            return 0;
        }
        END
        gcc -static -O1 -o "$1/program" "$1/program.c"
        rm "$1/program.c"
        """#

    /// `FILE`: milliseconds for the open, the first and the last 4 KiB, and the digest of both.
    static let firstAndLast = """
        import hashlib, json, os, sys, time
        start = time.monotonic()
        file = os.open(sys.argv[1], os.O_RDONLY)
        opened = time.monotonic()
        head = os.pread(file, 4096, 0)
        first = time.monotonic()
        tail = os.pread(file, 4096, os.fstat(file).st_size - 4096)
        last = time.monotonic()
        print(json.dumps({"open": 1e3 * (opened - start), "first": 1e3 * (first - opened), "last": 1e3 * (last - first),
                          "digest": hashlib.sha256(head + tail).hexdigest()}))
        """

    /// `FILE SOURCE STOP SEED`: random pages of a mapping, each compared with the source, until the file STOP is there.
    static let mappedPages = """
        import mmap, os, random, sys, time
        path, source, stop, seed = sys.argv[1:5]
        random = random.Random(seed)
        with open(path, "rb") as a, open(source, "rb") as b:
            left = mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ)
            right = mmap.mmap(b.fileno(), 0, prot=mmap.PROT_READ)
            pages = len(right) // 4096
            count = 0
            while count < 200 or not os.path.exists(stop):
                page = random.randrange(pages) * 4096
                if left[page:page + 4096] != right[page:page + 4096]: sys.exit(f"the page at {page} is wrong")
                count += 1
        print(count)
        """

    /// `FILE SOURCE COUNT`: that many processes at once; each reads a twentieth of the file, from its own place on, and some
    /// pages anywhere. Every byte is read by ten of them or more.
    static let manyReaders = """
        import os, random, sys
        path, source, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
        size = os.path.getsize(source)
        def read(number):
            chance = random.Random(number)
            a, b = os.open(path, os.O_RDONLY), os.open(source, os.O_RDONLY)
            def check(offset, length):
                while length > 0:
                    want = os.pread(b, min(length, 1 << 20), offset)
                    have = os.pread(a, len(want), offset)
                    if have != want or not want:
                        print(f"reader {number}: wrong at {offset}, {len(have)} bytes of {len(want)}", file=sys.stderr)
                        os._exit(1)
                    offset, length = offset + len(want), length - len(want)
            for _ in range(8):
                check(chance.randrange(size // 4096) * 4096, 4096)
            start = size * number // count
            length = size // 20
            check(start, min(length, size - start))
            check(0, max(0, start + length - size))
            os._exit(0)
        children = []
        for number in range(count):
            child = os.fork()
            if child == 0:
                try: read(number)
                except BaseException as error: print(f"reader {number}: {error}", file=sys.stderr)
                os._exit(2)
            children.append(child)
        sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children) != 0)
        """

    /// `FILE SOURCE`: reads and maps a whole file, compares both with the source, and prints how many bytes.
    static let readAndMap = """
        import mmap, sys
        with open(sys.argv[1], "rb") as a, open(sys.argv[2], "rb") as b:
            want = b.read()
            if a.read() != want: sys.exit("read gives other bytes")
            if mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ)[:] != want: sys.exit("the mapping has other bytes")
            print(len(want))
        """

    /// `FILE SOURCE`: keeps a file open and mapped from before its merge until after, while it is opened again and again.
    static let keptOpen = """
        import mmap, sys, time
        want = open(sys.argv[2], "rb").read()
        kept = open(sys.argv[1], "rb", buffering=0)
        if kept.read(4096) != want[:4096]: sys.exit("the first bytes are wrong")
        mapped = mmap.mmap(kept.fileno(), 0, prot=mmap.PROT_READ)
        for _ in range(10):
            with open(sys.argv[1], "rb") as again:
                if again.read() != want: sys.exit("another open gives other bytes")
            time.sleep(0.1)
        if mapped[:] != want: sys.exit("the mapping has other bytes")
        kept.seek(4096)
        if b"".join(iter(lambda: kept.read(1 << 20), b"")) != want[4096:]: sys.exit("the open file gives other bytes")
        """

    /// `MOUNT EXPECTED STOP BITS`: keeps every file open and mapped, and reads both ways again and again. At any time at most
    /// this many bits of a file may be wrong, but its size may differ; when the file STOP is there, everything must be right.
    static let heldReaders = """
        import mmap, os, sys, time
        mount, expected, stop, most = sys.argv[1:4] + [int(sys.argv[4])]
        held = []
        for name in sorted(os.listdir(expected)):
            want = open(f"{expected}/{name}", "rb").read()
            file = open(f"{mount}/{name}", "rb", buffering=0)
            held.append((name, want, file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)))
        print("open", flush=True)
        def check(name, have, want, most):
            bits = (int.from_bytes(have, "little") ^ int.from_bytes(want, "little")).bit_count()
            if bits > most: sys.exit(f"{name}: {bits} bits are wrong")
        while True:
            is_last = os.path.exists(stop)
            for name, want, file, mapped in held:
                read = os.pread(file.fileno(), len(want) + 1, 0)
                if is_last and len(read) != len(want): sys.exit(f"{name}: {len(read)} bytes of {len(want)}")
                if len(read) == len(want): check(name, read, want, 0 if is_last else most)
                # A mapping of a file that was cut is no memory.
                if is_last or most == 1: check(name, mapped[:], want, 0 if is_last else most)
            if is_last: break
            time.sleep(0.002)
        """

    /// Reduces a description by tree.py to what eStargz can keep: `seconds` cuts times to whole ones, `no-directory-times`
    /// leaves out those of directories.
    static let normalize = """
        import json, sys
        for line in open(sys.argv[1]):
            entry = json.loads(line)
            if "seconds" in sys.argv[2:]: entry["mtime"] = entry["mtime"] // 10**9 * 10**9
            if "no-directory-times" in sys.argv[2:] and entry["type"] == "dir": del entry["mtime"]
            print(json.dumps(entry, sort_keys=True))
        """

    /// A service that sends messages to its manager, started three times; writes what it finds to `told` beside it.
    static let service = #"""
        #!/usr/bin/env python3
        import array, os, signal, socket, sys, time
        told = open(os.path.dirname(os.path.abspath(__file__)) + "/told", "a+", buffering=1)
        told.seek(0)
        turn = 1 + len({line[0] for line in told})
        def tell(text): told.write(f"{turn}: {text}\n")
        address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
        def notify(text, *descriptors):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
                sender.sendmsg([text.encode()], rights, 0, address)
        def barrier():
            reading, writing = os.pipe()
            notify("BARRIER=1", writing)
            os.close(writing)
            if os.read(reading, 1): sys.exit("the barrier says something")
        def file(text):
            descriptor = os.memfd_create("test")
            os.write(descriptor, text.encode())
            return descriptor
        count = int(os.environ.get("LISTEN_FDS", "0"))
        if count and int(os.environ["LISTEN_PID"]) != os.getpid(): sys.exit("LISTEN_PID is another's")
        tell(f"held {os.environ['LISTEN_FDNAMES']}" if count else "nothing held")
        if int(os.environ["WATCHDOG_USEC"]) != 2_000_000: sys.exit("another WATCHDOG_USEC")
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, signal.SIGINT])
        if turn == 1:
            # Nobody else may speak for the service.
            if os.fork() == 0:
                notify("FDSTORE=1\nFDNAME=foreign", file("x"))
                os._exit(0)
            os.wait()
            notify("FDSTORE=1\nFDNAME=a\nFDPOLL=0", file("a"))
            notify("FDSTORE=1\nFDNAME=b", file("b"))
            notify("FDSTORE=1\nFDNAME=twice", file("twice"))
            notify("FDSTORE=1\nFDNAME=twice", file("twice2"))
            notify("FDSTOREREMOVE=1\nFDNAME=a")
            notify("READY=1\nSTATUS=here\nMAINPID=1")
            barrier()
            tell("the barrier is passed")
            os.kill(os.getppid(), signal.SIGHUP)
            if signal.sigtimedwait([signal.SIGHUP], 10): tell("SIGHUP came")
            os.kill(os.getpid(), signal.SIGKILL)
        if turn == 2:
            tell("contents " + " ".join(os.pread(3 + number, 100, 0).decode() for number in range(count)))
            if 0 < time.clock_gettime(time.CLOCK_MONOTONIC) - float(os.environ["LAMINA_PREDECESSOR_ENDED"]) < 30:
                tell("predecessor's end is told")
            notify("FDSTOREREMOVE=1\nFDNAME=twice")
            notify("READY=1")
            # Signs of life for longer than the watchdog waits, then none.
            for _ in range(10):
                time.sleep(0.3)
                notify("WATCHDOG=1")
            open(told.name + ".silent", "w").write(str(time.monotonic()))
            time.sleep(60)
        if turn == 3:
            silence = time.monotonic() - float(open(told.name + ".silent").read())
            if 1 < silence < 20: tell("was killed by the watchdog before")
            notify("READY=1")
            barrier()
            os.kill(os.getppid(), signal.SIGTERM)
            if signal.sigtimedwait([signal.SIGINT], 10): tell("SIGINT came")
            notify("STOPPING=1")
            time.sleep(1.5)
            sys.exit(7)
        """#

    /// A service that is ready the first and the last time, and dies before that in between: late, at once, and with a sign of
    /// life.
    static let dyingService = #"""
        #!/usr/bin/env python3
        import array, os, signal, socket, sys, time
        with open(os.path.dirname(os.path.abspath(__file__)) + "/turns", "a+") as turns:
            turns.write(".")
            turns.flush()
            turn = os.fstat(turns.fileno()).st_size
        def notify(text, *descriptors):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
                sender.sendmsg([text.encode()], rights, 0, os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
        if turn == 1: notify("FDSTORE=1\nFDNAME=a\nREADY=1", os.memfd_create("test"))
        if 2 <= turn <= 5: time.sleep(0.5)
        if turn == 9: notify("WATCHDOG=1")
        if turn == 10:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            notify("READY=1")
            os.kill(os.getppid(), signal.SIGTERM)
            signal.sigtimedwait([signal.SIGINT], 10)
            sys.exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        """#

    /// `LAMINA ROOT MOUNT IMAGE`: a manager of the server, like systemd.
    static let manager = #"""
        import os, select, signal, socket, struct, subprocess, sys, time
        lamina, root, mount, image = sys.argv[1:]
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        name = f"lamina-test-manager-{os.getpid()}"
        listener.bind("\0" + name)
        held, server = {}, None

        def start(extra=()):
            global server
            pid = os.fork()
            if pid == 0:
                # As systemd does it: descriptors from 3 on, LISTEN_PID the process's own.
                import fcntl
                copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in held.values()]
                for number, copy in enumerate(copies): os.dup2(copy, 3 + number)
                for number in range(3 + len(copies), 200):
                    try: os.close(number)
                    except OSError: pass
                environment = dict(os.environ, NOTIFY_SOCKET="@" + name, FDSTORE="8", WATCHDOG_USEC="900000", WATCHDOG_PID=str(os.getpid()))
                if held:
                    environment.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(held)), LISTEN_FDNAMES=":".join(held))
                os.execve(lamina, [lamina, "serve", "--root", root, *extra], environment)
            server = pid

        def messages(until, seconds=30):
            """Takes messages until one has an assignment; all of them."""
            seen, end = [], time.monotonic() + seconds
            while time.monotonic() < end:
                if not select.select([listener], [], [], 0.1)[0]: continue
                data, rights, _, _ = receive()
                fields = dict(line.split("=", 1) for line in data.decode().split("\n"))
                seen.append(fields)
                if fields.get("FDSTOREREMOVE") == "1":
                    held.pop(fields["FDNAME"], None)
                if fields.get("FDSTORE") == "1":
                    assert len(rights) == 1 and fields["FDPOLL"] == "0", fields
                    held[fields["FDNAME"]] = rights[0]
                else:
                    for descriptor in rights: os.close(descriptor)
                if any(f"{key}={value}" == until for key, value in fields.items()): return seen
            sys.exit(f"no {until} after {seconds} s; there was {seen}")

        def receive():
            data, ancillary, flags, _ = listener.recvmsg(4096, 1024)
            rights = []
            for level, kind, content in ancillary:
                if kind == socket.SCM_RIGHTS: rights = list(struct.unpack(f"{len(content) // 4}i", content))
                if kind == socket.SCM_CREDENTIALS:
                    assert struct.unpack("3i", content)[0] == server, "a message of another process"
            return data, rights, flags, None

        def ended(seconds=20):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pid, status = os.waitpid(server, os.WNOHANG)
                if pid:
                    # What it said last is no word of the next one.
                    while select.select([listener], [], [], 0)[0]:
                        for descriptor in receive()[1]: os.close(descriptor)
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.01)
            sys.exit("the server does not end")

        try:
            start()
            first = messages("READY=1")
            assert [m["STATUS"] for m in first if "STATUS" in m][0] == "opening the store", first
            assert first[-1]["MAINPID"] == str(server), first
            assert sorted(held) == ["lamina-control", "lamina-fuse", "lamina-opens"], held
            assert os.readlink(f"/proc/self/fd/{held['lamina-fuse']}") == "/dev/fuse"
            assert any("BARRIER" in m for m in first), "nobody waited until the descriptors were here"
            subprocess.run([lamina, "mount", image, mount, "--root", root], check=True, stdout=subprocess.DEVNULL)
            want = open(f"{mount}/etc/hello", "rb").read()
            for _ in range(4): messages("WATCHDOG=1", 5)
            # A restart leaves the mounts.
            kept = open(f"{mount}/etc/hello", "rb")
            os.kill(server, signal.SIGTERM)
            stopping = messages("STOPPING=1")
            assert not any("FDSTOREREMOVE" in m for m in stopping), stopping
            assert ended() == 0
            assert os.path.ismount(mount)
            # Who asks now waits for the next server.
            waiting = subprocess.Popen([lamina, "status", "--json", "--root", root], stdout=subprocess.PIPE)
            looking = subprocess.Popen(["cat", f"{mount}/etc/hello"], stdout=subprocess.PIPE)
            time.sleep(0.5)
            start()
            assert not any("FDSTORE" in m for m in messages("READY=1")), "what is held need not be given again"
            assert waiting.communicate(timeout=20)[0] and waiting.returncode == 0
            assert looking.communicate(timeout=20)[0] == want
            assert kept.read() == want
            os.kill(server, signal.SIGKILL)
            ended()
            start()
            messages("READY=1")
            # One that hangs says nothing more.
            messages("WATCHDOG=1", 5)
            os.kill(server, signal.SIGSTOP)
            while select.select([listener], [], [], 0.3)[0]: receive()
            assert not select.select([listener], [], [], 1.5)[0], "a stopped server says that it is alive"
            os.kill(server, signal.SIGKILL)
            ended()
            kept.close()
            # The end of the mounts is asked for.
            start(["--unmount-on-exit"])
            messages("READY=1")
            os.kill(server, signal.SIGTERM)
            messages("FDNAME=lamina-control")
            assert ended() == 0 and not held, held
            assert not os.path.ismount(mount) and not os.path.ismount(f"{root}/fs")
        finally:
            if server:
                try: os.kill(server, signal.SIGKILL)
                except ProcessLookupError: pass
        """#
}
