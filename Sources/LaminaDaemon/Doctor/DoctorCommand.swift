import LaminaOCI

/// `lamina doctor`: prints the findings.
public struct DoctorCommand: Sendable {
    /// The image whose way is examined; without one the machine is examined.
    public var reference: String?
    public var platform: String?
    public var plainHTTP = false
    public var credentialsFile: String?

    public init(
        reference: String? = nil, platform: String? = nil, plainHTTP: Bool = false, credentialsFile: String? = nil
    ) {
        self.reference = reference
        self.platform = platform
        self.plainHTTP = plainHTTP
        self.credentialsFile = credentialsFile
    }

    /// What `lamina doctor IMAGE --json` shows.
    public struct ImageReport: Sendable, Codable, Equatable {
        public var reference: String
        /// Whether the image can be pulled.
        public var works: Bool
        public var findings: [Finding]
    }

    private func examine(_ reference: String, _ context: CommandContext) throws -> ExitStatus {
        let image = try ImageReference(parsing: reference)
        let registries = context.configuration.registries(
            kept: context.configuration.keptCredentials(root: context.root, log: context.log), log: context.log)
        if let credentialsFile { try registries.use(credentialsFile: absolutePath(credentialsFile), for: image) }
        Interrupts.install()
        let findings = ImageExamination(
            reference: image, platform: try platform.map { try Platform(parsing: $0) },
            plainHTTP: plainHTTP || context.configuration.speaksPlainHTTP(reference), registries: registries,
            shouldStop: { Interrupts.requested }
        ).examine()
        let report = ImageReport(
            reference: image.description, works: !findings.contains { $0.state == .fail }, findings: findings)
        try context.output.show(report) {
            Self.lines(findings, usesColor: context.output.usesColor).joined(separator: "\n") + "\n\n"
                + (report.works ? "\(image) can be pulled." : "\(image) cannot be pulled.")
        }
        return report.works ? .success : .failure
    }

    /// What `lamina doctor podman --json` shows.
    public struct PodmanReport: Sendable, Codable, Equatable {
        /// Whether podman sees the store's images.
        public var works: Bool
        public var findings: [Finding]
    }

    private func examinePodman(_ context: CommandContext) throws -> ExitStatus {
        let isServed = (try? context.client.isServed()) ?? false
        let findings = PodmanExamination(
            root: context.root, configuration: context.configuration, isServed: isServed
        ).examine()
        let report = PodmanReport(works: !findings.contains { $0.state == .fail }, findings: findings)
        try context.output.show(report) {
            Self.lines(findings, usesColor: context.output.usesColor).joined(separator: "\n") + "\n\n"
                + (report.works
                    ? "podman sees the images of this store." : "podman does not see the images of this store.")
        }
        return report.works ? .success : .failure
    }

    public func run(_ context: CommandContext) throws -> ExitStatus {
        if reference == "podman" { return try examinePodman(context) }
        if let reference { return try examine(reference, context) }
        let report = Doctor(root: context.root).examine()
        try context.output.show(report) { Self.text(report, usesColor: context.output.usesColor) }
        return report.works ? .success : .failure
    }

    static func text(_ report: Doctor.Report, usesColor: Bool) -> String {
        var lines = lines(report.findings, usesColor: usesColor)
        lines.append("")
        lines.append(
            !report.works
                ? "lamina cannot work here."
                : report.passthrough
                    ? "lamina works here, with passthrough." : "lamina works here, without passthrough.")
        return lines.joined(separator: "\n")
    }

    private static func lines(_ findings: [Finding], usesColor: Bool) -> [String] {
        let width = findings.map(\.condition.count).max() ?? 0
        return findings.flatMap { finding -> [String] in
            let space = String(repeating: " ", count: width - finding.condition.count)
            let line = "\(mark(finding.state, usesColor))  \(finding.condition)\(space)  \(finding.found)"
            return [line] + (finding.advice.map { [String(repeating: " ", count: width + 11) + "→ " + $0] } ?? [])
        }
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
