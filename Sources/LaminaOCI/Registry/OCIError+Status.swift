extension OCIError {
    /// The error for a status.
    init(status head: HTTPHead, body: [UInt8], url: String, subject: String) {
        let details = Self.registryMessage(in: body).map { " (\($0))" } ?? ""
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
            // It is another party's text on the operator's terminal.
            return String(
                text.prefix(200).map {
                    $0.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F } ? $0 : "?"
                })
        }
        return parts.isEmpty ? nil : parts.joined(separator: ": ")
    }
}
