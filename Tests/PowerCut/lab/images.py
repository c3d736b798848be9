"""Trees of files of many sizes, images of them, and what each file must contain."""

import gzip
import hashlib
import json
import os
import random
import tarfile
from dataclasses import dataclass

from .programs import run

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Image:
    name: str
    layout: str
    # Path -> (size, SHA-256).
    files: dict
    # Compressed bytes of its layer.
    size: int


class Images:
    """Images by name, made when they are first asked for: `estargz-a`, `zstd-b`, `plain-a`, and `plain-large` of 1 GiB.

    Half of the files of tree b are those of tree a. `scale` makes all of them smaller.
    """

    def __init__(self, lamina, directory, scale=1.0):
        self.lamina, self.scale = lamina, scale
        self.directory = os.path.join(directory, f"images-{scale:g}")
        self.known = {}

    def __getitem__(self, name):
        if name not in self.known:
            self.known[name] = self._load(name)
        return self.known[name]

    def _load(self, name):
        layout = os.path.join(self.directory, name)
        facts = layout + ".json"
        if not os.path.exists(facts):
            how, _, tree = name.partition("-")
            files = self._tree(tree)
            self._convert(how, os.path.join(self.directory, "tree-" + tree), layout)
            with open(facts + ".new", "w") as file:
                json.dump({"files": files, "size": layer_size(layout)}, file)
            os.rename(facts + ".new", facts)
        with open(facts) as file:
            known = json.load(file)
        return Image(name, layout, {path: tuple(fact) for path, fact in known["files"].items()}, known["size"])

    def _tree(self, name):
        """Makes a tree of files; returns what is in it."""
        root = os.path.join(self.directory, "tree-" + name)
        facts = root + ".json"
        if not os.path.exists(facts):
            if name == "large":
                make_large_tree(root, self.scale)
            else:
                make_tree(root, "ab".index(name) + 1, self.scale * (1 if name == "a" else 0.6))
            if name == "b":
                self._tree("a")
                share_half(os.path.join(self.directory, "tree-a"), root)
            with open(facts + ".new", "w") as file:
                json.dump(describe(root), file)
            os.rename(facts + ".new", facts)
        with open(facts) as file:
            return json.load(file)

    def _convert(self, how, tree, layout):
        if how == "plain":
            return make_plain_layout(tree, layout)
        kind = {"estargz": "estargz", "zstd": "zstd-chunked"}[how]
        run(self.lamina, "convert", "--format", kind, "--level", "1", f"dir:{tree}", f"oci:{layout}:1", timeout=600)


# --- trees ---

def noise(chance, count):
    """Half of it random, half of it a repeated word: compresses by about a half."""
    parts = []
    for start in range(0, count, 32768):
        size = min(count - start, 32768)
        word = chance.randbytes(61)
        parts.append(chance.randbytes(size) if chance.random() < 0.5 else (word * (size // 61 + 1))[:size])
    return b"".join(parts)


def write_file(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def make_tree(root, seed, scale):
    chance = random.Random(f"tree {seed}")
    sizes = [chance.randrange(1, 60_000) for _ in range(int(260 * scale))]
    sizes += [chance.randrange(200_000, 2_500_000) for _ in range(int(26 * scale))]
    sizes += [chance.randrange(5_000_000, 11_000_000) for _ in range(max(1, int(4 * scale)))]
    # Around a page, a chunk's size, and one that is under way for long.
    sizes += [4095, 4096, 8192, MEBIBYTE, int(24_000_000 * scale)]
    chance.shuffle(sizes)
    for number, size in enumerate(sizes):
        write_file(f"{root}/d{number % 13:02}/f{number:04}", noise(chance, size))
    # Zeros become holes.
    write_file(f"{root}/zeros", bytes(int(3_000_000 * scale)))
    write_file(f"{root}/empty", b"")
    write_file(f"{root}/mixed", noise(chance, int(5e6 * scale)) + bytes(int(6e6 * scale)) + noise(chance, 777_777))


def make_large_tree(root, scale):
    """Some 1 GiB compressed, in files of 1 to 64 MiB."""
    chance = random.Random("tree large")
    left = int(1950 * scale)
    number = 0
    while left > 0:
        size = min(left, chance.choice([1, 4, 16, 64]))
        write_file(f"{root}/d{number % 13:02}/f{number:04}", noise(chance, size * MEBIBYTE))
        left, number = left - size, number + 1


def share_half(source, root):
    """Takes half of another tree's files over."""
    chance = random.Random("shared")
    for path in sorted(describe(source)):
        if chance.random() < 0.5:
            target = f"{root}/shared/{path}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.link(f"{source}/{path}", target)


def describe(root):
    """Path -> [size, SHA-256], as a reader sees it; an error where there is one."""
    found = {}

    def note_error(error):
        found[os.path.relpath(error.filename, root) + "/"] = os.strerror(error.errno)

    for parent, _, names in os.walk(root, onerror=note_error):
        for name in names:
            path = os.path.join(parent, name)
            try:
                digest, size = hashlib.sha256(), 0
                with open(path, "rb", buffering=0) as file:
                    while data := file.read(MEBIBYTE):
                        digest.update(data)
                        size += len(data)
                found[os.path.relpath(path, root)] = [size, digest.hexdigest()]
            except OSError as error:
                found[os.path.relpath(path, root)] = os.strerror(error.errno)
    return found


# --- layouts ---

def read_blob(layout, digest):
    with open(f"{layout}/blobs/{digest.replace(':', '/')}", "rb") as file:
        return file.read()


def read_manifest(layout):
    with open(f"{layout}/index.json") as file:
        return json.loads(read_blob(layout, json.load(file)["manifests"][0]["digest"]))


def layer_size(layout):
    return sum(layer["size"] for layer in read_manifest(layout)["layers"])


def make_plain_layout(tree, layout):
    """An image of one ordinary tar+gzip layer, as most registries have them."""
    def tar_info(path):
        info = tarfile.TarInfo(os.path.relpath(path, tree))
        info.size, info.mode, info.mtime = os.path.getsize(path), 0o644, 1_700_000_000
        return info

    os.makedirs(f"{layout}/blobs/sha256", exist_ok=True)
    layer, raw = f"{layout}/layer.new", HashingFile()
    with open(layer, "wb") as file, gzip.GzipFile("", "wb", 1, file, 0) as packed:
        raw.file = packed
        with tarfile.open(fileobj=raw, mode="w|", format=tarfile.GNU_FORMAT) as tar:
            for path in sorted(os.path.join(parent, name) for parent, _, names in os.walk(tree) for name in names):
                with open(path, "rb") as member:
                    tar.addfile(tar_info(path), member)
    with open(layer, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    os.rename(layer, f"{layout}/blobs/sha256/{digest}")

    def put(value):
        data = json.dumps(value).encode()
        name = hashlib.sha256(data).hexdigest()
        write_file(f"{layout}/blobs/sha256/{name}", data)
        return {"digest": "sha256:" + name, "size": len(data)}

    def descriptor(kind, fields):
        return {"mediaType": f"application/vnd.oci.image.{kind}", **fields}

    config = put({"architecture": "amd64", "os": "linux", "config": {},
                  "rootfs": {"type": "layers", "diff_ids": ["sha256:" + raw.digest.hexdigest()]}})
    size = os.path.getsize(f"{layout}/blobs/sha256/{digest}")
    manifest = put(descriptor("manifest.v1+json", {
        "schemaVersion": 2, "config": descriptor("config.v1+json", config),
        "layers": [descriptor("layer.v1.tar+gzip", {"digest": "sha256:" + digest, "size": size})]}))
    top = descriptor("manifest.v1+json", {**manifest, "annotations": {"org.opencontainers.image.ref.name": "1"}})
    write_file(f"{layout}/oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    write_file(f"{layout}/index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode())


class HashingFile:
    """Hands on what is written, and hashes it."""

    def __init__(self):
        self.digest, self.file = hashlib.sha256(), None

    def write(self, data):
        self.digest.update(data)
        return self.file.write(data)
