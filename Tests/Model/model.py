#!/usr/bin/env python3
"""Runs what changes a store side by side, in random order, and holds the store against a model after each round.

    model.py --lamina PATH --directory DIR --seconds N [--seed N] [--files N] [--no-kills] [--race gc|stream --rounds N]

A round: some of pull, pull of a wrong image, rm, gc, check --repair, files deleted behind the store's back, and SIGKILL of the
server, several at once, with and without a limit of the store. Then, while nothing runs:

    directory   every file below content/ is known to the index as merged or partial, once gc has run
    index       every merged content has a file of its size, whose bytes have its digest
    model       what `pull` called complete, and nobody removed since, is there, file by file, with the right digests
    check       `check --read-data` finds nothing

--race repeats one pair: `gc`, rm and gc of an image beside the pull of one that has the same files; `stream`, a pull beside one
of the same files that is truncated. Prints what was done as JSON; ends with 0 when nothing was wrong. Needs root.
"""
import argparse, hashlib, json, os, random, shutil, signal, sqlite3, subprocess, sys, time

from images import make_images

# What is tried here is what FUSE shows.
os.environ.setdefault("LAMINA_SEAL_MODE", "off")


class Store:
    def __init__(self, lamina, directory):
        self.lamina, self.root = lamina, f"{directory}/store"
        self.directory = directory
        self.config = f"{directory}/config.toml"
        self.server = None
        self.set_limit(0)

    def set_limit(self, limit):
        with open(self.config, "w") as file:
            file.write(f"[store]\nmax_bytes = {limit}\n")

    def command(self, *arguments):
        return [self.lamina, arguments[0], "--root", self.root, "--config", self.config, *arguments[1:]]

    def start(self, *arguments):
        return subprocess.Popen(self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments, seconds=600):
        process = self.start(*arguments)
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Wrong(f"{arguments} hangs")
        return process.returncode, output if process.returncode == 0 else errors

    def serve(self):
        with open(f"{self.directory}/server.log", "ab") as log:
            self.server = subprocess.Popen(self.command("serve"), stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            if os.path.exists(f"{self.root}/control.sock") and self.run("status")[0] == 0:
                return
            if self.server.poll() is not None:
                raise Wrong("the server does not start")
            time.sleep(0.05)
        raise Wrong("the server does not answer")

    def end(self, how):
        if self.server is None:
            return
        try:
            os.killpg(self.server.pid, how)
        except ProcessLookupError:
            pass
        try:
            self.server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            raise Wrong("the server does not end")
        self.server = None
        # What a killed server leaves mounted.
        subprocess.run(["umount", "-l", f"{self.root}/fs"], stderr=subprocess.DEVNULL)


class Wrong(Exception):
    pass


def files_below(root):
    found = {}
    for directory, _, names in os.walk(f"{root}/content"):
        for name in names:
            if os.path.basename(directory) != "stream":
                found[name] = f"{directory}/{name}"
    return found


def rows(root):
    database = sqlite3.connect(f"file:{root}/index.db?mode=ro", uri=True, timeout=20)
    try:
        return [(digest.hex() + ("." + claim.hex() if claim else ""), digest.hex(), size, state)
                for digest, claim, size, state in database.execute("SELECT digest, claim, size, state FROM content")]
    finally:
        database.close()


def compare(store, complete, after_gc, checks):
    """Holds directory, index and model against each other; nothing runs meanwhile."""
    found = files_below(store.root)
    known = rows(store.root)
    merged = set()
    for name, digest, size, state in known:
        if state != 2:
            continue
        merged.add(digest)
        path = found.get(name)
        if path is None:
            raise Wrong(f"merged, and without a file: {name}")
        if os.path.getsize(path) != size:
            raise Wrong(f"{name} has {os.path.getsize(path)} bytes in place of {size}")
        with open(path, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != digest:
                raise Wrong(f"{name} has other bytes")
    for image in complete:
        missing = image.digests - merged
        if missing:
            raise Wrong(f"{image.reference} was complete, and {len(missing)} of its files are not there")
    if after_gc:
        stray = set(found) - {name for name, _, _, state in known if state > 0}
        if stray:
            raise Wrong(f"{len(stray)} files of which the index knows nothing, as {sorted(stray)[0]}")
    if checks:
        code, output = store.run("check", "--read-data")
        if code != 0:
            raise Wrong(f"check --read-data says {code}: {output}")


def image_names(store):
    code, output = store.run("ls", "--json")
    return {row["reference"] for row in json.loads(output)} if code == 0 and output.strip() else set()


def round_of(store, images, chance, counts, kills):
    """Runs some commands side by side; answers which images were pulled whole by a command that says so."""
    limited = chance.random() < 0.3
    total = sum(len(data) for data in images[0].files.values())
    store.set_limit(int(total * 1.6) + (24 << 20) if limited else 0)
    serves = chance.random() < 0.7
    if serves:
        store.serve()
    pulls, running = [], []
    touched = set()
    for _ in range(chance.randrange(2, 6)):
        what = chance.choice(["pull", "pull", "pull", "wrong", "rm", "gc", "repair", "delete"])
        counts[what] = counts.get(what, 0) + 1
        if what == "pull":
            image = chance.choice([image for image in images if not image.is_wrong])
            pulls.append((image, store.start("pull", "--json", image.reference)))
        elif what == "wrong":
            running.append(store.start("pull", next(image for image in images if image.is_wrong).reference))
        elif what == "rm":
            image = chance.choice(images)
            touched.add(image)
            running.append(store.start("rm", image.reference))
        elif what == "gc":
            running.append(store.start("gc"))
        elif what == "repair":
            running.append(store.start("check", "--repair"))
        else:
            # As somebody does who is short of space. It comes back when it is asked for.
            found = list(files_below(store.root).values())
            for path in chance.sample(found, min(3, len(found))):
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
            touched.update(images)
        time.sleep(chance.random() * 0.2)
    is_killed = serves and kills and chance.random() < 0.4
    if is_killed:
        counts["kill"] = counts.get("kill", 0) + 1
        time.sleep(chance.random() * 0.6)
        store.end(signal.SIGKILL)
    whole = set()
    for image, process in pulls:
        output, _ = process.communicate(timeout=180)
        if process.returncode == 0 and json.loads(output).get("complete"):
            whole.add(image)
    for process in running:
        process.communicate(timeout=180)
    if not is_killed:
        store.end(signal.SIGTERM)
    return (set() if limited else whole) - touched, touched, limited


def walk(store, images, arguments, report):
    chance = random.Random(arguments.seed)
    deadline = time.monotonic() + arguments.seconds
    complete = set()
    while time.monotonic() < deadline:
        report["rounds"] += 1
        seed = chance.random()
        whole, touched, limited = round_of(store, images, random.Random(seed), report["counts"], not arguments.no_kills)
        complete = set() if limited else (complete - touched) | whole
        # One command heals what a killed process left; a check repairs what was deleted.
        code, output = store.run("check", "--repair")
        if code not in (0, 2):
            raise Wrong(f"check --repair says {code}: {output}")
        collects = chance.random() < 0.5
        if collects:
            store.run("gc")
            complete = {image for image in complete if image.reference in image_names(store)}
        compare(store, complete, collects, chance.random() < 0.3)


def race(store, images, arguments, report):
    a, b, _, wrong = images[:4]
    for _ in range(arguments.rounds):
        report["rounds"] += 1
        shutil.rmtree(store.root, ignore_errors=True)
        # Without a server, one of two commands finds the store taken, and nothing meets.
        store.serve()
        if arguments.race == "gc":
            code, output = store.run("pull", a.reference)
            beside = ["rm", a.reference]
        else:
            code, output, beside = 0, "", ["pull", wrong.reference]
        if code != 0:
            raise Wrong(f"pull says {code}: {output}")
        other = store.start(*beside)
        code, output = store.run("pull", "--json", b.reference)
        other.communicate(timeout=600)
        if code != 0:
            raise Wrong(f"pull says {code}: {output}")
        if (other.returncode == 0) != (arguments.race == "gc"):
            raise Wrong(f"{beside} says {other.returncode}")
        report["counts"]["raced"] = report["counts"].get("raced", 0) + 1
        store.end(signal.SIGTERM)
        compare(store, [b], False, True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lamina", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--no-kills", action="store_true")
    parser.add_argument("--race", choices=["gc", "stream"])
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    images = make_images(f"{arguments.directory}/images", arguments.lamina, arguments.files, arguments.seed)
    store = Store(arguments.lamina, arguments.directory)
    report = {"seed": arguments.seed, "rounds": 0, "counts": {}}
    try:
        (race if arguments.race else walk)(store, images, arguments, report)
    except Wrong as error:
        report["wrong"] = str(error)
    finally:
        store.end(signal.SIGKILL)
    print(json.dumps(report))
    sys.exit(1 if "wrong" in report else 0)


if __name__ == "__main__":
    main()
