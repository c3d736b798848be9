import Glibc
import LaminaSystem

/// Where credentials are looked up: files in docker's format, and the helpers that they name, read again each time, because a
/// login elsewhere changes them; then what came along with pulls by kubelet, and what a cluster keeps for its pods.
public struct CredentialStore: Sendable, Hashable {
    /// A file that must exist: `--creds-file`.
    public var file: String?
    /// podman's own files, which may be missing; they come before docker's.
    public var containersFiles: [String] = []
    /// Docker's own file, which may be missing.
    public var defaultFile: String?
    /// What came along with pulls by kubelet; it is looked through after the files.
    public var kept: KeptCredentials?
    /// What a cluster keeps for its pods; it is asked last.
    public var cluster: ClusterSecrets?
    /// How long a helper may take.
    public var helperTimeLimit: Duration = .seconds(30)

    public init(
        file: String? = nil, defaultFile: String? = CredentialStore.dockerFile(), kept: KeptCredentials? = nil,
        cluster: ClusterSecrets? = nil
    ) {
        self.kept = kept
        self.cluster = cluster
        self.file = file
        self.defaultFile = defaultFile
    }

    /// No credentials at all.
    public static let none = CredentialStore(file: nil, defaultFile: nil)

    /// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
    public static func dockerFile() -> String? {
        if let directory = getenv("DOCKER_CONFIG"), directory[0] != 0 {
            return String(cString: directory) + "/config.json"
        }
        if let home = getenv("HOME"), home[0] != 0 { return String(cString: home) + "/.docker/config.json" }
        guard let entry = getpwuid(getuid()), let home = entry.pointee.pw_dir else { return nil }
        return String(cString: home) + "/.docker/config.json"
    }

    /// Where podman, buildah and skopeo keep logins (containers-auth.json(5)): `$REGISTRY_AUTH_FILE` alone, or the file of this boot and then
    /// the one that stays.
    public static func podmanFiles() -> [String] {
        func value(_ name: String) -> String? {
            guard let text = getenv(name), text[0] != 0 else { return nil }
            return String(cString: text)
        }
        if let path = value("REGISTRY_AUTH_FILE") { return [path] }
        let runtime = value("XDG_RUNTIME_DIR").map { "\($0)/containers" } ?? "/run/containers/\(getuid())"
        // podman of root looks there whatever the session says.
        var files = geteuid() == 0 ? ["/run/containers/0/auth.json"] : []
        if !files.contains(runtime + "/auth.json") { files.append(runtime + "/auth.json") }
        if let home = value("XDG_CONFIG_HOME") ?? value("HOME").map({ "\($0)/.config" }) {
            files.append(home + "/containers/auth.json")
        }
        return files
    }

    /// Credentials, and where they come from in words.
    struct Found: Sendable {
        var credentials: Credentials
        var origin: String
        /// Whether there may be others for the same repository, to try if these are refused.
        var isOneOfSeveral = false
    }

    /// The credentials for a repository of a registry: from the first place that has any.
    ///
    /// - Parameter refused: those that are one of several and have been refused.
    /// - Throws: `badConfiguration` for a file or a helper that cannot be used, `interrupted`.
    func find(
        host: String, repository: String, refused: Set<Credentials> = [], shouldStop: () -> Bool
    ) throws(OCIError) -> Found? {
        let optional = containersFiles + [defaultFile].compactMap(\.self)
        for (path, isOptional) in [(file, false)] + optional.map({ (Optional($0), true) }) {
            guard let path, let config = try Self.read(path, isOptional: isOptional) else { continue }
            if let name = config.helper(for: host) {
                let helper = CredentialHelper(name: name, timeLimit: helperTimeLimit)
                if let found = try helper.credentials(for: host, shouldStop: shouldStop) {
                    return Found(credentials: found, origin: "docker-credential-\(name), as \(path) says")
                }
            }
            if let found = config.credentials(for: host, repository: repository) {
                return Found(credentials: found, origin: path)
            }
        }
        let candidates = kept?.candidates(for: host, repository: repository) ?? []
        if let found = candidates.first(where: { !refused.contains($0) }) {
            return Found(credentials: found, origin: "a pull of \(repository) by CRI", isOneOfSeveral: true)
        }
        return try cluster?.find(host: host, repository: repository, refused: refused, shouldStop: shouldStop)
    }

    /// Checks that a file that a user names can be read.
    static func check(_ path: String) throws(OCIError) { _ = try read(path, isOptional: false) }

    private static func read(_ path: String, isOptional: Bool) throws(OCIError) -> DockerConfig? {
        let bytes: [UInt8]
        do {
            bytes = try readFile(path, limit: DockerConfig.byteLimit)
        } catch {
            if isOptional, error.code == ENOENT || error.code == ENOTDIR || error.code == EACCES { return nil }
            throw OCIError(.badConfiguration, "the credentials in \(path) cannot be read", cause: error)
        }
        return try DockerConfig(parsing: bytes, path: path)
    }
}
