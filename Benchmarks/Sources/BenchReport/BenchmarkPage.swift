/// `docs/benchmarks.md`: each run writes it again, except what is between the marks.
public struct BenchmarkPage: Sendable {
    public static let notesBegin = "<!-- By hand: from here to the end mark `make bench` changes nothing. -->"
    public static let notesEnd = "<!-- The end mark. -->"

    /// The machine of the measurement: a name and its value.
    public var machine: [(String, String)]
    public var table: ReportTable
    /// What was not available, and why.
    public var absences: [String]

    public init(machine: [(String, String)], table: ReportTable, absences: [String]) {
        self.machine = machine
        self.table = table
        self.absences = absences
    }

    /// - Parameter old: the page before; its part between the marks is kept.
    public func markdown(keeping old: String?) -> String {
        var text = """
            # Benchmarks

            Written by `make bench`; `make bench-quick` prints the same in three minutes, with fewer rounds. Only ratios of one
            run can be compared with those of another machine.


            """
        text += ReportTable.table(["measured on", ""], machine.map { [$0.0, $0.1] })
        text += "\n## Figures\n\n" + table.markdown()
        if !absences.isEmpty {
            text += "\nNot available here:\n\n" + absences.map { "- \($0)\n" }.joined()
        }
        text += """

            A ratio is made of two measurements of one round, which follow each other directly; its order changes from round to
            round. *CPU* is user and system time of all lamina processes, *peak RSS* is VmHWM, *bytes written* `write_bytes` of
            `/proc/PID/io`. The registry is docker-registry on loopback; its CPU is not counted, and its blobs are in the page
            cache.

            ## How each figure is measured


            """
        let known = table.figures.filter {
            table.findings.samples[$0.id] != nil || table.findings.notes[$0.id] != nil
        }
        text += ReportTable.table(
            ["figure", "command", "what is done"],
            known.map { [$0.title, "`make bench-quick PART=\($0.part)`", $0.how] })
        text += "\n## What each step brought\n\n"
        text += Self.notesBegin + "\n" + Self.notes(of: old) + Self.notesEnd + "\n"
        return text
    }

    /// What is between the marks of a page, with its last line ended.
    public static func notes(of page: String?) -> String {
        guard let page, let begin = page.firstRange(of: notesBegin),
            let end = page[begin.upperBound...].firstRange(of: notesEnd)
        else { return "\nNothing is noted yet.\n\n" }
        return String(page[begin.upperBound..<end.lowerBound].drop { $0 == "\n" }.reduce(into: "\n") { $0.append($1) })
    }
}
