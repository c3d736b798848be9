import Glibc
import LaminaSystem
import Synchronization

/// What a server tells the command that started it, through a pipe: `R` if it is ready, or `E`, its exit code, a newline and a
/// sentence. Nothing at all means that it died.
public final class ReadySignal: Sendable {
    private let descriptor: Mutex<Int32?>

    /// Takes ownership of the writing end; nil if no command waits.
    public init(descriptor: Int32?) {
        if let descriptor { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        self.descriptor = Mutex(descriptor)
    }

    public func ready() { send("R") }
    public func failed(_ error: any Error) { send("E\(ExitStatus.code(of: error))\n\(describe(error))") }

    /// Only the first call sends something.
    private func send(_ text: String) {
        guard let descriptor = descriptor.withLock({ $0.take() }) else { return }
        let bytes = Array(text.utf8.prefix(4096))
        // A pipe takes so few bytes at once. If the reader is gone, SIGPIPE is ignored and no command is left to be told.
        _ = write(descriptor, bytes, bytes.count)
        close(descriptor)
    }

    /// What came through the pipe, read to its end.
    enum Message: Equatable {
        case ready
        case failed(exitCode: Int32, String)
        case nothing

        init(_ bytes: [UInt8]) {
            let text = String(decoding: bytes, as: UTF8.self)
            if text.hasPrefix("R") {
                self = .ready
            } else if text.hasPrefix("E"), let end = text.firstIndex(of: "\n"),
                let code = Int32(text[text.index(after: text.startIndex)..<end])
            {
                self = .failed(exitCode: code, String(text[text.index(after: end)...]))
            } else {
                self = .nothing
            }
        }
    }
}
