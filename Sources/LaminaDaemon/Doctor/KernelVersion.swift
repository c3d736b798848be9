import Glibc

/// The release of a kernel, such as `6.18.44-generic`.
struct KernelVersion: Sendable, Equatable, CustomStringConvertible {
    var major: Int
    var minor: Int
    var description: String

    /// nil if it does not begin with two numbers.
    init?(parsing release: String) {
        let numbers = release.split(separator: ".", maxSplits: 2, omittingEmptySubsequences: false)
        guard numbers.count >= 2, let major = Int(numbers[0]) else { return nil }
        guard let minor = Int(numbers[1].prefix { $0.isASCII && $0.isNumber }) else { return nil }
        self.major = major
        self.minor = minor
        description = release
    }

    static var current: KernelVersion? {
        var name = utsname()
        guard uname(&name) == 0 else { return nil }
        return withUnsafeBytes(of: &name.release) { bytes in
            KernelVersion(parsing: String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self))
        }
    }

    func isAtLeast(_ major: Int, _ minor: Int) -> Bool { (self.major, self.minor) >= (major, minor) }
}
