import LaminaFormats
import LaminaSystem

/// The options that a kernel was built with.
enum KernelConfiguration {
    /// How an option is set.
    enum Setting: Equatable { case builtIn, module, off }

    /// Kernel configurations have some 300 KiB.
    static let sizeLimit = 16 << 20

    /// The running kernel's options as text, and where they were found: in the kernel itself, or beside it on disk.
    static func read(release: String) -> (text: [UInt8], path: String)? {
        if let packed = try? readFile("/proc/config.gz", limit: sizeLimit), let text = try? unpack(packed) {
            return (text, "/proc/config.gz")
        }
        // The kernel itself gives the release, but it is used in a file's path here.
        guard !release.contains("/") else { return nil }
        let path = "/boot/config-\(release)"
        return (try? readFile(path, limit: sizeLimit)).map { ($0, path) }
    }

    static func unpack(_ packed: [UInt8]) throws -> [UInt8] {
        var text: [UInt8] = []
        let stream = try StreamDecompressor(.gzip)
        try packed.withUnsafeBytes { bytes in
            try stream.push(bytes) { piece in
                text += piece
                guard text.count <= sizeLimit else {
                    throw DaemonError(.serverFailed, "the kernel's configuration is larger than \(sizeLimit) bytes")
                }
            }
        }
        try stream.finish()
        return text
    }

    /// How `option` is set: `CONFIG_X=y`, `CONFIG_X=m`; `# CONFIG_X is not set` and a missing line both mean off.
    static func setting(of option: String, in text: [UInt8]) -> Setting {
        let prefix = Array("\(option)=".utf8)
        for line in text.split(separator: UInt8(ascii: "\n")) where line.starts(with: prefix) {
            switch line.dropFirst(prefix.count).first {
            case UInt8(ascii: "y"): return .builtIn
            case UInt8(ascii: "m"): return .module
            default: return .off
            }
        }
        return .off
    }
}
