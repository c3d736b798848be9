"""What the user was told up to a moment, made of marks:

    begin                           cuts come after this
    store                           a command has ended with 0: there is a store
    complete IMAGE                  `pull` has ended with 0
    listed IMAGE                    the same, but files of it may go
    incomplete IMAGE                some of its files may go; it stays listed
    gone IMAGE                      it may go as a whole
    snapshot KIND NAME PARENT       containerd was answered: it is there, Active or Committed; PARENT may be -
    snapshotgone NAME               it may go
    sent BYTES                      so much the registry had sent by then
"""

from dataclasses import dataclass, field


@dataclass
class Promises:
    has_store: bool = False
    complete: set = field(default_factory=set)
    listed: set = field(default_factory=set)
    # Name -> (kind, parent).
    snapshots: dict = field(default_factory=dict)
    sent: int = 0
    last: str = ""

    def note(self, text):
        word, *rest = text.split(" ")
        if word == "sent":
            self.sent = int(rest[0])
            return
        self.last = text
        if word == "store":
            self.has_store = True
        elif word == "complete":
            self.complete.add(rest[0])
            self.listed.add(rest[0])
        elif word == "listed":
            self.listed.add(rest[0])
        elif word == "incomplete":
            self.complete.discard(rest[0])
        elif word == "gone":
            self.complete.discard(rest[0])
            self.listed.discard(rest[0])
        elif word == "snapshot":
            self.snapshots[rest[1]] = (rest[0], "" if rest[2] == "-" else rest[2])
        elif word == "snapshotgone":
            self.snapshots.pop(rest[0], None)

    def after(self, texts):
        for text in texts:
            self.note(text)
        return self
