import Glibc
import LaminaStore
import LaminaSystem

extension Engine {
    /// How long the mount may take to answer, in milliseconds.
    private static let answerLimit: Int32 = 5000

    /// Asks the index, and, through a separate process, the mount itself.
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

    /// The result of looking up a name in the mount; nil: none within the limit. Makes one process, and keeps it as long as
    /// that gets answers.
    private func askMount() throws -> Int32? {
        try prober.withLock { held in
            let prober = try held ?? Prober(path: Watchdog.probePath(in: root + "/fs"))
            let answer = prober.probe(milliseconds: Self.answerLimit)
            held = answer == nil ? nil : prober
            return answer
        }
    }
}
