/// Takes out of a text what may be a secret, for texts that are given away.
enum Redaction {
    /// What stands in its place.
    static let mark = "hidden"

    static func clean(_ text: String) -> String {
        var clean = text
        // https://user:password@host: everything between the slashes and the last @ of the authority.
        clean.replace(#/://[^/\s"']*@/#, with: "://\(mark)@")
        // The same without a scheme; a digest behind a tag is none.
        clean.replace(#/\b[^\s\/"':@]+:[^\s\/"'@]+@(?!sha256:)/#, with: "\(mark)@")
        // A name that speaks of a secret, and what is set to it, quoted or up to the end of the line.
        clean.replace(
            #/(?i)([a-z_\-]*(?:authorization|passwd|password|secret|token|credential|cookie|api_?key)[a-z_\-]*["']?\s*[:=]\s*)(?:"[^"]*"|'[^']*'|[^\r\n,}]+)/#
        ) { "\($0.output.1)\(mark)" }
        clean.replace(#/(?i)\b(basic|bearer)\s+[A-Za-z0-9+\/=._~\-]{6,}/#) { "\($0.output.1) \(mark)" }
        return clean
    }

    /// The same of an error, which may quote a value that somebody put in the wrong place.
    static func cleanError(_ text: String) -> String { clean(text).replacing(#/'[^'\n]*'/#, with: "'\(mark)'") }
}
