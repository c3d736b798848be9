import CCurl

/// The scheme and authority of a URL, as far as they decide what may be sent there.
///
/// By libcurl's own parser, and by what it says: where two parsers read one text, somebody finds the text that they read differently
/// (`http://registry\@elsewhere/`), and has the one decide who is trusted and the other whom it goes to.
struct Origin: Hashable, Sendable {
    /// `http` or `https`.
    let scheme: String
    /// Host and port, lower case, without a port that the scheme has anyway. An address of IPv6 is in brackets.
    let authority: String

    var text: String { "\(scheme)://\(authority)" }

    /// `nil` for what libcurl takes for no http or https URL, and for one with a user in it.
    init?(of url: String) {
        // Without CURLU_GUESS_SCHEME: what has no scheme is no URL. A NUL would end it for libcurl alone.
        guard !url.utf8.contains(0), let handle = curl_url() else { return nil }
        defer { curl_url_cleanup(handle) }
        guard curl_url_set(handle, CURLUPART_URL, url, UInt32(CURLU_DISALLOW_USER)) == CURLUE_OK,
            let scheme = Self.part(CURLUPART_SCHEME, of: handle)?.lowercased(), scheme == "http" || scheme == "https",
            let host = Self.part(CURLUPART_HOST, of: handle)?.lowercased(), !host.isEmpty
        else { return nil }
        self.scheme = scheme
        // What follows the percent sign of a link-local address is part of where it leads.
        let zone = Self.part(CURLUPART_ZONEID, of: handle).map { "%25\($0)" } ?? ""
        let name = zone.isEmpty || !host.hasSuffix("]") ? host : host.dropLast() + zone + "]"
        authority = Self.part(CURLUPART_PORT, of: handle, UInt32(CURLU_NO_DEFAULT_PORT)).map { "\(name):\($0)" } ?? name
    }

    /// A part of a URL; nil where it has none.
    private static func part(_ part: CURLUPart, of handle: OpaquePointer, _ flags: UInt32 = 0) -> String? {
        var text: UnsafeMutablePointer<CChar>?
        guard curl_url_get(handle, part, &text, flags) == CURLUE_OK, let text else { return nil }
        defer { curl_free(text) }
        return String(cString: text)
    }

    /// A URL without what a signed one keeps its secret in, nor a user and a password; for people.
    static func withoutQuery(_ url: String) -> String {
        let place = String(url.prefix { $0 != "?" && $0 != "#" })
        guard let end = place.firstRange(of: "://") else { return printable(place) }
        let rest = place[end.upperBound...]
        let authority = rest.prefix { $0 != "/" }
        guard let at = authority.lastIndex(of: "@") else { return printable(place) }
        return printable(place[..<end.upperBound] + "…" + rest[at...])
    }
}

/// Someone else's text on one line of the operator's terminal: control characters, and those that turn the direction of what
/// follows, are question marks.
func printable(_ text: some StringProtocol) -> String {
    func isPlain(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator: false
        default: true
        }
    }
    return String(text.map { $0.unicodeScalars.allSatisfy(isPlain) ? $0 : "?" })
}
