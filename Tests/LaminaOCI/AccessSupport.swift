import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Synchronization

@testable import LaminaOCI

/// What the tests of registries share; it ends with the process.
enum Access {
    static let registry: Result<RegistryFixture, any Error> = Result { try RegistryFixture() }
    static let authority: Result<TestAuthority, any Error> = Result { try TestAuthority() }
    static let password = "pass:word"
    /// `htpasswd -nbBC 4 tester pass:word`
    static let htpasswd = "tester:$2y$04$c3QK1lim/qBgbW2WkdV9N.3Un/dvi5E8Md6r7QGKETZBdXLvwRm3C"
    static let content = noise(3_000_000, seed: 77)

    /// A scratch directory with files in it.
    static func directory(_ files: [String: String]) throws -> String {
        let root = try temporaryDirectory("access")
        for (name, text) in files {
            let path = "\(root)/\(name)"
            try createDirectories(String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]))
            let bytes = Array(text.utf8)
            try bytes.withUnsafeBytes { try File(path, O_WRONLY | O_CREAT).write($0, at: 0) }
        }
        return root
    }

    /// A docker configuration for one registry.
    static func config(_ host: String, password: String = password) -> String {
        #"{"auths": {"\#(host)": {"auth": "\#(Base64.encode("tester:\(password)".utf8))"}}}"#
    }
}

/// The reports of retries and of servers that were given up.
final class Tale: Sendable {
    private let lines = Mutex<[String]>([])
    var text: String { lines.withLock { $0.joined(separator: "\n") } }

    func settings(_ change: (inout RegistryClient.Settings) -> Void = { _ in }) -> RegistryClient.Settings {
        var settings = RegistryClient.Settings()
        settings.backoff = .milliseconds(10)
        settings.onRetry = { failure, _ in self.lines.withLock { $0.append("retry: \(failure)") } }
        settings.onFallThrough = { failure in self.lines.withLock { $0.append("next: \(failure)") } }
        change(&settings)
        return settings
    }
}

/// A gzip file of stored blocks (RFC 1952, RFC 1951 §3.2.4).
func storedGzip(_ bytes: [UInt8]) -> [UInt8] {
    var crc: UInt32 = ~0
    for byte in bytes {
        crc ^= UInt32(byte)
        for _ in 0..<8 { crc = crc >> 1 ^ (crc & 1 == 1 ? 0xEDB8_8320 : 0) }
    }
    let little = { (value: UInt32, count: Int) in
        (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * UInt32($0))) }
    }
    var file: [UInt8] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255]
    var rest = bytes[...]
    repeat {
        let block = rest.prefix(60_000)
        rest = rest.dropFirst(block.count)
        file += [rest.isEmpty ? 1 : 0] + little(UInt32(block.count), 2) + little(~UInt32(block.count), 2) + block
    } while !rest.isEmpty
    return file + little(~crc, 4) + little(UInt32(bytes.count), 4)
}
