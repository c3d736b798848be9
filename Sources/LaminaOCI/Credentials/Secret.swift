/// Text that must not be seen: a password, a token, a header that may contain one. It never prints itself, neither by
/// interpolation nor by reflection.
public struct Secret: Sendable, Hashable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    private let text: String

    public init(_ text: String) { self.text = text }

    public var isEmpty: Bool { text.isEmpty }
    public var description: String { "(secret)" }
    public var debugDescription: String { description }
    public var customMirror: Mirror { Mirror(self, children: []) }

    /// The text itself, only for the code that sends it.
    var revealed: String { text }

    /// Of a header's line, what must not be seen of it: its value, and what of that follows the scheme.
    var valuesOfHeader: [Secret] {
        guard let colon = text.firstIndex(of: ":") else { return [self] }
        let value = text[text.index(after: colon)...].drop { $0 == " " }
        let behind = value.firstIndex(of: " ").map { value[$0...].drop { $0 == " " } }
        return [behind, value].compactMap { $0 }.map { Secret(String($0)) }
    }

    /// Someone else's text without this one in it: a server may repeat what it was sent.
    func removed(from other: String) -> String {
        text.utf8.count < 4
            ? other : other.split(separator: text, omittingEmptySubsequences: false).joined(separator: "…")
    }
}

/// What proves a client's identity to a registry.
public enum Credentials: Sendable, Hashable {
    case basic(user: String, password: Secret)
    /// A refresh token of OAuth2, which docker calls an identity token.
    case identityToken(Secret)
    /// A bearer token that is sent unchanged.
    case registryToken(Secret)

    var secret: Secret {
        switch self {
        case .basic(_, let secret), .identityToken(let secret), .registryToken(let secret): secret
        }
    }
}
