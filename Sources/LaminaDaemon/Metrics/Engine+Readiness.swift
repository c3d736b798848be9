import Glibc
import LaminaStore
import LaminaSystem

extension Engine {
    /// How long the mount may take to answer, in milliseconds.
    private static let answerLimit: Int32 = 5000

    /// Asks the index, and the mount itself, through a process of its own.
    public func whyNotReady() -> String? {
        do {
            guard isServing else { return "the file system \(root)/fs is not mounted" }
            _ = try store.index.mounts()
            switch try askMount() {
            case ENOENT: return nil
            case nil: return "the file system \(root)/fs does not answer"
            case let error?: return "the file system \(root)/fs answers with \(SystemError.text(of: error))"
            }
        } catch {
            return describe(error)
        }
    }

    /// What looking up a name in the mount brings; nil: nothing within the limit. Makes one process, and keeps it as long as it
    /// is answered.
    private func askMount() throws -> Int32? {
        try prober.withLock { held in
            let prober = try held ?? Prober(path: Watchdog.probePath(in: root + "/fs"))
            let answer = prober.probe(milliseconds: Self.answerLimit)
            held = answer == nil ? nil : prober
            return answer
        }
    }
}
