/// `lamina doctor`: prints the findings.
public struct DoctorCommand: Sendable {
    public init() {}

    public func run(_ context: CommandContext) throws -> ExitStatus {
        let report = Doctor(root: context.root).examine()
        try context.output.show(report) { Self.text(report, usesColor: context.output.usesColor) }
        return report.works ? .success : .failure
    }

    static func text(_ report: Doctor.Report, usesColor: Bool) -> String {
        let width = report.findings.map(\.condition.count).max() ?? 0
        var lines = report.findings.flatMap { finding -> [String] in
            let space = String(repeating: " ", count: width - finding.condition.count)
            let line = "\(mark(finding.state, usesColor))  \(finding.condition)\(space)  \(finding.found)"
            return [line] + (finding.advice.map { [String(repeating: " ", count: width + 11) + "→ " + $0] } ?? [])
        }
        lines.append("")
        lines.append(
            !report.works
                ? "lamina cannot work here."
                : report.passthrough
                    ? "lamina works here, with passthrough." : "lamina works here, without passthrough.")
        return lines.joined(separator: "\n")
    }

    private static func mark(_ state: Finding.State, _ usesColor: Bool) -> String {
        let word = state.rawValue + String(repeating: " ", count: 7 - state.rawValue.count)
        guard usesColor else { return word }
        let color =
            switch state {
            case .ok: 32
            case .warn: 33
            case .fail: 31
            case .unknown: 36
            }
        return "\u{1B}[\(color)m\(word)\u{1B}[0m"
    }
}
