"""Looks at a store after a cut or a fault.

With the registry off, a reader gets right bytes or an honest error, and all that was promised. With the registry on, all is
there: by reading, by `pull`. Off again, what `pull` ended with 0 for is there.
"""

import json
import os
import time

from . import index, snapshots
from .programs import Failed, Hangs, last_words
from .verdict import INDEX_IS_BAD


class Inspection:
    def __init__(self, machine, images, workload, promises, verdict, extra=None):
        self.machine, self.images, self.workload = machine, images, workload
        self.registry = machine.registry
        self.promises, self.verdict = promises, verdict
        # Variables of lamina's environment that the workload had.
        self.extra = extra
        # Name -> where it is mounted.
        self.points = {}
        # Of a disk that was damaged before, nothing is known until it was repaired.
        self.is_damaged = workload.is_damaged and not promises.complete

    def run(self, reads_first=False):
        """With `reads_first` readers have to heal what is missing, before `pull` has the chance."""
        began = time.monotonic()
        try:
            self.registry.is_on = False
            self.look_at_index()
            self.look_while_off()
            self.registry.is_on = True
            if self.workload.has_snapshots:
                self.look_at_snapshots()
            before = self.registry.sent
            if self.workload.is_damaged:
                self.repair()
            if reads_first:
                for name in list(self.points):
                    self.read(name, "while on", "unhealed")
            for name in self.workload.images:
                self.pull(name)
            self.verdict.facts["fetched"] = self.registry.sent - before
            self.check("after all")
            self.umount()
        except Hangs as error:
            self.verdict.add("manual", str(error))
        except Failed as error:
            self.verdict.add("manual", str(error))
        finally:
            self.registry.is_on = True
        self.verdict.facts["seconds"] = round(time.monotonic() - began, 1)

    def lamina(self, *words):
        return self.machine.lamina(*words, check=False, extra=self.extra)

    # --- the registry is off ---

    def look_at_index(self):
        found = index.problems(self.machine.root, self.machine.directory)
        if found and not self.is_damaged:
            self.verdict.add("index", "; ".join(found[:5]))

    def look_while_off(self):
        listed, done = self.machine.images()
        if done.returncode:
            if self.is_damaged or not self.promises.has_store:
                self.verdict.note(f"ls: {last_words(done)}")
            else:
                self.misled(done)
                self.verdict.add("manual", f"ls: {last_words(done)}")
        for name in sorted(self.promises.listed - set(listed)):
            self.verdict.add("lost", f"{name} is not listed")
        for name in sorted(listed):
            self.mount_and_read_while_off(name)
        if os.path.exists(self.machine.root) and not self.is_damaged:
            self.check("at first")

    def mount_and_read_while_off(self, name):
        is_promised = name in self.promises.complete
        done = self.mount(name)
        if done.returncode:
            text = f"mount {name}: {last_words(done)}"
            if is_promised:
                self.verdict.add("lost", text)
            else:
                self.verdict.note(text)
            return
        # What is said of it now that the store was opened in this boot.
        state = self.machine.images()[0].get(name, {}).get("state")
        errors = self.read(name, "while off", "lost" if is_promised else None)
        if errors and state == "complete" and not self.is_damaged:
            self.verdict.add("misled", f"{name} is listed as complete, {errors} files are not there")

    def misled(self, done):
        """An index that is sound is called damaged."""
        if not self.is_damaged and INDEX_IS_BAD.search(done.stderr + done.stdout):
            self.verdict.add("misled", last_words(done))

    # --- on ---

    def look_at_snapshots(self):
        chains = {snapshots.lazy_layer(self.images, self.registry, name)[0]: name for name in self.workload.chains}
        snapshots.inspect(self.machine, self.promises.snapshots, self.verdict,
                          lambda name, found: self.compare(name, found, "in its snapshot", "unhealed"), chains)

    def repair(self):
        done = self.lamina("check", "--read-data", "--repair", "--json")
        if done.returncode not in (0, 2):
            self.verdict.add("manual", f"check --repair: {last_words(done)}")
        # Repaired or not, from here on bytes are right.
        self.is_damaged = False

    def pull(self, name):
        done = self.lamina("pull", self.machine.reference(name))
        if done.returncode:
            self.misled(done)
            self.verdict.add("manual", f"pull {name}: {last_words(done)}")
            return
        if not self.workload.is_limited:
            self.registry.is_on = False
            state = self.machine.images()[0].get(name, {}).get("state")
            if state != "complete":
                self.verdict.add("misled", f"pull {name} ended with 0, and it is {state}")
        try:
            if name not in self.points and (done := self.mount(name)).returncode:
                self.verdict.add("manual", f"mount {name} after pull: {last_words(done)}")
                return
            errors = self.read(name, "after pull", None if self.workload.is_limited else "short")
        finally:
            self.registry.is_on = True
        if errors:
            self.read(name, "on again", "unhealed")

    def umount(self):
        for point in self.points.values():
            done = self.lamina("umount", point)
            if done.returncode:
                self.verdict.add("manual", f"umount: {last_words(done)}")

    # --- at any time ---

    def mount(self, name):
        # Not where it was mounted before: there the next server mounts it by itself.
        point = self.machine.point("seen-" + name)
        done = self.lamina("mount", self.machine.reference(name), point)
        if done.returncode == 0:
            self.points[name] = point
        return done

    def read(self, name, when, strict):
        return self.compare(name, self.machine.read(self.points[name]), when, strict)

    def compare(self, name, found, when, strict):
        """Returns how many files are errors, which is fine where `strict` names no kind."""
        files, errors = self.images[name].files, 0
        for path, fact in files.items():
            seen = found.get(path)
            if isinstance(seen, str):
                errors += 1
                if strict:
                    self.verdict.add(strict, f"{when}, {name}/{path}: {seen}")
            elif seen is None:
                self.verdict.add("wrong", f"{when}, {name}/{path} is missing")
            elif tuple(seen) != fact and not self.is_damaged:
                self.verdict.add("wrong", f"{when}, {name}/{path} has other bytes: {seen}")
        for path in sorted(set(found) - set(files)):
            self.verdict.add("wrong", f"{when}, {name} has {path} too: {found[path]}")
        return errors

    def check(self, when):
        done = self.lamina("check", "--read-data", "--json")
        if done.returncode == 0:
            return
        text = f"check {when}: exit code {done.returncode}, {damage(done)}"
        # Before the first command has ended there may be no index yet.
        if when == "at first" and not self.promises.has_store:
            self.verdict.note(text)
        else:
            self.misled(done)
            self.verdict.add("damage", text)


def damage(done):
    """The first things that `check --json` names, or what it said instead."""
    try:
        found = json.loads(done.stdout).get("damage") or done.stdout
        return json.dumps(found[:3] if isinstance(found, list) else found)[:800]
    except (ValueError, AttributeError):
        return last_words(done)
