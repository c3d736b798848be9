public import LaminaDigest

/// Names a backing file: the content's digest and, for contents of several chunks, the chunk list that is claimed for it.
public struct BackingName: Hashable, Sendable {
    public var digest: Digest
    /// SHA-256 of the chunk list; nil for a content of one chunk.
    public var claim: Digest?

    public init(digest: Digest, claim: Digest?) {
        self.digest = digest
        self.claim = claim
    }

    /// `ab/abcd…` or `ab/abcd….<claim>`, relative to `content/`. The whole claim is in it: for a part of a claim, an attacker
    /// could find two chunk lists that agree in that part, a true one and a false one, and have the false one written into the
    /// file of the true one.
    public var path: String {
        let hex = digest.hex
        guard let claim else { return "\(hex.prefix(2))/\(hex)" }
        return "\(hex.prefix(2))/\(hex).\(claim.hex)"
    }

    /// Reads the last part of `path`; nil if it is not a backing file's name.
    init?(file: String) {
        let parts = file.split(separator: ".", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), let digest = Digest(hex: parts[0]) else { return nil }
        guard parts.count == 2 else {
            self.init(digest: digest, claim: nil)
            return
        }
        guard let claim = Digest(hex: parts[1]) else { return nil }
        self.init(digest: digest, claim: claim)
    }

    /// Reads the name that a file has for a moment beside its own, while it is linked or copied: `<name>.link`, `<name>.copy`,
    /// `<name>.aside`.
    ///
    /// - Returns: nil for any other name.
    init?(momentary file: String) {
        guard let dot = file.lastIndex(of: "."),
            [".link", ".copy", ContentFiles.asideSuffix].contains(String(file[dot...]))
        else { return nil }
        self.init(file: String(file[..<dot]))
    }
}

extension Digest {
    /// 64 lower-case hex digits.
    init?(hex: Substring) {
        guard hex.utf8.count == 64 else { return nil }
        self.init(parsing: "sha256:\(hex)")
    }
}
