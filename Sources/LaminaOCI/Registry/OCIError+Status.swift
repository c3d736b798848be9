extension OCIError {
    /// The error that a status means.
    ///
    /// - Parameter message: what the registry says, on one line and without secrets.
    init(status head: HTTPHead, message: String?, url: String, subject: String) {
        let details = message.map { " (\($0))" } ?? ""
        let answer = "\(url) answered \(head.status)\(details)"
        switch head.status {
        case 401: self.init(.unauthorized, "the registry wants credentials for \(subject): \(answer)")
        case 403: self.init(.unauthorized, "the registry refuses \(subject): \(answer)")
        case 404: self.init(.notFound, "the registry has no \(subject): \(answer)")
        case 408, 429, 500...599: self.init(.unavailable, "the registry does not serve \(subject) now: \(answer)")
        case 416: self.init(.http, "the registry does not have these bytes of \(subject): \(answer)")
        default: self.init(.http, "the registry does not serve \(subject): \(answer)")
        }
    }

    /// The first error that a registry names, on one line:
    /// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
    static func registryMessage(in body: [UInt8]) -> String? {
        guard case .array(let errors)? = try? JSON.parse(body)["errors"], let first = errors.first else { return nil }
        let parts = ["code", "message"].compactMap { name -> String? in
            guard case .string(let text)? = first[name], !text.isEmpty else { return nil }
            // Someone else's text on the operator's terminal.
            return printable(withoutQueries(text.prefix(messageLimit)).prefix(200))
        }
        return parts.isEmpty ? nil : parts.joined(separator: ": ")
    }

    /// Of a text that is longer nothing is looked at.
    private static let messageLimit = 2000

    /// A text whose URLs have lost their queries: the query of a signed URL would give a reader of the log the right to use it.
    private static func withoutQueries(_ text: some StringProtocol) -> String {
        text.split(separator: " ", omittingEmptySubsequences: false).map { word in
            word.contains("://") ? Origin.withoutQuery(String(word)) : String(word)
        }.joined(separator: " ")
    }
}
