import Glibc

/// The operating system and processor that an image is for, in Go's words (`linux`, `amd64`, `arm64`/`v8`).
///
/// https://github.com/opencontainers/image-spec/blob/main/image-index.md, `platform`
public struct Platform: Hashable, Sendable, CustomStringConvertible {
    public var os: String
    public var architecture: String
    public var variant: String?

    /// Takes the parts unchanged; see ``normalized``.
    public init(os: String, architecture: String, variant: String? = nil) {
        self.os = os
        self.architecture = architecture
        self.variant = variant
    }

    /// Parses `os/architecture[/variant]`, or an architecture alone, as users type it; the result is normalized.
    ///
    /// - Throws: `badReference`.
    public init(parsing text: String) throws(OCIError) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        let wellFormed = parts.allSatisfy { part in
            !part.isEmpty && part.utf8.count <= 64
                && part.utf8.allSatisfy {
                    isAlphanumeric($0) || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: ".")
                }
        }
        guard wellFormed, (1...3).contains(parts.count) else {
            throw OCIError(.badReference, "'\(text.prefix(100))' is no platform such as linux/amd64 or linux/arm64/v8")
        }
        let platform =
            parts.count == 1
            ? Platform(os: "linux", architecture: parts[0])
            : Platform(os: parts[0], architecture: parts[1], variant: parts.count == 3 ? parts[2] : nil)
        self = platform.normalized
    }

    /// The platform of this machine.
    public static let host: Platform = {
        var name = utsname()
        guard uname(&name) == 0 else { return Platform(os: "linux", architecture: "amd64") }
        let machine = withUnsafeBytes(of: &name.machine) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        return Platform(os: "linux", architecture: machine).normalized
    }()

    /// With containerd's names: `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, `amd64/v1` is `amd64`.
    public var normalized: Platform {
        var os = os.lowercased()
        if os == "macos" { os = "darwin" }
        var architecture = architecture.lowercased()
        var variant = variant?.lowercased()
        if variant?.isEmpty == true { variant = nil }
        switch architecture {
        case "x86_64", "x86-64", "amd64":
            architecture = "amd64"
            if variant == "v1" { variant = nil }
        case "aarch64", "arm64":
            architecture = "arm64"
            if variant == "8" || variant == "v8" { variant = nil }
        case "i386", "i486", "i586", "i686", "386":
            architecture = "386"
            variant = nil
        case "armhf", "armv7l":
            architecture = "arm"
            variant = "v7"
        case "armel", "armv6l":
            architecture = "arm"
            variant = "v6"
        case "arm":
            if let number = variant, Int(number) != nil { variant = "v" + number }
            if variant == nil { variant = "v7" }
        default: break
        }
        return Platform(os: os, architecture: architecture, variant: variant)
    }

    /// `os/architecture[/variant]`
    public var description: String {
        variant.map { "\(os)/\(architecture)/\($0)" } ?? "\(os)/\(architecture)"
    }

    /// What runs on this platform, the best first, as containerd's `platforms.Only` orders it: lower variants of the same
    /// architecture, then the 32-bit one that the processor also runs.
    public var runnable: [Platform] {
        let own = normalized
        var result = [own]
        func add(_ architecture: String, _ variants: [String?]) {
            for variant in variants {
                let platform = Platform(os: own.os, architecture: architecture, variant: variant)
                if !result.contains(platform) { result.append(platform) }
            }
        }
        let level = own.variant.flatMap { $0.hasPrefix("v") ? Int($0.dropFirst()) : nil } ?? 0
        switch own.architecture {
        case "amd64":
            // Levels 1 to 4 exist; a higher variant says nothing more.
            if level > 1 { add("amd64", stride(from: min(level, 5) - 1, through: 2, by: -1).map { "v\($0)" }) }
            add("amd64", [nil])
            add("386", [nil])
        case "arm64":
            add("arm64", [nil])
            add("arm", ["v8", "v7", "v6", "v5"])
        case "arm":
            add("arm", stride(from: min(level, 9) - 1, through: 5, by: -1).map { "v\($0)" })
        default: break
        }
        return result
    }

    /// How well an image for `other` fits: 0 is best, `nil` means that it does not fit.
    public func rank(of other: Platform) -> Int? { runnable.firstIndex(of: other.normalized) }
}

extension Platform {
    init(_ field: JSONField) throws(OCIError) {
        self.init(
            os: try field.optional("os")?.string() ?? "",
            architecture: try field.optional("architecture")?.string() ?? "",
            variant: try field.optional("variant")?.string())
    }

    var json: JSON {
        var members = [JSON.Member("architecture", .string(architecture)), JSON.Member("os", .string(os))]
        if let variant { members.append(JSON.Member("variant", .string(variant))) }
        return .object(members)
    }
}

/// ASCII letters and digits.
func isAlphanumeric(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
        UInt8(ascii: "A")...UInt8(ascii: "Z"):
        true
    default: false
    }
}
