/// Removes from a text what may be a secret, for texts that are given away.
enum Redaction {
    /// What replaces it.
    static let mark = "hidden"

    static func clean(_ text: String) -> String {
        var clean = text
        // https://user:password@host: everything between the slashes and the last @ of the authority.
        clean.replace(#/://[^/\s"']*@/#, with: "://\(mark)@")
        // The same without a scheme; a digest after a tag does not count.
        clean.replace(#/\b[^\s\/"':@]+:[^\s\/"'@]+@(?!sha256:)/#, with: "\(mark)@")
        // A name that suggests a secret, and its value, quoted or up to the end of the line.
        clean.replace(
            #/(?i)([a-z_\-]*(?:authorization|passwd|password|secret|token|credential|cookie|api_?key)[a-z_\-]*["']?\s*[:=]\s*)(?:"[^"]*"|'[^']*'|[^\r\n,}]+)/#
        ) { "\($0.output.1)\(mark)" }
        clean.replace(#/(?i)\b(basic|bearer)\s+[A-Za-z0-9+\/=._~\-]{6,}/#) { "\($0.output.1) \(mark)" }
        return clean
    }

    /// The same for an error, which may quote a value that was put in the wrong place.
    static func cleanError(_ text: String) -> String { clean(text).replacing(#/'[^'\n]*'/#, with: "'\(mark)'") }
}
