/// The results: samples by figure, and words if there are none.
public struct Findings: Sendable {
    public private(set) var samples: [String: Samples] = [:]
    /// Why a figure has no value, or what a reader has to know about it.
    public private(set) var notes: [String: String] = [:]

    public init() {}

    public mutating func add(_ id: String, _ value: Double) { samples[id, default: Samples()].add(value) }
    public mutating func note(_ id: String, _ text: String) { notes[id] = text }
}

/// The figures as a table, in Markdown that also reads well on a terminal.
public struct ReportTable: Sendable {
    public var figures: [Figure]
    public var findings: Findings

    public init(figures: [Figure], findings: Findings) {
        self.figures = figures
        self.findings = findings
    }

    /// The figures that have something to reach, then the others.
    public func markdown() -> String {
        let bound = figures.filter { $0.bound != nil && isKnown($0) }
        let others = figures.filter { $0.bound == nil && isKnown($0) }
        var text = ""
        if !bound.isEmpty {
            text += Self.table(
                ["what", "value", "min – median – max", "runs", "at least", "aim", "met"], bound.map(row))
        }
        if !others.isEmpty {
            if !text.isEmpty { text += "\n" }
            text += Self.table(
                ["for comparison", "value", "min – median – max", "runs"], others.map { Array(row($0).prefix(4)) })
        }
        return text
    }

    /// How many figures do not reach what they must.
    public var missed: Int {
        figures.count { $0.verdict(of: findings.samples[$0.id] ?? Samples()) == .missed }
    }

    private func isKnown(_ figure: Figure) -> Bool {
        findings.samples[figure.id] != nil || findings.notes[figure.id] != nil
    }

    private func row(_ figure: Figure) -> [String] {
        let samples = findings.samples[figure.id] ?? Samples()
        var limit = "", aim = ""
        switch figure.bound {
        case .atMost(let most, let best), .atLeast(let most, let best):
            limit = figure.text(of: most, sign: true)
            aim = figure.text(of: best, sign: true)
        case nil: break
        }
        guard let value = figure.value(of: samples), let least = samples.minimum, let median = samples.median,
            let most = samples.maximum
        else {
            return [figure.title, findings.notes[figure.id] ?? "not measured", "", "0", limit, aim, "–"]
        }
        let unit = figure.unit
        return [
            figure.title, unit.text(value), [least, median, most].map(unit.text).joined(separator: " – "),
            "\(samples.count)", limit, aim, figure.verdict(of: samples)?.rawValue ?? "",
        ]
    }

    /// Columns of the same width, so that the source can be read as well.
    static func table(_ head: [String], _ rows: [[String]]) -> String {
        let cells = ([head] + rows).map { $0.map { $0.replacing("|", with: "\\|").replacing("\n", with: " ") } }
        let widths = head.indices.map { column in cells.map { $0[column].count }.max() ?? 0 }
        func line(_ row: [String]) -> String {
            "| " + zip(row, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }.joined(separator: " | ")
                + " |\n"
        }
        let rule = "|" + widths.map { String(repeating: "-", count: $0 + 2) }.joined(separator: "|") + "|\n"
        return line(cells[0]) + rule + cells.dropFirst().map(line).joined()
    }
}
