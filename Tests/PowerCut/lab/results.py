"""A line of JSON for each case, what is printed meanwhile, and the table at the end."""

import json
import os
import statistics
from collections import Counter

from .verdict import KINDS


class Results:
    """`key` of a verdict's facts is the row of the table that it counts in."""

    def __init__(self, path):
        self.path, self.rows = path, {}
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.file = open(path, "a")
        # Rows of which too much was fetched again.
        self.excesses = []

    def add(self, row, verdict, shows=False):
        self.rows.setdefault(row, []).append(verdict)
        print(json.dumps({"row": row, **verdict.as_json()}), file=self.file, flush=True)
        if verdict.is_bad or shows:
            print(verdict, flush=True)

    def hold(self, row, limit):
        """At most so many bytes may be fetched after a cut, in the median."""
        median = self.median(row, "fetched")
        if median is not None and median > limit:
            self.excesses.append(f"{row}: {mib(median)} MiB are fetched after a cut in the median, more than {mib(limit)}")

    def median(self, row, fact):
        values = [verdict.facts[fact] for verdict in self.rows.get(row, []) if fact in verdict.facts]
        return statistics.median(values) if values else None

    def is_bad_row(self, row):
        return any(verdict.is_bad for verdict in self.rows.get(row, []))

    @property
    def is_bad(self):
        return bool(self.excesses) or any(map(self.is_bad_row, self.rows))

    def table(self):
        """One line a row; the last one is the sum."""
        heads = ["cases", "bad", *KINDS, "no disk", "fetched", "again"]
        lines = [self._line(row, verdicts) for row, verdicts in self.rows.items()]
        lines.append(self._line("all", [verdict for verdicts in self.rows.values() for verdict in verdicts], is_sum=True))
        width = max(len(line[0]) for line in lines)
        text = ["".ljust(width) + "".join(head.rjust(max(len(head) + 2, 7)) for head in heads)]
        for name, *values in lines:
            cells = (str(value).rjust(max(len(head) + 2, 7)) for head, value in zip(heads, values))
            text.append(name.ljust(width) + "".join(cells))
        return "\n".join([*self.excesses, *text])

    def _line(self, name, verdicts, is_sum=False):
        counts = Counter(kind for verdict in verdicts for kind, texts in verdict.found.items() if texts)
        medians = ["-" if is_sum or (value := self.median(name, fact)) is None else mib(value) for fact in ("fetched", "again")]
        return [name, len(verdicts), sum(verdict.is_bad for verdict in verdicts), *(counts[kind] for kind in KINDS),
                sum("disk" in verdict.facts for verdict in verdicts), *medians]


def mib(count):
    return f"{count / (1 << 20):.1f}"
