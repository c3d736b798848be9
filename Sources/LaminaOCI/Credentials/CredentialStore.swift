import Glibc
import LaminaSystem

/// Where credentials are looked up: files in docker's format, and the helpers that they name, read again each time, because a
/// login elsewhere changes them; then what came along with pulls by kubelet, and what a cluster keeps for its pods.
public struct CredentialStore: Sendable, Hashable {
    /// A file that must exist: `--creds-file`.
    public var file: String?
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
        for (path, isOptional) in [(file, false), (defaultFile, true)] {
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
        if let found = kept?.credentials(for: host, repository: repository) {
            return Found(credentials: found, origin: "a pull of \(repository) by CRI")
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
