"""Odd layers: tars as their many writers make them, and as nobody should, from a seed. What they unpack to is for others to say."""
import gzip, io, random, struct, subprocess, zlib

ZEROS = bytes(512)
TIME = 1_400_000_000


def field(block, start, width, value):
    """An octal number, or a base-256 one where that does not fit."""
    digits = b"%0*o" % (width - 1, value) if value >= 0 else None
    if digits is not None and len(digits) < width:
        block[start:start + width] = digits + b"\0"
    else:
        block[start:start + width] = (value & ((1 << (8 * width)) - 1)).to_bytes(width, "big")
        block[start] |= 0x80


def header(name, kind, size=0, mode=0o644, uid=0, gid=0, mtime=TIME, link=b"", magic=b"ustar\x0000", prefix=b"", device=(0, 0), owner=b""):
    block = bytearray(512)
    block[0:len(name[:100])] = name[:100]
    for start, width, value in ((100, 8, mode), (108, 8, uid), (116, 8, gid), (124, 12, size), (136, 12, mtime)):
        field(block, start, width, value)
    block[156:157] = kind
    block[157:157 + len(link[:100])] = link[:100]
    if magic:
        block[257:257 + len(magic)] = magic
        block[265:265 + len(owner)] = owner
        field(block, 329, 8, device[0])
        field(block, 337, 8, device[1])
        if magic.startswith(b"ustar\0"): block[345:345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data): return data + bytes(-len(data) % 512)


def record(key, value):
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length: length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


class OddLayer:
    """One layer: its tar, how it is compressed, and what about it a record explains."""

    def __init__(self, seed, is_lowest):
        self.random = random.Random(seed)
        self.is_lowest = is_lowest
        self.tar = b""
        self.features = set()
        self.files, self.directories, self.names = [], [b""], []
        self.words = []
        pick = self.random
        if pick.random() < 0.1: self.global_header()
        if pick.random() < 0.3: self.entry(b"./", b"5", mode=pick.choice([0o755, 0o700, 0o1777]), uid=pick.choice([0, 7])); self.features.add("root")
        if is_lowest and pick.random() < 0.3: self.opaque(pick.choice([b"q", b""]))
        for _ in range(pick.choice([0, 1, 3, 8, 12, 20])): self.any_entry()
        self.end()

    # What an entry is called.

    def component(self):
        pick = self.random
        if pick.random() < 0.04: return pick.choice([b"n" * 101, b"m" * 255, b"\xff\xfe", "\u00e9\u65e5".encode(), b" ", b"..x", b"...", b".wh", b"a\\b", b"tab\there"])
        return pick.choice([b"a", b"b", b"c", b"d", b"e", b"x", b"lib", b"usr", b"bin"])

    def path(self):
        pick = self.random
        parent = pick.choice(self.directories)
        if pick.random() < 0.3:
            for _ in range(pick.choice([1, 1, 2, 4])): parent = parent + b"/" + self.component() if parent else self.component()
        name = self.component()
        return parent + b"/" + name if parent else name

    def decorated(self, path):
        pick = self.random
        odd = pick.random()
        if odd < 0.5: return path
        if odd < 0.7: return b"./" + path
        if odd < 0.78: return b"/" + path
        if odd < 0.84: return path.replace(b"/", b"//")
        if odd < 0.88: return b"../" + path
        if odd < 0.92: return b"zz/../" + path
        if odd < 0.96: return path.replace(b"/", b"/./")
        return b"./././" + path

    # Entries.

    def entry(self, name, kind, data=b"", link=b"", mode=0o644, uid=0, gid=0, mtime=TIME, device=(0, 0), xattrs=(), nanoseconds=0, exact=False):
        pick = self.random
        style = pick.choice(["ustar", "gnu", "pax", "v7" if kind in (b"0", b"1", b"2") else "ustar"])
        out, records, short, prefix, magic = b"", [], name, b"", b"ustar\x0000"
        if xattrs or nanoseconds or mtime < 0: style = "pax"
        if style == "v7":
            magic = b""
            if len(name) > 100 or len(link) > 100: style = "gnu"
            elif kind == b"0": kind = b"\0"
        if style == "gnu":
            magic = b"ustar  \0"
            if len(name) > 100 or pick.random() < 0.1: out += header(b"././@LongLink", b"L", len(name) + 1, magic=magic) + padded(name + b"\0")
            if link and (len(link) > 100 or pick.random() < 0.1): out += header(b"././@LongLink", b"K", len(link) + 1, magic=magic) + padded(link + b"\0")
        elif style == "ustar" and len(name) > 100:
            cut = name.rfind(b"/", 0, 156)
            if 0 < cut and len(name) - cut - 1 <= 100 and cut <= 155 and cut + 1 < len(name): prefix, short = name[:cut], name[cut + 1:]
            else: style = "pax"
        if style == "ustar" and len(link) > 100: style = "pax"
        if style == "pax":
            if prefix: prefix, short = b"", name
            if len(name) > 100 or pick.random() < 0.3: records.append(record(b"path", name))
            if link and (len(link) > 100 or pick.random() < 0.3): records.append(record(b"linkpath", link))
            if nanoseconds or mtime < 0 or pick.random() < 0.3:
                whole, part = (mtime, nanoseconds) if mtime >= 0 or not nanoseconds else (mtime + 1, 10**9 - nanoseconds)
                text = b"%d" % whole + (b".%09d" % part).rstrip(b"0") if part else b"%d" % whole
                records.append(record(b"mtime", text))
            if pick.random() < 0.2: records += [record(b"uid", b"%d" % uid), record(b"gid", b"%d" % gid)]
            if pick.random() < 0.1: records.append(record(b"comment", b"what \xff ever=\n"))
            if pick.random() < 0.1: records.append(record(b"uname", "\u00fc".encode()))
            for key, value in xattrs: records.append(record(b"SCHILY.xattr." + key, value))
            data_of = b"".join(records)
            if records: out += header(b"PaxHeaders/x", b"x", len(data_of)) + padded(data_of)
        size = len(data) if kind in (b"0", b"\0", b"7") else 0
        stored = size
        # Links and directories that say a size have no bytes all the same.
        if kind in (b"1", b"2", b"5", b"6") and pick.random() < 0.05 and style != "v7": stored = 0
        self.tar += out + header(short, kind, stored, mode, uid, gid, max(mtime, 0) if style == "pax" else mtime, link, magic, prefix, device, pick.choice([b"", b"root"]) if magic else b"")
        self.last_size = size
        if size: self.tar += padded(data)
        self.words.append((kind, name, link))

    def attributes(self, is_directory=False):
        pick = self.random
        result = {"mode": pick.choice([0o755, 0o700, 0o1777] if is_directory else [0o644, 0o600, 0o4755, 0o2755, 0o444, 0]),
                  "uid": pick.choice([0, 0, 1000, 65534, 3_000_000]), "gid": pick.choice([0, 0, 50, 4_000_000]),
                  "mtime": pick.choice([TIME, TIME, 0, 1, 2**31 + 5, -5]), "nanoseconds": pick.choice([0, 0, 0, 123456789, 500_000_000])}
        if pick.random() < 0.1: result["xattrs"] = [(pick.choice([b"user.a", b"user.b", b"trusted.t", b"user.\xff"]), pick.choice([b"", b"v", b"\0=\n\xff"]))]
        return result

    def any_entry(self):
        pick = self.random
        chance = pick.random()
        if chance < 0.34: self.file()
        elif chance < 0.54: self.directory()
        elif chance < 0.68: self.symbolic_link()
        elif chance < 0.78: self.hard_link()
        elif chance < 0.90: self.whiteout()
        elif chance < 0.93: self.entry(self.decorated(self.path()), b"6", **self.attributes())
        elif chance < 0.95: self.entry(self.decorated(self.path()), pick.choice([b"3", b"4"]), device=(pick.choice([1, 8, 300]), pick.choice([0, 3, 70000])), **self.attributes())
        elif chance < 0.96: self.pseudo_link()
        elif chance < 0.97: self.entry(pick.choice([b"", b".", b"/", b"a/..", b"../.."]), pick.choice([b"0", b"2"]), link=b"x"); self.features.add("root")
        elif chance < 0.98: self.sparse()
        elif chance < 0.99: self.entry(self.path() + b"/.wh.n/" + self.component(), b"0", b"below")
        else: self.entry(self.path(), pick.choice([b"7", b"Z", b"D"]), b"")

    def file(self):
        pick = self.random
        path = pick.choice(self.files)[0] if self.files and pick.random() < 0.1 else self.path()
        data = pick.choice([b"", b"x", b"hello\n", bytes(512), bytes(range(256)) * 3, b"z" * 5000, pick.randbytes(3000)])
        attributes = self.attributes()
        self.entry(self.decorated(path), b"0", data, **attributes)
        self.files.append((path, attributes))

    def directory(self):
        path = self.path()
        self.entry(self.decorated(path) + self.random.choice([b"/", b"/", b"", b"//"]), b"5", **self.attributes(True))
        self.directories.append(path)

    def symbolic_link(self):
        pick = self.random
        path = self.path()
        target = pick.choice([b"a", b"usr/lib", b"/usr/lib", b"../d", b"../../e/", b"nowhere", b"/", b".", b"x" * 150, b"\xfe", b"b/../c", pick.choice(self.directories) or b"d"])
        self.entry(self.decorated(path), b"2", link=target, **{**self.attributes(), "mode": 0o777})
        # What follows may go through it.
        if pick.random() < 0.6: self.directories.append(path)

    def hard_link(self):
        pick = self.random
        if not self.files or pick.random() < 0.03: return self.entry(self.path(), b"1", link=b"not/there")
        target, _ = pick.choice(self.files[-3:])
        own = dict(self.files)[target]
        # As a rule a link says of its file what the file says of itself.
        if pick.random() < 0.05: own = self.attributes(); self.features.add("hard link")
        name = self.path()
        if self.decorated(name) == target: return
        self.entry(self.decorated(name), b"1", link=self.decorated(target), **own)

    def whiteout(self):
        pick = self.random
        parent = pick.choice(self.directories)
        if pick.random() < 0.25: return None if self.is_lowest else self.opaque(parent)
        # In the lowest layer only of what is not there: what is would be taken away.
        name = pick.choice([b"gone", b"gone2"]) if self.is_lowest or pick.random() < 0.5 else self.component()
        path = (parent + b"/" if parent else b"") + b".wh." + name
        self.entry(self.decorated(path), b"0", mode=0, uid=pick.choice([0, 9]))
        self.features.add("whiteout")

    def opaque(self, parent):
        self.entry((parent + b"/" if parent else b"") + b".wh..wh..opq", b"0")

    def pseudo_link(self):
        self.entry(b".wh..wh.plnk/1.2", b"0", b"aufs", mode=0o644)
        self.entry(self.path(), b"1", link=b".wh..wh.plnk/1.2", mode=0o644)
        self.features.add("aufs")

    def sparse(self):
        """GNU's own format: two pieces of a file."""
        pick = self.random
        path = self.path()
        block = bytearray(header(path[:100], b"S", 1024, magic=b"ustar  \0"))
        for index, value in enumerate([4096, 512, 65536, 512]): block[386 + 12 * index:398 + 12 * index] = b"%011o\0" % value
        block[483:495] = b"%011o\0" % 70000
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        self.tar += bytes(block) + pick.randbytes(1024)
        self.words.append((b"S", path[:100], b""))

    def global_header(self):
        data = record(b"comment", b"of git archive")
        self.tar += header(b"pax_global_header", b"g", len(data)) + padded(data)

    def end(self):
        pick = self.random
        how = pick.random()
        if how < 0.6: self.tar += ZEROS * 2
        elif how < 0.7: self.tar += ZEROS * 20
        elif how < 0.75: self.tar += ZEROS
        elif how < 0.8: self.tar += ZEROS * 2 + pick.randbytes(700)
        elif how < 0.9 and self.words and self.words[-1][0] in (b"0", b"\0") and self.last_size % 512:
            self.tar = self.tar[:len(self.tar) - (-self.last_size % 512)]

    def blob(self):
        """The layer as a blob, and its media type's end."""
        pick = self.random
        how = pick.choice(["tar", "gzip", "gzip", "members", "behind", "zstd", "frames"])
        if how == "tar" or not self.tar: return self.tar, ""
        half = pick.randrange(len(self.tar))
        if how == "gzip": return gzip.compress(self.tar, 1, mtime=0), "+gzip"
        if how == "members": return gzip.compress(self.tar[:half], 1, mtime=0) + gzip.compress(self.tar[half:], 9, mtime=0), "+gzip"
        if how == "behind": return gzip.compress(self.tar, 1, mtime=0) + pick.choice([b"\0", bytes(999), b"garbage"]), "+gzip"
        pieces = [self.tar] if how == "zstd" else [self.tar[:half], self.tar[half:]]
        return b"".join(subprocess.run(["zstd", "-q", "-3", "-c"], input=piece, capture_output=True, check=True).stdout for piece in pieces), "+zstd"
