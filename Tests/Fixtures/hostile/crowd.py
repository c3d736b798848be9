#!/usr/bin/env python3
"""Makes an OCI layout with an image whose tables of contents are as large as they may be.

    crowd.py LAYOUT KIND LAYERS ENTRIES

KIND: what each layer has ENTRIES of:
    directories, files (each with a digest of its own), chunks (of one file), names (of 200 bytes), targets (of links, 4,000 bytes each),
    attributes (of 60,000 bytes each), implied (directories that only paths name), deep (files whose bytes lie up to 1 GiB deep in one
    member), both (files, and a hundred of them deep), behind (files behind 150 MiB of noise in a member each)
"""
import hashlib, json, os, sys, tarfile, zlib

layout, kind, layers, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
GIB = 1 << 30
os.makedirs(layout + "/blobs/sha256")

def put(path_or_bytes, media_type):
    if isinstance(path_or_bytes, str):
        with open(path_or_bytes, "rb") as file: name = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.path.getsize(path_or_bytes)
        os.rename(path_or_bytes, f"{layout}/blobs/sha256/{name}")
    else:
        name, size = hashlib.sha256(path_or_bytes).hexdigest(), len(path_or_bytes)
        with open(f"{layout}/blobs/sha256/{name}", "wb") as file: file.write(path_or_bytes)
    return {"mediaType": media_type, "digest": "sha256:" + name, "size": size}

def gz(data): return zlib_gz([data])
def zlib_gz(pieces, level=1):
    squeeze = zlib.compressobj(level, zlib.DEFLATED, 31)
    return b"".join(squeeze.compress(piece) for piece in pieces) + squeeze.flush()
def footer(offset): return bytes.fromhex("1f8b08040000000000ff1a0053471600") + b"%016xSTARGZ" % offset + bytes.fromhex("010000ffff") + bytes(8)
def header(size):
    info = tarfile.TarInfo("stargz.index.json")
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)

PAYLOAD = b"lamina" * 100
SHA = b"sha256:" + hashlib.sha256(PAYLOAD).hexdigest().encode()
DEEP = {}

def deep(n):
    """A file of 600 bytes of zeros, this far into a member of 1 GiB of zeros."""
    zeros = b"sha256:" + hashlib.sha256(bytes(600)).hexdigest().encode()
    return b'{"type":"reg","name":"@@deep%04x","size":600,"offset":%d,"innerOffset":%d,"digest":"%s"},' % (
        n, DEEP["offset"], GIB - 600 * (n + 1), zeros)

def entries():
    """Of a layer: @@ is its number."""
    if kind in ("directories", "implied"):
        shape = {"directories": b'{"type":"dir","name":"@@%06x"},', "implied": b'{"type":"fifo","name":"@@%06x/f"},'}[kind]
        return b"".join(shape % n for n in range(count if kind == "directories" else count // 2))
    if kind == "names":
        tail = b"n" * 190
        return b"".join(b'{"type":"fifo","name":"@@%08x%s"},' % (n, tail) for n in range(count))
    if kind == "targets":
        tail = b"t" * 3990
        return b"".join(b'{"type":"symlink","name":"@@%06x","linkName":"%s%08x"},' % (n, tail, n) for n in range(count))
    if kind == "attributes":
        tail = b"QUJD" * 20000
        return b"".join(b'{"type":"reg","name":"@@%06x","xattrs":{"user.a":"%s"}},' % (n, tail) for n in range(count))
    if kind == "chunks":
        first = b'{"type":"reg","name":"@@f","size":%d,"chunkSize":1,"digest":"sha256:@@%062x","chunkDigest":"sha256:%064x"},' % (count, 1, 0)
        return first + b"".join(b'{"type":"chunk","name":"@@f","chunkOffset":%d,"chunkSize":1,"chunkDigest":"sha256:@@%062x"},' % (n, n) for n in range(1, count))
    more = b"".join(map(deep, range(100))) if kind == "both" else b""
    if kind == "behind":
        offset, text = len(gz(PAYLOAD)), b""
        for n in range(count):
            text += b'{"type":"reg","name":"@@%04x","size":600,"offset":%d,"innerOffset":%d,"digest":"%s"},' % (n, offset, 150 << 20, b"sha256:" + hashlib.sha256(b"%600d" % n).hexdigest().encode())
            offset += len(DEEP["members"][n])
        return text
    if kind == "deep": return b"".join(map(deep, range(count)))
    return b"".join(b'{"type":"reg","name":"@@%06x","size":600,"digest":"sha256:@@%062x"},' % (n, n) for n in range(count)) + more

def layer(number, made):
    path = f"{layout}/blob"
    toc = b'{"version":1,"entries":[' + made.replace(b"@@", b"%02x" % number)[:-1] + b"]}"
    with open(path, "wb") as file:
        file.write(gz(PAYLOAD))
        if kind == "behind":
            for member in DEEP["members"]: file.write(member)
        if kind in ("deep", "both"):
            assert file.tell() == DEEP["offset"]
            file.write(DEEP["member"])
        offset = file.tell()
        file.write(zlib_gz([header(len(toc)), toc, bytes(-len(toc) % 512 + 1024)]))
        file.write(footer(offset))
    descriptor = put(path, "application/vnd.oci.image.layer.v1.tar+gzip")
    descriptor["annotations"] = {"containerd.io/snapshot/stargz/toc.digest": "sha256:" + hashlib.sha256(toc).hexdigest()}
    return descriptor

if kind in ("deep", "both"):
    DEEP["offset"] = len(gz(PAYLOAD))
    DEEP["member"] = zlib_gz((bytes(1 << 20) for _ in range(1024)), 9)
if kind == "behind": DEEP["members"] = [zlib_gz([os.urandom(150 << 20), b"%600d" % n]) for n in range(count)]
made = entries()
descriptors = [layer(number, made) for number in range(layers)]
diff_ids = ["sha256:%064x" % number for number in range(layers)]
config = put(json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode(), "application/vnd.oci.image.config.v1+json")
manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": descriptors}
entry = put(json.dumps(manifest).encode(), manifest["mediaType"])
entry["annotations"] = {"org.opencontainers.image.ref.name": "x"}
with open(layout + "/index.json", "w") as file: json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
with open(layout + "/oci-layout", "w") as file: json.dump({"imageLayoutVersion": "1.0.0"}, file)
