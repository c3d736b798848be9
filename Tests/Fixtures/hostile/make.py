#!/usr/bin/env python3
"""Makes the hostile layers beside this file, and cases.json, which says what is to come of each. Always the same bytes.

    make.py              the corpus
    make.py --large DIR  the layers that are too large to keep: ten million entries, a table of contents of 10 GiB
"""
import gzip, hashlib, json, os, sys, tarfile, zlib

HERE = os.path.dirname(os.path.abspath(__file__))
cases = []

def gz(data): return gzip.compress(data, 6, mtime=0)
def sha(data): return "sha256:" + hashlib.sha256(data).hexdigest()
def header(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)
def footer(offset, text=None):
    text = text or b"%016x" % offset
    return bytes.fromhex("1f8b08040000000000ff1a0053471600") + text + b"STARGZ" + bytes.fromhex("010000ffff") + bytes(8)

PAYLOAD = b"lamina" * 100
MEMBER = gz(PAYLOAD)
def reg(name, **more):
    entry = {"name": name, "type": "reg", "size": len(PAYLOAD), "mode": 0o644, "offset": 0, "digest": sha(PAYLOAD), "chunkDigest": sha(PAYLOAD)}
    entry.update(more)
    return {key: value for key, value in entry.items() if value is not None}

def save(name, blob, outcome, words=(), toc=None, paths=()):
    """outcome: refused (words are in the message), mounted (paths is all that it shows), or unreadable (that, but no bytes)."""
    with open(f"{HERE}/{name}.blob", "wb") as file: file.write(blob)
    cases.append({"name": name, "outcome": outcome, "words": list(words), "paths": list(paths), **({"toc": toc} if toc else {})})

def layer(name, entries, outcome, words=(), paths=(), member=MEMBER, text=None):
    toc = text if text is not None else json.dumps({"version": 1, "entries": entries}).encode()
    tail = gz(header("stargz.index.json", len(toc)) + toc + bytes(-len(toc) % 512 + 1024))
    save(name, member + tail + footer(len(member)), outcome, words, sha(toc), paths)

def corpus():
    # Names.
    layer("name-climbs", [reg("../../../etc/evil"), reg("a/../../b")], "mounted", paths=["b", "etc/evil"])
    layer("name-absolute", [reg("/etc/evil"), reg("//x///y")], "mounted", paths=["etc/evil", "x/y"])
    layer("name-empty", [reg("")], "mounted")
    layer("name-nul", [], "refused", ["NUL"], text=b'{"version":1,"entries":[{"name":"a\\u0000b","type":"reg"}]}')
    layer("name-4k", [reg("/".join(["n" * 255] * 17))], "refused", ["too long"])
    layer("name-256", [reg("n" * 256)], "refused", ["too long"])
    layer("name-dots", [reg("a/./.././..")], "mounted")
    # Links.
    layer("link-nowhere", [{"name": "evil", "type": "hardlink", "linkName": "nowhere"}], "refused", ["evil", "nowhere"])
    layer("link-ring", [{"name": "e1", "type": "hardlink", "linkName": "e2"}, {"name": "e2", "type": "hardlink", "linkName": "e1"}], "refused", ["itself"])
    layer("link-self", [{"name": "e1", "type": "hardlink", "linkName": "e1"}], "refused", ["e1"])
    layer("link-directory", [{"name": "d", "type": "dir"}, {"name": "evil", "type": "hardlink", "linkName": "d"}], "refused", ["evil"])
    layer("link-climbs", [{"name": "evil", "type": "hardlink", "linkName": "../../../../etc/passwd"}], "refused", ["evil"])
    layer("symlink-climbs", [{"name": "s", "type": "symlink", "linkName": "../../../../etc/passwd"}], "mounted", paths=["s"])
    layer("symlink-parent", [{"name": "s", "type": "symlink", "linkName": "/etc"}, reg("s/evil")], "mounted", paths=["etc/evil", "s"])
    layer("file-parent", [reg("first"), reg("first/evil")], "refused", ["first"])
    layer("whiteout-nothing", [reg(".wh.")], "refused", ["whiteout"])
    # Chunks.
    two = lambda **second: [reg("f", size=1200, chunkSize=600, chunkOffset=0), {"name": "f", "type": "chunk", "offset": 0, "chunkOffset": 600, "chunkSize": 600, "chunkDigest": sha(PAYLOAD), **second}]
    layer("chunk-duplicate", two(chunkOffset=0), "refused", ["f"])
    layer("chunk-overlaps", two(chunkOffset=500, chunkSize=700), "refused", ["overlap"])
    layer("chunk-gap", two(chunkOffset=700, chunkSize=500), "refused", ["gap"])
    layer("chunk-2-62", two(chunkSize=1 << 62), "refused", [str(1 << 62)])
    layer("chunk-alone", [{"name": "f", "type": "chunk", "offset": 0, "chunkOffset": 0, "chunkSize": 1}], "refused", ["chunk"])
    layer("size-2-62", [reg("f", size=1 << 62)], "refused", ["f"])
    layer("size-overflows", [reg("f", size=(1 << 63) - 1, chunkOffset=(1 << 63) - 6, chunkSize=100)], "refused", ["f"])
    layer("size-2-64", [], "refused", ["byte"], text=b'{"version":1,"entries":[{"name":"f","type":"reg","size":18446744073709551616}]}')
    layer("size-negative", [reg("f", size=-1)], "refused", ["-1"])
    layer("offset-beyond", [reg("f", offset=1 << 40)], "refused", [str(1 << 40)])
    layer("offset-negative", [reg("f", offset=-1)], "refused", ["-1"])
    layer("inner-2-62", [reg("f", innerOffset=1 << 62)], "refused", ["f"])
    # Attributes and devices.
    layer("xattrs-many", [reg("f", xattrs={f"user.{n}": "QUJD" for n in range(20000)})], "mounted", paths=["f"])
    layer("xattr-huge", [reg("f", xattrs={"user.a": "QUJD" * 40000})], "refused", ["f"])
    layer("xattr-overlay", [reg("f", xattrs={"trusted.overlay.redirect": "L2V0Yw==", "security.capability": "AA=="})], "mounted", paths=["f"])
    layer("devices", [{"name": "null", "type": "char", "devMajor": 1, "devMinor": 3, "mode": 438}, {"name": "disk", "type": "block", "devMajor": 8, "mode": 438}], "mounted", paths=["disk", "null"])
    layer("device-huge", [{"name": "evil", "type": "char", "devMajor": 1 << 40}], "refused", ["evil"])
    # Digests.
    layer("digest-malformed", [reg("f", chunkDigest="sha256:zz")], "refused", ["sha256:zz"])
    layer("digest-contradicts", [reg("f", digest=sha(b"other"))], "refused", ["f"])
    layer("digest-false", [reg("f", digest=sha(b"other"), chunkDigest=sha(b"other"))], "unreadable", paths=["f"])
    # JSON.
    layer("json-cut", [], "refused", ["byte"], text=b'{"version":1,"entries":[{"name":"f"')
    layer("json-deep", [], "refused", ["byte"], text=b'{"x":' + b"[" * 1000000)
    layer("json-empty", [], "refused", text=b"")
    layer("json-twice", [], "refused", ["twice"], text=b'{"entries":[],"entries":[]}')
    # Members.
    layer("member-endless", [reg("f", digest=sha(b"endless"), chunkDigest=sha(b"endless"))], "unreadable", paths=["f"], member=gz(bytes(300 << 20)))
    layer("member-early", [reg("f", size=60000, digest=sha(b"x"), chunkDigest=sha(b"x"))], "unreadable", paths=["f"])
    layer("member-none", [reg("f", digest=sha(b"none"), chunkDigest=sha(b"none"))], "unreadable", paths=["f"], member=b"no gzip at all")
    # Footers.
    toc = json.dumps({"version": 1, "entries": [reg("f")]}).encode()
    tail = gz(header("stargz.index.json", len(toc)) + toc + bytes(-len(toc) % 512 + 1024))
    body = MEMBER + tail
    good = footer(len(MEMBER))
    for cut in range(1, len(good)):
        cases_name = f"footer-cut-{cut:02}"
        save(cases_name, body + good[:-cut], "refused", toc=sha(toc))
    save("footer-outside", body + footer(1 << 40), "refused", ["footer"], sha(toc))
    save("footer-huge", body + footer((1 << 63) - 1), "refused", ["footer"], sha(toc))
    save("footer-2-64", body + footer(0, b"f" * 16), "refused", toc=sha(toc))
    save("footer-letters", body + footer(0, b"z" * 16), "refused", ["not a number"], sha(toc))
    save("footer-lies", body + footer(3), "refused", toc=sha(toc))
    save("footer-itself", body + footer(len(body)), "refused", toc=sha(toc))
    save("footer-alone", good, "refused", toc=sha(toc))
    save("toc-promises-8-gib", MEMBER + gz(header("stargz.index.json", (8 << 30) - 1) + toc) + good, "refused", [str((8 << 30) - 1)], sha(toc))
    save("toc-other", body + good, "refused", [sha(b"other")], sha(b"other"))
    bomb = b" " * (64 << 20)
    save("toc-bomb", MEMBER + gz(header("stargz.index.json", len(bomb)) + bomb + bytes(1024)) + good, "refused", [str(64 << 20)], sha(bomb))
    with open(HERE + "/cases.json", "w") as file: json.dump(cases, file, indent=0, sort_keys=True)

def stream(directory, name, pieces, size, digest, times=1):
    """A layer whose table of contents comes piece by piece, all of it so many times; written as it is made."""
    # Blocks that need nothing of what is before them can be repeated; nobody comes to the wrong CRC at the end.
    squeeze = zlib.compressobj(9 if times > 1 else 1, zlib.DEFLATED, -15)
    with open(f"{directory}/{name}.blob", "wb") as file:
        file.write(MEMBER + bytes.fromhex("1f8b08000000000000ff"))
        # Twelve octal digits, which is one more than tarfile writes: up to 64 GiB.
        first = bytearray(header("stargz.index.json", 0))
        first[124:136] = b"%012o" % size
        first[148:156] = b" " * 8
        first[148:156] = b"%06o\0 " % sum(first)
        file.write(squeeze.compress(bytes(first)) + squeeze.flush(zlib.Z_FULL_FLUSH))
        block = b"".join(squeeze.compress(piece) for piece in pieces) + squeeze.flush(zlib.Z_FULL_FLUSH)
        for _ in range(times): file.write(block)
        file.write(squeeze.flush() + bytes(8) + footer(len(MEMBER)))
    cases.append({"name": name, "outcome": "refused", "words": [], "paths": [], "toc": digest})

def large(directory):
    os.makedirs(directory, exist_ok=True)
    # 153 blocks of 65,536 directories: 10,027,008 names that are all different.
    block = b"".join(b'{"type":"dir","name":"@@%04x"},' % n for n in range(65536))
    def entries():
        yield b'{"entries":['
        for n in range(153):
            piece = block.replace(b"@@", b"%02x" % n)
            yield piece if n < 152 else piece[:-1]
        yield b"]}"
    sizes, hash = 0, hashlib.sha256()
    for piece in entries():
        sizes += len(piece)
        hash.update(piece)
    stream(directory, "entries-ten-million", entries(), sizes, "sha256:" + hash.hexdigest())
    # 10 GiB of blanks in about 10 MiB.
    stream(directory, "toc-10-gib", [b" " * (64 << 20)], 10 << 30, sha(b"blanks"), times=160)
    with open(directory + "/cases.json", "w") as file: json.dump(cases, file)

large(sys.argv[2]) if sys.argv[1:2] == ["--large"] else corpus()
