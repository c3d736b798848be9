#!/usr/bin/env python3
"""Holds podmans of several versions against lamina's image store: what they see of it, and what they do with it.

    check.py --lamina BINARY --directory DIRECTORY PROGRAMS...

PROGRAMS is a directory with podman, conmon, runc and the like (scripts/readers.sh makes such), or "machine" for this machine's own.
Each podman is tried with lamina's image store, and once without: there the lines that say [store] have to fail, or the check
shows nothing. Prints a line for each; the exit code is the number of those that are wrong. Root only; loopback only."""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request

EPOCH = 1_600_000_000


class Failed(Exception):
    pass


def run(words, check=True, env=None, **more):
    outcome = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, timeout=300, **more)
    if check and outcome.returncode != 0:
        raise Failed(f"{' '.join(words)[:300]}: {outcome.returncode}\n{outcome.stderr.decode(errors='replace')[-1500:]}")
    return outcome


# --- The image: programs to run, and what layers have that is awkward. ---


def programs():
    """Static enough to run alone: busybox where there is one, else a shell and tools with their libraries."""
    names = ["sh", "cat", "ls", "sleep", "stat", "find", "sha256sum", "touch", "rm", "mkdir", "mv", "chmod", "sort", "true"]
    files = {}
    for name in names:
        real = os.path.realpath(shutil.which(name))
        files[f"usr/bin/{name}"] = open(real, "rb").read()
        for line in run(["ldd", real], check=False).stdout.decode().splitlines():
            for word in line.split():
                if word.startswith("/"):
                    files[word[1:] if word.startswith("/usr") else "usr" + word] = open(word, "rb").read()
    return files


def make_layers():
    noise = random.Random(7)

    def tar(entries):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, data, more in entries:
                info = tarfile.TarInfo(name)
                info.mtime, info.mode = EPOCH, 0o755 if data is None else 0o644
                if data is None:
                    info.type = tarfile.DIRTYPE
                for key, value in more.items():
                    setattr(info, key, value)
                if info.isreg():
                    info.size = len(data)
                archive.addfile(info, io.BytesIO(data or b""))
        return out.getvalue()

    base = [(name, None, {}) for name in ["usr", "usr/bin", "usr/lib", "usr/lib64", "etc", "proc", "sys", "dev", "data"]]
    base += [("tmp", None, {"mode": 0o1777}), ("root", None, {"mode": 0o700})]
    base += [(name, b"", {"type": tarfile.SYMTYPE, "linkname": "usr/" + name}) for name in ["bin", "lib", "lib64"]]
    for name, data in sorted(programs().items()):
        parts = name.split("/")[:-1]
        # A directory that no layer lists would have the time of the unpacking.
        for parent in ("/".join(parts[:count]) for count in range(1, len(parts) + 1)):
            if all(known[0] != parent for known in base):
                base.append((parent, None, {}))
        base.append((name, data, {"mode": 0o755}))
    base += [
        ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n", {}), ("etc/group", b"root:x:0:\n", {}),
        ("data/gone", b"gone", {}), ("data/old", None, {}), ("data/old/file", b"old", {}), ("data/changed", b"before", {}),
        ("data/large", noise.randbytes(9 << 20), {}), ("data/one", b"linked", {}),
        ("data/two", b"", {"type": tarfile.LNKTYPE, "linkname": "data/one"}),
        ("data/suid", b"#!", {"mode": 0o4755, "uid": 1000, "gid": 1001}), ("data/empty", b"", {}),
        ("data/" + "n" * 180, b"long", {}), ("data/fifo", b"", {"type": tarfile.FIFOTYPE}),
        ("data/null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("data/marked", b"x", {"pax_headers": {"SCHILY.xattr.user.lamina": "here"}}),
    ]
    middle = [
        ("data", None, {}), ("data/.wh.gone", b"", {}), ("data/old", None, {}), ("data/old/.wh..wh..opq", b"", {}),
        ("data/old/new", b"new", {}), ("data/changed", b"after", {"gid": 5}),
    ]
    # A directory that the layer does not list.
    top = [(f"app/part{number:03}", noise.randbytes(noise.randrange(1, 9000)), {}) for number in range(100)]
    return [tar(base), tar(middle), tar(top)]


def make_layout(path):
    import gzip

    os.makedirs(path + "/blobs/sha256")

    def add(data, media):
        name = hashlib.sha256(data).hexdigest()
        open(f"{path}/blobs/sha256/{name}", "wb").write(data)
        return {"mediaType": media, "digest": "sha256:" + name, "size": len(data)}

    tars = make_layers()
    layers = [add(gzip.compress(tar, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip") for tar in tars]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux", "created": "2020-09-13T12:26:40Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]}, "history": [{"created_by": f"layer {n}"} for n in range(len(tars))],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]},
    }
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": layers,
        "config": add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
    }
    entry = add(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    json.dump({"schemaVersion": 2, "manifests": [entry]}, open(path + "/index.json", "w"))
    json.dump({"imageLayoutVersion": "1.0.0"}, open(path + "/oci-layout", "w"))


# --- What runs. ---


class Registry:
    def __init__(self, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        os.makedirs(directory)
        with open(directory + "/config.yml", "w") as file:
            file.write(
                f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
                f"http: {{addr: '{self.host}'}}\n")
        self.process = subprocess.Popen(
            ["docker-registry", "serve", directory + "/config.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/", timeout=1)
                return
            except OSError:
                time.sleep(0.1)
        raise Failed("docker-registry does not answer")

    def stop(self):
        self.process.kill()
        self.process.wait()


class Lamina:
    def __init__(self, binary, directory, podman_root):
        self.binary, self.root, self.images = binary, directory + "/store", directory + "/images"
        self.env = dict(
            os.environ, LAMINA_PODMAN_IMAGES=self.images, LAMINA_PODMAN_GRAPH_ROOTS=podman_root, LAMINA_STORE_ROOT=self.root)
        os.makedirs(directory, exist_ok=True)
        self.server = subprocess.Popen([binary, "serve"], env=self.env, stderr=open(directory + "/server.log", "w"))
        for _ in range(200):
            if os.path.exists(self.root + "/control.sock") and self("status", check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise Failed("lamina serve does not answer")

    def __call__(self, *words, check=True):
        return run([self.binary, *words], check=check, env=self.env)

    def stop(self):
        self("shutdown", check=False)
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()


class Podman:
    def __init__(self, programs, directory, host, images=None):
        self.directory, self.graph = directory, directory + "/graph"
        self.words = ["podman"] if programs == "machine" else [f"{programs}/podman", "--runtime", f"{programs}/runc"]
        os.makedirs(directory + "/home/.config/containers")

        def write(name, text):
            with open(f"{directory}/{name}", "w") as file:
                file.write(text)

        helpers = "" if programs == "machine" else f'conmon_path = ["{programs}/conmon"]\nhelper_binaries_dir = ["{programs}"]\n'
        runtime = 'runtime = "runc"\n' if programs == "machine" else ""
        write("home/.config/containers/policy.json", '{"default":[{"type":"insecureAcceptAnything"}]}')
        write("registries.conf", f'unqualified-search-registries = []\n[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        write("containers.conf", '[containers]\npids_limit = 0\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\n'
              f'cgroup_manager = "cgroupfs"\nevents_logger = "file"\ntmp_dir = "{directory}/libpod"\n{runtime}{helpers}')
        stores = f'additionalimagestores = ["{images}"]' if images else ""
        write("storage.conf", f'[storage]\ndriver = "overlay"\ngraphroot = "{self.graph}"\nrunroot = "{directory}/run"\n[storage.options]\n'
              f'{stores}\n[storage.options.overlay]\nmountopt = "nodev"\n')
        self.env = dict(
            os.environ, HOME=directory + "/home", CONTAINERS_CONF=directory + "/containers.conf", PODMAN_IGNORE_CGROUPSV1_WARNING="1",
            CONTAINERS_REGISTRIES_CONF=directory + "/registries.conf", CONTAINERS_STORAGE_CONF=directory + "/storage.conf")

    def __call__(self, *words, check=True):
        return run(self.words + list(words), check=check, env=self.env)

    def text(self, *words):
        return self(*words).stdout.decode().strip()

    def run(self, image, script, *options):
        return self.text("run", "--rm", "--pull", "never", "--network", "host", *options, image, "sh", "-c", script)

    def inspect(self, image, form):
        return self.text("image", "inspect", "-f", form, image)

    def layers(self):
        try:
            return [name for name in os.listdir(self.graph + "/overlay") if len(name) == 64]
        except FileNotFoundError:
            return []

    def close(self):
        for words in [("rm", "-a", "-f", "-t", "0"), ("rmi", "-a", "-f")]:
            self(*words, check=False)
        for line in reversed(open("/proc/mounts").readlines()):
            place = line.split()[1]
            if place.startswith(self.directory + "/"):
                subprocess.run(["umount", "-l", place])


def tree(path):
    """What there is below a directory, without what eStargz brings along, and without what podman makes up: the root's own mode."""
    found = {}
    for place, directories, files in os.walk(path):
        for name in directories + files:
            whole = os.path.join(place, name)
            short = os.path.relpath(whole, path)
            if short in ("stargz.index.json", ".no.prefetch.landmark", ".prefetch.landmark"):
                continue
            status = os.lstat(whole)
            fact = [status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime), status.st_rdev]
            if os.path.islink(whole):
                fact = [status.st_mode, os.readlink(whole)]
            elif os.path.isfile(whole):
                fact += [status.st_nlink, hashlib.sha256(open(whole, "rb").read()).hexdigest()]
            fact += [(key, os.getxattr(whole, key, follow_symlinks=False))
                     for key in sorted(os.listxattr(whole, follow_symlinks=False)) if not key.startswith("trusted.overlay")]
            # As the one of these that is meant to be such.
            found[short] = None if short == "app" else fact
    return found


def tar_digests(path):
    """The digests of what could be layers in an archive, decompressed."""
    import gzip

    found = set()
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isreg():
                data = archive.extractfile(member).read()
                found.add("sha256:" + hashlib.sha256(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).hexdigest())
    return found


# --- The check. ---


class Check:
    def __init__(self, has_store):
        self.has_store, self.wrong, self.shown = has_store, 0, 0

    def __call__(self, name, body):
        of_store = "[store]" in name
        try:
            reason = None if body() is not False else "it is not so"
        except (Failed, OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
        if self.has_store:
            is_wrong = reason is not None
        else:
            # Alone, what is the store's has to fail, and nothing else.
            is_wrong = (reason is None) == of_store
            self.shown += of_store and reason is not None
        self.wrong += is_wrong
        if is_wrong or self.has_store:
            print(f"{'FAIL' if is_wrong else 'PASS'} {name}" + (f"\n     {reason}" if is_wrong and reason else ""), flush=True)


def check(lamina, programs, directory, host, image, has_store):
    plain = Podman(programs, directory + "/plain", host)
    own = Podman(programs, directory + "/own", host, lamina.images if has_store else None)
    is_so = Check(has_store)
    print(f"# {own.text('--version')}, {image}, {'image store' if has_store else 'alone'}")
    try:
        plain("pull", "-q", image)
        steps(is_so, lamina, own, plain, host, image, directory)
    finally:
        own.close()
        plain.close()
    if not has_store and is_so.shown == 0:
        print("FAIL nothing of the store failed without it")
        is_so.wrong += 1
    return is_so.wrong


def steps(is_so, lamina, own, plain, host, image, directory):
    if not is_so.has_store:
        own("pull", "-q", image)
    is_so("the image is there by itself", lambda: own("image", "exists", image))
    is_so("it is nobody's but the store's [store]", lambda: own.layers() == [])
    for form in ["{{.Id}}", "{{.Digest}}", "{{.RootFS.Layers}}", "{{.Config}}"]:
        is_so(f"{form} is what it is in a podman without lamina", lambda: own.inspect(image, form) == plain.inspect(image, form))

    def sizes():
        mine, theirs = int(own.inspect(image, "{{.Size}}")), int(plain.inspect(image, "{{.Size}}"))
        return abs(mine - theirs) < theirs / 20

    is_so("so is its size, about", sizes)

    def pull():
        log = own("--log-level=debug", "pull", image).stderr.decode(errors="replace")
        return log.count("Downloading /v2/") - log.count("/manifests/") <= 1

    is_so("podman pull of it asks for manifest and configuration at most", pull)
    is_so("and makes no layers [store]", lambda: own.layers() == [])

    # The tree, of a container that never ran.
    trees = []
    for podman in (own, plain):
        podman("create", "--name", "tree", "--pull", "never", "--network", "host", image, "sh")
        trees.append(tree(podman.text("mount", "tree")))
        podman("umount", "tree")
        podman("rm", "tree")
    mine, theirs = trees

    def compare():
        differences = [f"{name}: {mine.get(name)} / {theirs.get(name)}" for name in sorted(set(mine) | set(theirs))
                       if mine.get(name) != theirs.get(name) or (name in mine) != (name in theirs)]
        if differences:
            raise Failed("\n     ".join(differences[:5]))

    is_so(f"its tree is that of a pull, byte for byte ({len(theirs)} names)", compare)

    is_so("run", lambda: own.run(image, "cat /data/changed") == "after")
    is_so("whiteouts", lambda: own.run(image, "ls /data/old; test ! -e /data/gone && echo gone") == "new\ngone")
    is_so("write, rename, delete", lambda: own.run(
        image, "set -e; echo x >>/data/large; mv /data/large /data/moved; rm -r /app; mkdir /app; chmod 700 /etc; ls /app; echo ok") == "ok")
    is_so("run --read-only", lambda: own.run(image, "echo ok", "--read-only") == "ok")

    def two():
        first = subprocess.Popen(
            own.words + ["run", "--rm", "--pull", "never", "--network", "host", image, "sleep", "2"], env=own.env)
        own.run(image, "sleep 1")
        return first.wait() == 0

    is_so("two containers at once", two)

    def again():
        own("create", "--name", "again", "--pull", "never", "--network", "host", image, "cat", "/data/one")
        outputs = [own.text("start", "-a", "again") for _ in range(2)]
        own("rm", "again")
        return outputs == ["linked", "linked"]

    is_so("stop and start again", again)

    # What comes out again.
    wanted = set(plain.inspect(image, "{{json .RootFS.Layers}}").strip('[]"').split('","'))
    for form in ("docker-archive", "oci-archive"):
        path = f"{directory}/{form}.tar"

        def save():
            own("save", "-q", "--format", form, "-o", path, image)
            digests = tar_digests(path)
            os.remove(path)
            return wanted <= digests

        is_so(f"save --format {form}: its layers have the diff IDs", save)
    copy = f"{host}/copy/of:{os.path.basename(directory)}"

    def push():
        own("push", "-q", image, copy)
        plain("pull", "-q", copy)
        return plain.inspect(copy, "{{.RootFS.Layers}}") == plain.inspect(image, "{{.RootFS.Layers}}")

    is_so("push: what comes back has the diff IDs", push)

    # What is made upon it.
    with open(directory + "/Containerfile", "w") as file:
        file.write(f"FROM {image}\nRUN echo built >/built\nRUN rm -r /app\n")
    is_so("build", lambda: own(
        "build", "-q", "--pull=never", "--network", "host", "-t", "localhost/built", "-f", directory + "/Containerfile", directory))
    is_so("what was built runs", lambda: own.run("localhost/built", "cat /built; test ! -e /app && echo gone") == "built\ngone")

    def commit():
        own("run", "--name", "changed", "--pull", "never", "--network", "host", image, "sh", "-c", "echo c >/committed")
        own("commit", "-q", "changed", "localhost/committed")
        own("rm", "changed")
        return own.run("localhost/committed", "cat /committed /data/changed") == "c\nafter"

    is_so("commit, and what was committed runs", commit)
    is_so("build and commit copied nothing of it [store]",
          lambda: int(run(["du", "-sk", own.graph]).stdout.split()[0]) < 4000)
    is_so("diff, history, tree, images", lambda: [
        own("diff", "localhost/built"), own("history", image), own("image", "tree", image), own("images")] and True)

    # Who goes first.
    if is_so.has_store:
        is_so("lamina rm is refused while something stands upon it", lambda: lamina("rm", image, check=False).returncode == 1)
    is_so("rmi of what was built", lambda: own("rmi", "-f", "localhost/built", "localhost/committed"))
    is_so("rmi -a", lambda: own("rmi", "-a", "-f", check=False))
    is_so("system prune -a", lambda: own("system", "prune", "-a", "-f"))
    is_so("no layer is left", lambda: own.layers() == [])
    is_so("podman's own removals took nothing of lamina's [store]", lambda: own.run(image, "cat /data/one") == "linked")
    if is_so.has_store:
        def removed():
            lamina("rm", image)
            gone = own("image", "exists", image, check=False).returncode == 1
            lamina("pull", image)
            return gone and own.run(image, "cat /data/one") == "linked"

        is_so("lamina rm takes it away, lamina pull brings it back", removed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lamina", required=True)
    parser.add_argument("--directory", required=True, help="empty; it is removed by whoever made it")
    parser.add_argument("programs", nargs="+")
    arguments = parser.parse_args()
    base = os.path.abspath(arguments.directory)
    registry = Registry(base + "/registry")
    wrong = 0
    try:
        make_layout(base + "/plain.oci")
        images = {}
        for name in ("gzip", "estargz", "zstd-chunked"):
            layout = base + "/plain.oci"
            if name != "gzip":
                layout = f"{base}/{name}.oci"
                run([arguments.lamina, "convert", "--format", name, f"oci:{base}/plain.oci:latest", f"oci:{layout}:latest"])
            policy = base + "/policy.json"
            open(policy, "w").write('{"default":[{"type":"insecureAcceptAnything"}]}')
            images[name] = f"{registry.host}/check/{name}:1"
            run(["skopeo", "--policy", policy, "copy", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{images[name]}"])
        for number, programs in enumerate(arguments.programs):
            for name, image in images.items():
                place = f"{base}/{number}-{name}"
                lamina = Lamina(arguments.lamina, place, place + "/own/graph")
                try:
                    lamina("pull", image)
                    wrong += check(lamina, programs, place, registry.host, image, True)
                finally:
                    lamina.stop()
                shutil.rmtree(place, ignore_errors=True)
            # Alone, so that the lines of the store can be seen to fail.
            place = f"{base}/{number}-alone"
            os.makedirs(place)
            wrong += check(None, programs, place, registry.host, images["gzip"], False)
            shutil.rmtree(place, ignore_errors=True)
    finally:
        registry.stop()
    print(f"{wrong} wrong")
    sys.exit(min(wrong, 100))


main()
