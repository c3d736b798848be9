"""containerd's calls to the snapshotter, made as it makes them."""

import json
import os
import subprocess
import time

from . import grpc
from .images import read_manifest, read_blob
from .programs import Failed, run

SERVICE = "containerd.services.snapshots.v1.Snapshots/"
SNAPSHOTTER = grpc.field(1, "lamina")
REFERENCE = "containerd.io/snapshot.ref"
KINDS = "?VAC"  # View, Active, Committed


class Client:
    def __init__(self, socket):
        self.socket = socket
        # Chain ID -> the name of its committed snapshot, of those that were last listed.
        self.chains = {}

    def _call(self, method, *parts):
        return grpc.call(self.socket, SERVICE + method, SNAPSHOTTER + b"".join(parts))

    def _mounts(self, answer):
        found = []
        for part in grpc.fields(answer[0] if answer else b"").get(1, []):
            mount = grpc.fields(part)
            found.append((mount[1][0].decode(), mount[2][0].decode(), [option.decode() for option in mount.get(4, [])]))
        return found

    def prepare(self, key, parent="", labels=None):
        entries = [grpc.field(4, grpc.field(1, name) + grpc.field(2, value)) for name, value in (labels or {}).items()]
        return self._mounts(self._call("Prepare", grpc.field(2, key), grpc.field(3, parent), *entries))

    def view(self, key, parent):
        return self._mounts(self._call("View", grpc.field(2, key), grpc.field(3, parent)))

    def mounts(self, key):
        return self._mounts(self._call("Mounts", grpc.field(2, key)))

    def commit(self, name, key):
        self._call("Commit", grpc.field(2, name), grpc.field(3, key))

    def remove(self, key):
        self._call("Remove", grpc.field(2, key))

    def list(self):
        """Name -> (kind, parent)."""
        found = {}
        for part in self._call("List"):
            for info in map(grpc.fields, grpc.fields(part).get(1, [])):
                name = info[1][0].decode()
                found[name] = (KINDS[info.get(3, [0])[0]], info.get(2, [b""])[0].decode())
                labels = {label[1][0].decode(): label[2][0].decode() for label in map(grpc.fields, info.get(6, []))}
                if REFERENCE in labels:
                    self.chains[labels[REFERENCE]] = name
        return found


def serve(machine, under=()):
    """Starts a server that answers containerd; returns it and a client."""
    socket = os.path.join(machine.directory, "containerd.sock")
    if os.path.exists(socket):
        os.unlink(socket)
    with open(os.path.join(machine.directory, "server.log"), "ab") as log:
        server = subprocess.Popen([*under, machine.lamina_path, "serve", "--address", socket], env=machine.environment,
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for _ in range(1200):
        if os.path.exists(socket):
            return server, Client(socket)
        if server.poll() is not None:
            break
        time.sleep(0.05)
    raise Failed(f"the server does not start: {server.poll()}")


def end(server):
    server.terminate()
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        raise Failed("the server does not end") from None


def lazy_layer(images, registry, name):
    """The chain ID of an image's one layer, and the labels with which containerd asks for it to come file by file."""
    layout = images[name].layout
    manifest = read_manifest(layout)
    layer = manifest["layers"][0]["digest"]
    chain = json.loads(read_blob(layout, manifest["config"]["digest"]))["rootfs"]["diff_ids"][0]
    remote = "containerd.io/snapshot/remote/stargz."
    reference = registry.reference(name)
    return chain, {REFERENCE: chain, remote + "reference": reference, remote + "digest": layer, remote + "layers": layer}


def prepare_lazily(context, client, name):
    """Returns what the committed snapshot of the layer is called. That the key exists already is how it is answered."""
    chain, labels = lazy_layer(context.images, context.registry, name)
    try:
        client.prepare("extract-" + name, "", labels)
    except grpc.CallFailed as error:
        if error.code != grpc.ALREADY_EXISTS:
            raise
    client.list()
    committed = client.chains[chain]
    context.mark(f"snapshot C {committed} -")
    return committed


def mount(mounts, target):
    kind, source, options = mounts[0]
    words = ["--bind", source, target] if kind == "bind" else ["-t", kind, "-o", ",".join(options), source, target]
    return run("mount", *words, check=False)


def write_files(mounts, target, number):
    if mount(mounts, target).returncode == 0:
        for part in range(5):
            with open(os.path.join(target, f"file-{number}-{part}"), "wb") as file:
                file.write(b"%d" % number * 5000)
        run("umount", target)


# --- the workload ---

def serve_for_long(rounds):
    """As of a server that runs for long: the index's log has its length, and is written anew from its beginning."""
    def prepare(context):
        context.server, context.client = serve(context.machine)
        for number in range(rounds):
            context.client.prepare(f"warm-{number}")
            context.client.remove(f"warm-{number}")
    return prepare


def use(context):
    """Layers are unpacked one upon the other, with a container on each; each fourth layer is lazy at first."""
    client, target = context.client, context.machine.point("snapshot")
    context.slow(8e6)
    below, container = prepare_lazily(context, client, "estargz-a"), None
    for number in range(10):
        key, name = f"extract-{number}", f"chain-{number}"
        mounts = client.prepare(key, below)
        context.mark(f"snapshot A {key} {below}")
        write_files(mounts, target, number)
        context.mark(f"snapshotgone {key}")
        client.commit(name, key)
        context.mark(f"snapshot C {name} {below}")
        below, before, container = name, container, f"container-{number}"
        client.prepare(container, below)
        context.mark(f"snapshot A {container} {below}")
        if before:
            context.mark(f"snapshotgone {before}")
            client.remove(before)
        if number == 5:
            below = prepare_lazily(context, client, "zstd-b")
        time.sleep(0.6)
    end(context.server)


def recover(context):
    """What containerd does after a start: it removes the containers' snapshots, and goes on with a layer."""
    server, client = serve(context.machine)
    for name, (kind, _) in client.list().items():
        if kind == "A":
            context.mark(f"snapshotgone {name}")
            client.remove(name)
    client.prepare("extract-next")
    context.mark("snapshot A extract-next -")
    context.mark("snapshotgone extract-next")
    client.commit("chain-next", "extract-next")
    context.mark("snapshot C chain-next -")
    end(server)


# --- what is left of it ---

def missing_directories(mounts):
    kind, source, options = mounts[0]
    named = [source] if kind == "bind" else []
    for option in options:
        name, _, value = option.partition("=")
        if name in ("upperdir", "workdir"):
            named.append(value)
        elif name.rstrip("+") == "lowerdir":
            named += value.split(":")
    return [path for path in named if path and not os.path.isdir(path)]


def inspect(machine, promised, verdict, compare, chains):
    """Everything that containerd was answered is there and can be mounted. `chains`: chain ID -> image; `compare` reads one."""
    server, client = serve(machine)
    try:
        there = client.list()
        for name, fact in promised.items():
            if name not in there:
                verdict.add("lost", f"the snapshot {name} {fact} is gone")
            elif there[name] != fact:
                verdict.add("wrong", f"the snapshot {name} is {there[name]}, not {fact}")
        images = {client.chains[chain]: image for chain, image in chains.items() if chain in client.chains}
        for name, (kind, _) in there.items():
            inspect_one(machine, client, name, kind, verdict, compare, images.get(name))
        client.prepare("after")
        client.commit("after-committed", "after")
        client.remove("after-committed")
    except grpc.CallFailed as error:
        verdict.add("manual", str(error))
    finally:
        end(server)


def inspect_one(machine, client, name, kind, verdict, compare, image):
    target, key = machine.point("inspected"), name
    try:
        if kind == "C":
            key = "view-of-" + name
            mounts = client.view(key, name)
        else:
            mounts = client.mounts(name)
    except grpc.CallFailed as error:
        verdict.add("directory" if "irectory" in str(error) else "manual", f"snapshot {name}: {error}")
        return
    done = mount(mounts, target)
    if done.returncode:
        missing = missing_directories(mounts)
        why = f"missing: {missing[:3]}" if missing else done.stderr.strip()[:200]
        verdict.add("directory" if missing else "manual", f"snapshot {kind} {name} cannot be mounted, {why}")
    else:
        try:
            if kind == "C" and image:
                compare(image, machine.read(target))
        finally:
            run("umount", target)
    if kind == "C":
        client.remove(key)
