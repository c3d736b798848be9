#!/usr/bin/env python3
"""Compares what odd layers become: unpacked by containerd's own code, in lamina as they are, and in lamina after a conversion to each
format. Needs root. A line for each difference that docs/decisions/021 does not explain; exit code 1 if there is one.

odd.py --lamina PROGRAM --unpack PROGRAM --directory DIR [--count N] [--seed N] [--one]
"""
import argparse, collections, hashlib, json, os, shutil, signal, sqlite3, stat, subprocess, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from oddtar import OddLayer, header, padded, ZEROS

DAY = 86400 * 10**9
STARTED = time.time_ns()


def describe(root):
    """A tree by path: what lstat, readlink, the bytes and the attributes say; None for a name that leads to nothing."""
    result, groups = {}, {}
    def one(path, name):
        try: s = os.lstat(path)
        except FileNotFoundError: result[name] = None; return
        kind = stat.S_IFMT(s.st_mode)
        entry = {"kind": kind, "mode": stat.S_IMODE(s.st_mode), "uid": s.st_uid, "gid": s.st_gid, "mtime": s.st_mtime_ns}
        if kind == stat.S_IFREG:
            with open(path, "rb") as file: entry["bytes"] = hashlib.sha256(file.read()).hexdigest()
            entry["size"] = s.st_size
        if kind == stat.S_IFLNK: entry["target"] = os.readlink(path)
        if kind in (stat.S_IFCHR, stat.S_IFBLK): entry["device"] = s.st_rdev
        if kind != stat.S_IFDIR:
            entry["links"] = s.st_nlink
            if s.st_nlink > 1: entry["same"] = groups.setdefault(s.st_ino, name)
        names = os.listxattr(path, follow_symlinks=False)
        entry["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False) for name in names if not name.startswith("trusted.overlay.")}
        entry["opaque"] = "trusted.overlay.opaque" in names
        result[name] = entry
        if kind == stat.S_IFDIR:
            for child in sorted(os.listdir(path)): one(path + b"/" + child, name.rstrip(b"/") + b"/" + child)
    one(os.fsencode(root), b"/")
    return result


def is_whiteout(entry): return entry is not None and entry["kind"] == stat.S_IFCHR and entry.get("device") == 0


def followed(name, tree):
    """Where a name leads to in a tree, by the links on its way, but not by what has the name itself; None for one that turns in circles."""
    rest, place = [part for part in name.split(b"/") if part not in (b"", b".")][::-1], b""
    for _ in range(1000):
        if not rest: return place or b"/"
        part = rest.pop()
        if part == b"..": place = place.rsplit(b"/", 1)[0]; continue
        entry = tree.get(place + b"/" + part)
        if rest and entry and entry["kind"] == stat.S_IFLNK:
            if entry["target"].startswith(b"/"): place = b""
            rest += [step for step in entry["target"].split(b"/") if step not in (b"", b".")][::-1]
        else: place += b"/" + part
    return None


def differences(judge, tree, layer, cuts_seconds, opaque=None):
    """What differs, path by path, and is not explained by docs/decisions/021.

    opaque: of a mount, the directories that are opaque in its top layer.
    """
    is_mount = opaque is not None
    if not is_mount: opaque = {path for path, entry in tree.items() if entry and entry["opaque"]}
    judge, tree = dict(judge), dict(tree)
    for path in [path for path, entry in judge.items() if entry is None]: del judge[path]
    if layer.is_lowest and not is_mount:
        for path in [path for path, entry in tree.items() if is_whiteout(entry)]: del tree[path]
    if "aufs" in layer.features:
        for path in [path for path in judge if path.startswith(b"/.wh..wh.plnk") or path == b"/.wh.plnk"]: del judge[path]
    whiteouts = {name.rsplit(b"/", 1)[-1][4:] for _, name, _ in layer.words if name.rsplit(b"/", 1)[-1].startswith(b".wh.")}
    listed = {os.path.normpath(b"/" + name.lstrip(b"/")) for kind, name, _ in layer.words if kind == b"5"}
    # And where they are, by the links that there are in the end.
    again = collections.Counter(followed(name, judge) for kind, name, _ in layer.words if kind == b"5")
    listed |= set(again)
    # What has the name of a directory that was listed, by whichever of its names it is looked at.
    stamped = {judge[path]["same"] for path in listed if judge.get(path) and judge[path].get("same") is not None}
    is_replaced = any((judge.get(path) or {"kind": 0})["kind"] != stat.S_IFDIR for path in listed)
    for path in sorted(set(judge) | set(tree)):
        if path not in judge or path not in tree or tree[path] is None:
            yield path, "there" if path in tree else "missing", None
            continue
        a, b = dict(judge[path]), dict(tree[path])
        if is_whiteout(a) and is_whiteout(b): a["mtime"] = b["mtime"] = 0
        if cuts_seconds: a["mtime"] -= a["mtime"] % 10**9
        # Where containerd set no time, and where it sets none.
        if a["kind"] == stat.S_IFDIR and a["mtime"] > STARTED - DAY: a["mtime"] = b["mtime"] = 0
        if a["mtime"] == 0 and b["mtime"] < 0: b["mtime"] = 0
        # A directory that nothing lists, where below there is a symbolic link: containerd takes what that leads to for its model.
        if not layer.is_lowest and a["kind"] == stat.S_IFDIR and (path == b"/lib" or path.startswith(b"/lib/")) and b["mtime"] == 0:
            for key in ("mode", "uid", "gid", "xattrs"): a[key] = b[key]
        if path == b"/":
            for key in ("mode", "uid", "gid", "mtime", "xattrs") if "root" in layer.features else (): a[key] = b[key]
        # A directory that nothing lists: containerd may set the time of one that was in a link's place, and gives one that an opaque
        # directory holds the mode and owner of the one that is hidden.
        if a["kind"] == stat.S_IFDIR and b["mtime"] == 0:
            a["mtime"] = 0
            above = [path[:place] or b"/" for place in range(len(path)) if path[place:place + 1] == b"/"]
            if any(parent in opaque for parent in above):
                for key in ("mode", "uid", "gid", "xattrs"): a[key] = b[key]
        # What has the name of a directory that was listed gets its time in the end, or what that leads to.
        if (path in listed or a.get("same") in stamped) and a["kind"] != stat.S_IFDIR or is_replaced and a["kind"] == stat.S_IFDIR: a["mtime"] = b["mtime"]
        # A hard link to what has become a symbolic link says of it what the file said of itself.
        if a["kind"] == stat.S_IFREG and "hard link" in layer.features or a["kind"] not in (stat.S_IFDIR, stat.S_IFREG) and any(kind == b"1" for kind, _, _ in layer.words):
            for key in ("mode", "uid", "gid", "mtime", "xattrs"): a[key] = b[key]
        # A directory that is listed twice: attributes of the first entry that the last one does not have.
        if a["kind"] == stat.S_IFDIR and again[path] > 1 and b["xattrs"].items() <= a["xattrs"].items(): a["xattrs"] = b["xattrs"]
        if "aufs" in layer.features and "links" in a and b["kind"] == stat.S_IFREG: a["links"], a["same"] = b["links"], b.get("same")
        if a.get("same") is None: a.pop("same", None)
        if is_mount or layer.is_lowest or (b["opaque"] and path.rsplit(b"/", 1)[-1] in whiteouts): a["opaque"] = b["opaque"]
        if a != b: yield path, {key: a.get(key) for key in a.keys() | b.keys() if a.get(key) != b.get(key)}, {key: b.get(key) for key in a.keys() | b.keys() if a.get(key) != b.get(key)}


class Layout:
    """An OCI layout that grows."""
    def __init__(self, path):
        self.path, self.manifests = path, []
        os.makedirs(path + "/blobs/sha256")
        with open(path + "/oci-layout", "w") as file: json.dump({"imageLayoutVersion": "1.0.0"}, file)

    def add(self, data, kind):
        name = hashlib.sha256(data).hexdigest()
        with open(f"{self.path}/blobs/sha256/{name}", "wb") as file: file.write(data)
        return {"mediaType": kind, "digest": "sha256:" + name, "size": len(data)}

    def image(self, tag, layers):
        """Of layers as (tar, blob, suffix)."""
        kind = "application/vnd.oci.image."
        blobs = [self.add(blob, kind + "layer.v1.tar" + suffix) for _, blob, suffix in layers]
        config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar, _, _ in layers]}}
        manifest = {"schemaVersion": 2, "config": self.add(json.dumps(config).encode(), kind + "config.v1+json"), "layers": blobs}
        entry = self.add(json.dumps(manifest).encode(), kind + "manifest.v1+json")
        self.manifests.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        with open(self.path + "/index.json", "w") as file: json.dump({"schemaVersion": 2, "manifests": self.manifests}, file)


def base_tar():
    def directory(name, mode, uid): return header(name, b"5", mode=mode, uid=uid, mtime=1_300_000_000)
    def file(name, data): return header(name, b"0", len(data), uid=3, mtime=1_300_000_001) + padded(data)
    return (directory(b"a/", 0o700, 5) + directory(b"a/b/", 0o1777, 6) + file(b"a/x", b"below") + directory(b"usr/", 0o755, 0)
            + directory(b"usr/lib/", 0o751, 8) + header(b"lib", b"2", link=b"usr/lib") + file(b"c", b"a file") + directory(b"d/", 0o750, 9)
            + file(b"d/gone", b"gone") + ZEROS * 2)


class Run:
    def __init__(self, options):
        self.options, self.directory = options, options.directory
        self.root = self.directory + "/store"
        os.makedirs(self.directory + "/judge/base")
        os.mkdir(self.directory + "/mnt"); os.mkdir(self.directory + "/overlay")
        self.plain = Layout(self.directory + "/plain")
        self.unpacker = subprocess.Popen([options.unpack], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace", stderr=subprocess.DEVNULL)
        self.server = subprocess.Popen([options.lamina, "serve", "--root", self.root], stderr=subprocess.DEVNULL)
        self.counts = collections.Counter()
        self.unexplained = 0

    def unpack(self, name, blob, parents):
        path = f"{self.directory}/judge/{name}"
        with open(path + ".blob", "wb") as file: file.write(blob)
        if os.path.isdir(path): os.rmdir(path)
        self.unpacker.stdin.write("\t".join([path, path + ".blob"] + parents) + "\n"); self.unpacker.stdin.flush()
        return path, self.unpacker.stdout.readline().strip()

    def lamina(self, *words):
        done = subprocess.run([self.options.lamina, *words], capture_output=True, text=True, errors="replace", timeout=60)
        return None if done.returncode == 0 else f"exit {done.returncode}: {done.stderr.strip()[-300:]}"

    def view(self, reference):
        """The top layer's directory in lamina's own mount."""
        with sqlite3.connect(f"file:{self.root}/index.db?mode=ro", uri=True) as database:
            number, = database.execute("SELECT view FROM image_layer JOIN image ON image.id = image WHERE reference = ? ORDER BY position DESC LIMIT 1", (reference,)).fetchone()
        return f"{self.root}/fs/{number}"

    def complain(self, seed, where, *what):
        self.unexplained += 1
        if self.unexplained <= 60: print(f"seed {seed}, {where}:", *what)

    def one(self, seed, base):
        layer = OddLayer(seed, is_lowest=seed % 4 == 0)
        blob, suffix = layer.blob()
        parents = [] if layer.is_lowest else [self.directory + "/judge/base"]
        path, answer = self.unpack(f"{seed}", blob, parents)
        tag = f"t{seed}"
        self.plain.image(tag, ([] if layer.is_lowest else [base]) + [(layer.tar, blob, suffix)])
        judge = describe(path) if answer == "ok" else None
        self.counts["unpacked by containerd" if judge else "refused by containerd"] += 1
        trees = {}
        source = f"oci:{self.plain.path}:{tag}"
        failures = {"as it is": self.lamina("pull", source, "--root", self.root)}
        if not failures["as it is"]: trees["as it is"] = (describe(self.view(source)), False)
        for form in ("estargz", "zstd-chunked"):
            target = f"oci:{self.directory}/{form}:{tag}"
            failures[form] = self.lamina("convert", "--format", form, source, target) or self.lamina("pull", target, "--root", self.root)
            if not failures[form]: trees[form] = (describe(self.view(target)), form == "estargz")
        if not failures["as it is"] and not judge: self.counts["read by lamina all the same"] += 1
        for form, failure in failures.items():
            if failure and (judge or not failures["as it is"]): self.complain(seed, form, failure)
        for form, (tree, cuts) in trees.items():
            if judge:
                for path, left, right in differences(judge, tree, layer, cuts): self.complain(seed, form, path, left, right)
        if "as it is" in trees:
            plain, _ = trees["as it is"]
            if judge and seed % 8 in (0, 1): self.mounted(seed, layer, source, {path for path, entry in plain.items() if entry and entry["opaque"]})
            replaced = {followed(name, plain) for kind, name, _ in layer.words if kind != b"5"}
            for form, (tree, cuts) in trees.items():
                for path in sorted(set(plain) | set(tree)):
                    a, b = plain.get(path), tree.get(path)
                    if a and cuts: a = {**a, "mtime": a["mtime"] - a["mtime"] % 10**9}
                    # One that took the place of what was no directory: a table of contents has its last entry alone.
                    if a and b and a["opaque"] and path in replaced: a = {**a, "opaque": b["opaque"]}
                    if a != b: self.complain(seed, f"{form} against as it is", path, a, b)

    def mounted(self, seed, layer, source, opaque):
        """The whole image, as who mounts it sees it."""
        self.counts["mounted"] += 1
        path, merged, mount = f"{self.directory}/judge/{seed}", f"{self.directory}/overlay", f"{self.directory}/mnt"
        lower = path if layer.is_lowest else path + ":" + self.directory + "/judge/base"
        words = ["--bind", path, merged] if layer.is_lowest else ["-t", "overlay", "overlay", "-o", "ro,lowerdir=" + lower, merged]
        subprocess.run(["mount", *words], check=True)
        try:
            failure = self.lamina("mount", source, mount, "--root", self.root)
            if failure: return self.complain(seed, "mounted", failure)
            try:
                for path, left, right in differences(describe(merged), describe(mount), layer, False, opaque): self.complain(seed, "mounted", path, left, right)
            finally: self.lamina("umount", mount, "--root", self.root)
        finally: subprocess.run(["umount", merged], check=True)

    def end(self):
        self.unpacker.stdin.close()
        self.unpacker.wait()
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(30)


def main():
    parser = argparse.ArgumentParser()
    for name in ("--lamina", "--unpack", "--directory"): parser.add_argument(name, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    run = Run(parser.parse_args())
    try:
        deadline = time.monotonic() + 20
        while not os.path.exists(run.root + "/control.sock") and time.monotonic() < deadline: time.sleep(0.05)
        base = base_tar()
        run.unpack("base", base, [])
        for seed in range(run.options.seed, run.options.seed + run.options.count): run.one(seed, (base, base, ""))
    finally: run.end()
    print(", ".join(f"{count} {name}" for name, count in sorted(run.counts.items())) + f"; {run.unexplained} differences that nothing explains")
    sys.exit(1 if run.unexplained else 0)


main()
