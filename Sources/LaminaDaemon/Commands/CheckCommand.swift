import Glibc
import LaminaMerge
import LaminaOCI
import LaminaStore
import LaminaSystem

/// `lamina check`: checks the store against its own records, and repairs what is damaged.
public struct CheckCommand: Sendable {
    var options: CheckOptions

    /// - Parameters: as of `CheckOptions`.
    public init(image: String?, readPercent: Double?, repairs: Bool, seconds: Double?) {
        options = CheckOptions(image: image, readPercent: readPercent, repairs: repairs, seconds: seconds)
    }

    /// - Returns: `damaged` if something was, whether or not it was repaired.
    public func run(_ context: CommandContext) throws -> ExitStatus {
        var options = options
        options.image = try options.image.map { try ImageReference(parsing: $0).description }
        Interrupts.install()
        let display = ProgressDisplay(output: context.output)
        let report = try stoppable("check") {
            defer { display.end() }
            // A server that is ending has not begun with it: if there is none, or a new one, the command takes the other way.
            let deadline = monotonicSeconds() + EngineAccess.patience
            while true {
                do {
                    if try context.client.isServed() { return try context.client.check(options) { display.show($0) } }
                    return try checkLocally(options, context) { display.show($0) }
                } catch let error as DaemonError where error.code == .noServer && monotonicSeconds() < deadline {
                    usleep(50_000)
                }
            }
        }
        try context.output.show(report) { Self.text(report, repairs: options.repairs) }
        return report.damage.isEmpty ? .success : .damaged
    }

    /// Without a server: the index is examined before anything is opened, because a damaged one cannot be opened.
    private func checkLocally(
        _ options: CheckOptions, _ context: CommandContext, _ progress: @escaping @Sendable (PullProgress) -> Void
    ) throws -> CheckReport {
        var finding: CheckFinding?
        switch try Store.indexState(root: context.root) {
        case .sound: break
        case .noStore:
            throw StoreError(.missing, "there is no store at \(context.root); 'lamina pull' makes one")
        case .missing(let files):
            let reason = "the index is gone, and \(counted(files, "file")) of it are there"
            guard options.repairs else { return report(context, reason + "; --repair makes it anew from them") }
            finding = CheckFinding(.index, path: "index.db", repaired: true, reason: reason)
        case .damaged(let problems):
            let reason = problems.joined(separator: "; ")
            guard options.repairs else {
                return report(context, reason + "; --repair makes it anew from the files")
            }
            finding = CheckFinding(
                .index, path: "index.db", repaired: true,
                reason: reason + Self.outcome(try Store.rescueIndex(root: context.root)))
        }
        guard case .local(let engine) = try EngineAccess.open(context) else {
            // What was done to the index must be neither done nor reported again.
            throw DaemonError(
                finding == nil ? .noServer : .busy, "a server has just started on \(context.root); try again")
        }
        defer { engine.shutdown(unmount: false) }
        // Nothing is known now of an image that was in the index.
        var options = options
        if finding != nil { options.image = nil }
        var report = try engine.check(options, progress: progress, shouldStop: { Interrupts.requested })
        if let finding { report.damage.insert(finding, at: 0) }
        return report
    }

    private func report(_ context: CommandContext, _ reason: String) -> CheckReport {
        var report = CheckReport(root: context.root, image: options.image)
        report.damage = [CheckFinding(.index, path: "index.db", reason: reason)]
        report.complete = false
        return report
    }

    private static func outcome(_ rescue: IndexRescue) -> String {
        switch rescue {
        case .reindexed: return "; only what is sorted beside its tables was wrong, and was made anew"
        case .setAside(let path, let images):
            let again = images.map { "'lamina pull \($0)'" }.joined(separator: ", ")
            return "; it is kept as \(path), and images have to be pulled again, which fetches no file that is there"
                + (images.isEmpty ? "" : ": \(again)")
        }
    }

    // MARK: Words

    static func text(_ report: CheckReport, repairs: Bool) -> String {
        var lines = report.damage.map { finding -> String in
            var line = "\(words(finding.kind)): \(finding.path)"
            if !finding.chunks.isEmpty {
                let shown = finding.chunks.prefix(3).map { "\($0.size) bytes at \($0.offset)" }.joined(separator: ", ")
                line += ": \(shown)" + (finding.chunks.count > 3 ? " and \(finding.chunks.count - 3) more" : "")
            }
            line += finding.repaired ? "; repaired" : ""
            return line + (finding.reason.map { "; \($0)" } ?? "")
        }
        if report.unknown.files > 0 {
            let unknown = report.unknown
            lines.append(
                "\(counted(unknown.files, "file")) of \(Units.bytes(unknown.bytes)) that the index does not know"
                    + (repairs
                        ? ": \(unknown.adopted) taken in (\(Units.bytes(unknown.adoptedBytes))), \(unknown.removed) removed"
                        : "; --repair takes in what is whole"))
        }
        if report.skipped > 0 {
            lines.append("\(counted(Int(report.skipped), "file")) being merged just now; not judged")
        }
        let looked = "\(counted(Int(report.contents), "content")), \(Units.bytes(report.bytes))"
        let read = report.readBytes > 0 ? ", of which \(Units.bytes(report.readBytes)) were read" : ""
        let fetched = report.fetchedBytes > 0 ? ", \(Units.bytes(report.fetchedBytes)) fetched" : ""
        let verdict =
            report.damage.isEmpty
            ? "no damage" : "\(report.damage.count) damaged, \(report.repaired) repaired"
        lines.append("\(looked) checked\(read): \(verdict)\(fetched)")
        if !report.complete { lines.append("not everything was looked at; the next check goes on from here") }
        return lines.joined(separator: "\n")
    }

    private static func words(_ kind: CheckFinding.Kind) -> String {
        switch kind {
        case .index: "damaged index"
        case .missing: "missing file"
        case .size: "file of a wrong size"
        case .hole: "file with a hole"
        case .digest: "file with wrong bytes"
        case .quarantine: "layer in quarantine"
        case .unreadable: "file that cannot be read"
        }
    }
}
