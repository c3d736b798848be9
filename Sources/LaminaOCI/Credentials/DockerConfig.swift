/// The part of docker's `config.json` (and of podman's `auth.json`) with credentials.
///
/// https://docs.docker.com/reference/cli/docker/login/,
/// https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md
package struct DockerConfig: Sendable {
    /// By registry, and in podman's files also by registry and beginning of the repository.
    private(set) var auths: [String: Credentials] = [:]
    /// The helper for a registry.
    private(set) var helpers: [String: String] = [:]
    /// The helper for every other registry.
    private(set) var store: String?

    /// More than any user has registries.
    static let byteLimit = 1 << 20

    /// Reads a file's bytes.
    ///
    /// - Throws: `badConfiguration`, naming the file and the key, never a value.
    package init(parsing bytes: [UInt8], path: String) throws(OCIError) {
        func wrong(_ what: String) -> OCIError { OCIError(.badConfiguration, "the credentials in \(path): \(what)") }
        // docker takes an empty file for one without entries.
        if bytes.allSatisfy({ [0x20, 0x09, 0x0A, 0x0D].contains($0) }) { return }
        let root: JSON
        do throws(JSON.SyntaxError) {
            root = try JSON.parse(bytes)
        } catch {
            throw wrong("byte \(error.offset) is not valid JSON")
        }
        guard case .object = root else { throw wrong("they are no JSON object") }
        if case .object(let members)? = root["auths"] {
            for member in members {
                if let found = try Self.credentials(in: member.value, { wrong("auths of '\(member.name)' \($0)") }) {
                    auths[Self.key(member.name)] = found
                }
            }
        } else if let other = root["auths"], other != .null {
            throw wrong("auths is no object")
        }
        if case .object(let members)? = root["credHelpers"] {
            for member in members {
                guard case .string(let name) = member.value else { throw wrong("credHelpers holds what is no text") }
                helpers[Self.key(member.name)] = name
            }
        }
        if case .string(let name)? = root["credsStore"], !name.isEmpty { store = name }
    }

    /// The credentials in an object of `auths`; nil if it has none.
    ///
    /// - Parameter wrong: makes the error for what `auth` should have been.
    static func credentials(
        in entry: JSON, _ wrong: (String) -> OCIError
    ) throws(OCIError) -> Credentials? {
        func text(_ name: String) -> String? {
            guard case .string(let text)? = entry[name], !text.isEmpty else { return nil }
            return text
        }
        if let token = text("identitytoken") { return .identityToken(Secret(token)) }
        if let token = text("registrytoken") { return .registryToken(Secret(token)) }
        if let auth = text("auth") {
            guard let bytes = Base64.decode(auth) else { throw wrong("is no base64") }
            // Docker pads with NULs, and removes them again.
            let plain = String(decoding: bytes, as: UTF8.self)
            guard let colon = plain.firstIndex(of: ":") else { throw wrong("has no colon between user and password") }
            var password = plain[plain.index(after: colon)...]
            while password.last == "\0" { password.removeLast() }
            return .basic(user: String(plain[..<colon]), password: Secret(String(password)))
        }
        guard let user = text("username") else { return nil }
        return .basic(user: user, password: Secret(text("password") ?? ""))
    }

    /// The credentials for a repository: of the longest key that is the registry, or the registry with the beginning of the
    /// repository.
    package func credentials(for host: String, repository: String) -> Credentials? {
        var name = "\(Self.key(host))/\(repository)"[...]
        while true {
            if let found = auths[String(name)] { return found }
            guard let slash = name.lastIndex(of: "/") else { return nil }
            name = name[..<slash]
        }
    }

    /// The helper to ask about a registry.
    package func helper(for host: String) -> String? { helpers[Self.key(host)] ?? store }

    /// A registry as it is written in the file: users and docker put schemes and `/v1/` around it, and Docker Hub has many
    /// names.
    static func key(_ text: String) -> String {
        var name = text[...]
        if let scheme = name.firstRange(of: "://") { name = name[scheme.upperBound...] }
        while name.last == "/" { name.removeLast() }
        for version in ["/v1", "/v2"] where name.hasSuffix(version) { name.removeLast(version.count) }
        let end = name.firstIndex(of: "/") ?? name.endIndex
        let host = name[..<end].lowercased()
        let isHub = host == "index.docker.io" || host == "registry-1.docker.io"
        return (isHub ? "docker.io" : host) + name[end...]
    }
}
