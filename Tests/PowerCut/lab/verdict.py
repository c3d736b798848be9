"""What was found in one case."""

import re

# Each must be empty.
KINDS = {
    "wrong": "bytes or names that are not the image's",
    "index": "SQLite finds the index unsound",
    "damage": "`check` names damage",
    "short": "not there with the registry off, right after `pull` ended with 0",
    "unhealed": "an error for a reader though the registry has it",
    "directory": "a snapshot that is listed and has no directory",
    "manual": "cannot be pulled, mounted, read or ended without help, or hangs",
    "lost": "promised before, and not there any more",
    "misled": "a message or an exit code says what is not so",
    "crashed": "ended by a signal, or without a word",
}
# What is said of an index that is damaged, gone, or of no lamina.
INDEX_IS_BAD = re.compile(r"index (\S+ )?is (damaged|gone)|database disk image is malformed|has version 0")
# A list may be long when all is lost.
MOST = 20


class Verdict:
    def __init__(self, name, **facts):
        self.name, self.facts = name, facts
        self.found = {kind: [] for kind in KINDS}
        self.notes = []

    def add(self, kind, text):
        self.found[kind].append(text)

    def note(self, text):
        self.notes.append(text)

    @property
    def is_bad(self):
        return any(self.found.values())

    def as_json(self):
        found = {kind: {"count": len(texts), "first": [text[:600] for text in texts[:MOST]]}
                 for kind, texts in self.found.items() if texts}
        return {"case": self.name, **self.facts, "found": found, "notes": [note[:600] for note in self.notes[:MOST]]}

    def __str__(self):
        lines = [f"{'BAD' if self.is_bad else 'ok '} {self.name}"]
        lines += [f"    {kind}: {texts[0][:400]} ({len(texts)})" for kind, texts in self.found.items() if texts]
        lines += [f"    note: {note[:300]}" for note in self.notes[:3]]
        return "\n".join(lines)
