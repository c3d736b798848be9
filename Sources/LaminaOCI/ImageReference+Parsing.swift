import Glibc
import LaminaDigest

extension ImageReference {
    /// Reads what a user typed.
    ///
    /// `oci:DIR[:TAG][@sha256:…]`: DIR ends at the first colon, unless a longer DIR with colons exists. Everything else is a registry's
    /// reference in the grammar of https://pkg.go.dev/github.com/distribution/reference, with docker's defaults.
    /// - Parameter directoryExists: asked for the directories that a layout's path could mean.
    /// - Throws: `badReference`; `unsupported` for digests other than SHA-256.
    public init(
        parsing text: String, directoryExists: (String) -> Bool = ImageReference.isDirectory
    ) throws(OCIError) {
        guard text.utf8.count <= 8192, !text.utf8.contains(0) else {
            throw OCIError(.badReference, "the reference '\(text.prefix(100))…' is too long or has a NUL in it")
        }
        if text.hasPrefix("oci:") {
            try self.init(parsingLayout: text.dropFirst(4), directoryExists: directoryExists)
        } else {
            try self.init(parsingRegistry: text)
        }
    }

    /// Whether a path is a directory, symbolic links followed.
    public static func isDirectory(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    private init(parsingLayout text: Substring, directoryExists: (String) -> Bool) throws(OCIError) {
        if !text.isEmpty, directoryExists(String(text)) {
            try self.init(layout: String(text))
            return
        }
        var name = text
        var digest: Digest?
        if let at = text.lastIndex(of: "@"), let found = Digest(parsing: text[text.index(after: at)...]) {
            digest = found
            name = text[..<at]
        }
        if digest != nil, directoryExists(String(name)) {
            try self.init(layout: String(name), digest: digest)
            return
        }
        // The longest directory that exists, asked for at most 16 colons.
        let colons = name.indices.filter { name[$0] == ":" }
        let end = colons.suffix(16).last { directoryExists(String(name[..<$0])) } ?? colons.first
        guard let end else {
            try self.init(layout: String(name), digest: digest)
            return
        }
        try self.init(layout: String(name[..<end]), tag: String(name[name.index(after: end)...]), digest: digest)
    }

    private init(parsingRegistry text: String) throws(OCIError) {
        func bad(_ why: String) -> OCIError {
            OCIError(.badReference, "'\(text.prefix(300))' is no image reference: \(why)")
        }
        if let scheme = text.firstRange(of: "://") {
            throw bad("leave out '\(text[..<scheme.upperBound])'")
        }
        var rest = text[...]
        var digest: Digest?
        if let at = rest.firstIndex(of: "@") {
            let part = rest[rest.index(after: at)...]
            if part.hasPrefix("sha512:") || part.hasPrefix("sha384:") {
                throw OCIError(
                    .unsupported,
                    "'\(text.prefix(300))' names its manifest by \(part.prefix(6)); lamina knows sha256 only")
            }
            digest = Digest(parsing: part)
            guard digest != nil, part.utf8.allSatisfy({ !(UInt8(ascii: "A")...UInt8(ascii: "F")).contains($0) }) else {
                throw bad("what follows '@' is not sha256: and 64 lower-case hex digits")
            }
            rest = rest[..<at]
        }
        if digest == nil, Digest(hex: rest) != nil {
            throw bad("64 hex digits alone are an ID; a repository must not look like one")
        }
        var host = "docker.io"
        if let slash = rest.firstIndex(of: "/") {
            let first = rest[..<slash]
            // Docker's rule, not a registry's, distinguishes a host from the first part of a repository.
            if first == "localhost" || first.utf8.contains(where: Self.marksHost) {
                // A single word without a port is recognized as a host only by its capitals: it must keep them.
                let lower = first.lowercased()
                host = lower == "localhost" || lower.utf8.contains(where: Self.marksHost) ? lower : String(first)
                rest = rest[rest.index(after: slash)...]
            }
        }
        guard Self.isHost(host) else { throw bad("'\(host.prefix(100))' is no host") }
        if host == "index.docker.io" || host == "registry-1.docker.io" { host = "docker.io" }
        var tag: String?
        if let colon = rest.lastIndex(of: ":") {
            tag = String(rest[rest.index(after: colon)...])
            rest = rest[..<colon]
        }
        if let tag, !Self.isTag(tag) {
            throw bad("'\(tag.prefix(150))' is no tag (letters, digits, '_', '.', '-'; at most 128)")
        }
        var repository = String(rest)
        if host == "docker.io", !repository.contains("/") { repository = "library/" + repository }
        guard Self.isRepository(repository), host.utf8.count + 1 + repository.utf8.count <= 255 else {
            throw bad(
                "'\(rest.prefix(300))' is no repository (lower-case letters and digits, parts joined by '.', '_', '-' and '/')"
            )
        }
        self.init(
            place: .registry(host: host, repository: repository), tag: tag ?? (digest == nil ? "latest" : nil),
            digest: digest)
    }

    private static func marksHost(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: ".") || byte == UInt8(ascii: ":") || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
    }

    /// `name[:port]` or `[IPv6][:port]`.
    static func isHost(_ text: some StringProtocol) -> Bool {
        var name = Substring(text)
        if name.hasPrefix("[") {
            guard let end = name.firstIndex(of: "]") else { return false }
            let address = name[name.index(after: name.startIndex)..<end].utf8
            guard (2...45).contains(address.count),
                address.allSatisfy({ isHexadecimal($0) || $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: ".") })
            else { return false }
            let port = name[name.index(after: end)...]
            return port.isEmpty || port.hasPrefix(":") && isPort(port.dropFirst())
        }
        if let colon = name.firstIndex(of: ":") {
            guard isPort(name[name.index(after: colon)...]) else { return false }
            name = name[..<colon]
        }
        guard name.utf8.count <= 253 else { return false }
        return name.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { label in
            let bytes = label.utf8
            guard let first = bytes.first, let last = bytes.last, isAlphanumeric(first), isAlphanumeric(last) else {
                return false
            }
            return bytes.count <= 63 && bytes.allSatisfy { isAlphanumeric($0) || $0 == UInt8(ascii: "-") }
        }
    }

    private static func isPort(_ text: some StringProtocol) -> Bool {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return false }
        return UInt16(text).map { $0 > 0 } ?? false
    }

    private static func isHexadecimal(_ byte: UInt8) -> Bool {
        isAlphanumeric(byte) && Character(Unicode.Scalar(byte)).isHexDigit
    }

    /// `[\w][\w.-]{0,127}`
    static func isTag(_ text: String) -> Bool {
        guard let first = text.utf8.first, (1...128).contains(text.utf8.count) else { return false }
        let isWord = { (byte: UInt8) in isAlphanumeric(byte) || byte == UInt8(ascii: "_") }
        return isWord(first)
            && text.utf8.allSatisfy { isWord($0) || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-") }
    }

    /// Parts of lower-case letters and digits, joined inside by `.`, `_`, `__` or dashes, and to each other by `/`.
    static func isRepository(_ text: String) -> Bool {
        text.split(separator: "/", omittingEmptySubsequences: false).allSatisfy { part in
            var separator: [UInt8] = []
            guard let last = part.utf8.last, isAlphanumeric(last) else { return false }
            var behindWord = false
            for byte in part.utf8 {
                if isAlphanumeric(byte) {
                    if (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) { return false }
                    separator.removeAll(keepingCapacity: true)
                    behindWord = true
                    continue
                }
                separator.append(byte)
                guard behindWord else { return false }
                switch byte {
                case UInt8(ascii: "-") where separator.first == byte: continue
                case UInt8(ascii: ".") where separator.count == 1: continue
                case UInt8(ascii: "_") where separator.count == 1 || separator == [byte, byte]: continue
                default: return false
                }
            }
            return true
        }
    }
}
