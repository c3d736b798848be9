public import LaminaMerge
import LaminaOCI
import LaminaStore
import Logging

extension Engine {
    /// Checks the store, beside mounts and merges.
    ///
    /// - Parameters:
    ///   - progress: called for each file whose bytes are read.
    ///   - shouldStop: asked often; true ends the check with `MergeError.interrupted`. What was repaired stays repaired.
    public func check(
        _ options: CheckOptions, progress: @escaping @Sendable (PullProgress) -> Void,
        shouldStop: @escaping @Sendable () -> Bool
    ) throws -> CheckReport {
        let subject = options.image ?? "the store"
        let check = StoreCheck(
            merge, options, shouldStop: shouldStop, healed: { [self] in contentsChanged(Set($0)) },
            report: { state in
                progress(
                    PullProgress(
                        stage: .checking, reference: subject, bytes: state.bytes, landedBytes: state.readBytes,
                        fetchedBytes: state.fetchedBytes, current: state.current))
            })
        let report = try check.run()
        for finding in report.damage {
            log.warning(
                "the check found damage",
                metadata: [
                    "kind": "\(finding.kind.rawValue)", "path": "\(finding.path)", "repaired": "\(finding.repaired)",
                    "reason": "\(finding.reason ?? "-")",
                ])
        }
        return report
    }
}
