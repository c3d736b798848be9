/// Programs in Python for what has to happen in a process of its own: readers that may be killed, mappings that may fault.
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

    /// `FILE SOURCE`: reads and maps a whole file, compares both with the source, and says how many bytes.
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

    /// Makes a description by tree.py one that eStargz can keep: `seconds` cuts times to whole ones, `no-directory-times` leaves
    /// those of directories out.
    static let normalize = """
        import json, sys
        for line in open(sys.argv[1]):
            entry = json.loads(line)
            if "seconds" in sys.argv[2:]: entry["mtime"] = entry["mtime"] // 10**9 * 10**9
            if "no-directory-times" in sys.argv[2:] and entry["type"] == "dir": del entry["mtime"]
            print(json.dumps(entry, sort_keys=True))
        """
}
