import Glibc

/// A system call that failed: what was tried, on what, and errno.
public struct SystemError: Error, Sendable, Equatable, CustomStringConvertible {
    /// errno's value.
    public var code: Int32
    /// What was tried, in an operator's words: `open`, `write`, `mount`.
    public var operation: String
    /// The path or name that it was tried on.
    public var subject: String

    public init(code: Int32, operation: String, subject: String) {
        self.code = code
        self.operation = operation
        self.subject = subject
    }

    /// The error of the call that has just failed on this thread.
    public static func last(_ operation: String, _ subject: String) -> SystemError {
        SystemError(code: errno, operation: operation, subject: subject)
    }

    public var description: String {
        "\(operation) \(subject): \(Self.text(of: code))" + (memoryHint(limit: ProcessFacts.memoryLimit) ?? "")
    }

    /// What to do if a limit of this process refused memory or a thread. The machine itself has more, and nothing else says so.
    func memoryHint(limit: UInt64?) -> String? {
        guard code == ENOMEM || (code == EAGAIN && operation == Thread.startOperation), let limit,
            limit < ProcessStart.wantedMemory
        else { return nil }
        return
            " (the memory of this process is limited to \(limit >> 20) MiB: 'ulimit -v' and '-d', or LimitAS= in the unit)"
    }

    /// strerror(3) of an errno value.
    public static func text(of code: Int32) -> String {
        var buffer = [CChar](repeating: 0, count: 256)
        // glibc's strerror_r: the XSI form fills the buffer, the GNU form may return a static string instead.
        _ = strerror_r(code, &buffer, buffer.count)
        let text = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return text.isEmpty ? "error \(code)" : text
    }
}
