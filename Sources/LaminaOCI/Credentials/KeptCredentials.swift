import Glibc
import LaminaSystem
import Synchronization

/// Credentials that came along with pulls by kubelet, by repository. Layers are fetched long after the pull, by this process
/// and by the next, which reads the credentials from a file that only its owner can read.
///
/// Pods of many owners pull from one repository, so none of them has the last word: several credentials are kept for it, those that worked
/// before those that did not yet, and each may turn out to be of no use any more.
///
/// Bounded in number and size: those that came with a pull least recently are forgotten first.
public final class KeptCredentials: Sendable {
    /// A running pull, with what came along with it.
    public struct Pull: Sendable {
        let name: String
        let credentials: Credentials
    }

    fileprivate struct Trial {
        var credentials: Credentials
        /// Running pulls with them.
        var pullCount = 0
    }

    fileprivate struct Entry {
        /// Registry and repository.
        var name: String
        /// Those that a pull has succeeded with, the newest first.
        var worked: [Credentials] = []
        /// Those that no pull has succeeded with yet, the newest first.
        var trials: [Trial] = []

        /// In the order in which they are tried.
        var candidates: [Credentials] { worked + trials.map(\.credentials) }

        /// Puts credentials that a pull succeeded with before all others; returns whether that changes anything.
        mutating func succeeded(_ credentials: Credentials) -> Bool {
            trials.removeAll { $0.credentials == credentials }
            if worked.first == credentials { return false }
            worked = Array(([credentials] + worked.filter { $0 != credentials }).prefix(KeptCredentials.candidateLimit))
            return true
        }
    }

    /// How many repositories; a machine has fewer images than that.
    static let entryLimit = 1024
    /// How many that worked are kept for each, and how many that did not yet. Together they are fewer than what is tried for one request.
    fileprivate static let candidateLimit = 3
    /// How many secret bytes for each; tokens of cloud registries have some thousands.
    static let secretLimit = 16 << 10

    /// The file where they are kept.
    public let path: String
    /// The one that was used least recently first.
    private let entries: Mutex<[Entry]>
    /// One writer at a time, and always the newest state.
    private let writing = Mutex(())
    private let report: @Sendable (String) -> Void

    /// Takes over what an earlier process has kept.
    ///
    /// - Parameters:
    ///   - path: of the file, which need not exist; its directory must exist before anything is kept.
    ///   - report: gets a sentence, without secrets, when something is not kept, and why.
    public init(path: String, report: @escaping @Sendable (String) -> Void) {
        self.path = path
        self.report = report
        var known: [Entry] = []
        do {
            known = try Self.read(path)
        } catch {
            report("the credentials that came along with pulls are not known any more: \(error)")
        }
        entries = Mutex(known)
    }

    /// Keeps what came along with a pull that begins, in memory and in the file. Blocks for the disk if it is new.
    ///
    /// - Parameter server: which server they are for, if the sender says so; empty for the image's registry.
    /// - Returns: the argument for `end`; nil if they are not kept: for a layout directory, for another server, too long.
    public func begin(_ credentials: Credentials, of image: ImageReference, server: String = "") -> Pull? {
        guard case .registry(let host, let repository) = image.place else { return nil }
        let registry = DockerConfig.key(host)
        if !server.isEmpty {
            let named = DockerConfig.key(server)
            guard named == registry || named.hasPrefix(registry + "/") else { return nil }
        }
        let name = "\(registry)/\(repository)"
        guard credentials.byteCount <= Self.secretLimit else {
            report("the credentials for \(name) are longer than \(Self.secretLimit) bytes and are not kept")
            return nil
        }
        let isNew = entries.withLock { entries in
            let old = entries.firstIndex { $0.name == name }.map { entries.remove(at: $0) }
            var entry = old ?? Entry(name: name)
            let isNew = !entry.candidates.contains(credentials)
            if isNew {
                entry.trials.insert(Trial(credentials: credentials), at: 0)
                if entry.trials.count > Self.candidateLimit { entry.trials.removeLast() }
            }
            if let trial = entry.trials.firstIndex(where: { $0.credentials == credentials }) {
                entry.trials[trial].pullCount += 1
            }
            entries.append(entry)
            if entries.count > Self.entryLimit { entries.removeFirst() }
            return isNew
        }
        if isNew { save() }
        return Pull(name: name, credentials: credentials)
    }

    /// Learns from the result of a pull: credentials that worked go before all others, and those that never did are forgotten.
    public func end(_ pull: Pull, succeeded: Bool) {
        let hasChanged = entries.withLock { entries in
            guard let place = entries.firstIndex(where: { $0.name == pull.name }) else { return false }
            if succeeded { return entries[place].succeeded(pull.credentials) }
            guard let trial = entries[place].trials.firstIndex(where: { $0.credentials == pull.credentials }) else {
                return false
            }
            entries[place].trials[trial].pullCount -= 1
            guard entries[place].trials[trial].pullCount <= 0 else { return false }
            entries[place].trials.remove(at: trial)
            if entries[place].candidates.isEmpty { entries.remove(at: place) }
            return true
        }
        if hasChanged { save() }
    }

    /// What came along with pulls of this repository, in the order in which it should be tried.
    func candidates(for host: String, repository: String) -> [Credentials] {
        let name = "\(DockerConfig.key(host))/\(repository)"
        return entries.withLock { $0.last { $0.name == name }?.candidates ?? [] }
    }

    // MARK: The file

    private func save() {
        do throws(SystemError) {
            try writing.withLock { _ throws(SystemError) in try replaceFile(path, with: bytes(), mode: 0o600) }
        } catch {
            report("credentials that came along with a pull are lost when this server ends: \(error)")
        }
    }

    /// The file's bytes; entries that make it too long are forgotten.
    private func bytes() -> [UInt8] {
        entries.withLock { entries in
            while true {
                let bytes = JSON.object([.init("credentials", .array(entries.flatMap(\.json)))]).sortedBytes()
                if bytes.count <= DockerConfig.byteLimit { return bytes }
                entries.removeFirst(entries.count / 4 + 1)
            }
        }
    }

    private static func read(_ path: String) throws -> [Entry] {
        let bytes: [UInt8]
        do {
            bytes = try readFile(path, limit: DockerConfig.byteLimit)
        } catch {
            if error.code == ENOENT || error.code == ENOTDIR { return [] }
            throw error
        }
        func wrong(_ what: String) -> OCIError { OCIError(.badConfiguration, "\(path) \(what)") }
        guard case .array(let elements)? = try? JSON.parse(bytes)["credentials"],
            elements.count <= 2 * candidateLimit * entryLimit
        else { throw wrong("is not what lamina has written") }
        var entries: [Entry] = []
        var places: [String: Int] = [:]
        for element in elements {
            guard case .string(let name)? = element["name"],
                let credentials = try DockerConfig.credentials(
                    in: element, { wrong("names credentials whose auth \($0)") }
                )
            else { throw wrong("has credentials without a name or a secret") }
            let place = places[name] ?? entries.count
            if place == entries.count {
                places[name] = place
                entries.append(Entry(name: name))
            }
            if element["worked"] == .bool(true) {
                entries[place].worked.append(credentials)
            } else {
                entries[place].trials.append(Trial(credentials: credentials))
            }
        }
        guard entries.count <= entryLimit, entries.allSatisfy(\.isBounded) else {
            throw wrong("is not what lamina has written")
        }
        return entries
    }
}

extension KeptCredentials.Entry {
    fileprivate var isBounded: Bool {
        max(worked.count, trials.count) <= KeptCredentials.candidateLimit
    }

    /// One object for each of the credentials, in order.
    fileprivate var json: [JSON] {
        worked.map { object(of: $0, hasWorked: true) } + trials.map { object(of: $0.credentials, hasWorked: false) }
    }

    private func object(of credentials: Credentials, hasWorked: Bool) -> JSON {
        var members: [JSON.Member] = [.init("name", .string(name)), .init("worked", .bool(hasWorked))]
        switch credentials {
        case .basic(let user, let password):
            members += [.init("username", .string(user)), .init("password", .string(password.revealed))]
        case .identityToken(let token): members.append(.init("identitytoken", .string(token.revealed)))
        case .registryToken(let token): members.append(.init("registrytoken", .string(token.revealed)))
        }
        return .object(members)
    }
}

/// Two are the same if they are the same object.
extension KeptCredentials: Hashable {
    public static func == (left: KeptCredentials, right: KeptCredentials) -> Bool { left === right }
    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
}

extension Credentials {
    /// What comes along with a pull by CRI: the fields of its `AuthConfig`, each of which may be empty. Tokens go before names,
    /// as in docker.
    ///
    /// - Returns: nil if nothing in it is useful.
    public init?(username: String, password: String, auth: String, identityToken: String, registryToken: String) {
        let entry = JSON.strings([
            "username": username, "password": password, "auth": auth, "identitytoken": identityToken,
            "registrytoken": registryToken,
        ])
        guard
            let found = try? DockerConfig.credentials(in: entry, { OCIError(.badConfiguration, "auth \($0)") })
        else { return nil }
        self = found
    }

    fileprivate var byteCount: Int {
        switch self {
        case .basic(let user, let password): user.utf8.count + password.revealed.utf8.count
        case .identityToken(let token), .registryToken(let token): token.revealed.utf8.count
        }
    }
}
