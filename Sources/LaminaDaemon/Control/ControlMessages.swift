import FoundationEssentials
public import LaminaStore

// The bodies of the control API, as JSON. Names are an interface: docs/commands.md shows them.

/// Body of `POST /v1/pull`.
public struct PullRequest: Sendable, Codable, Equatable {
    public var reference: String
    public var platform: String?
    public var plainHTTP: Bool
    public var lazy: Bool
    /// Whether its files stay, however full the store is; nil changes nothing.
    public var pin: Bool?
    /// A file of credentials, absolute; the server reads it, so the request has no secret.
    public var credentialsFile: String?

    public init(
        reference: String, platform: String? = nil, plainHTTP: Bool = false, lazy: Bool = false, pin: Bool? = nil,
        credentialsFile: String? = nil
    ) {
        self.pin = pin
        self.credentialsFile = credentialsFile
        self.reference = reference
        self.platform = platform
        self.plainHTTP = plainHTTP
        self.lazy = lazy
    }
}

/// Body of `POST /v1/mounts`. Paths are absolute, because the server works in another directory.
public struct MountRequest: Sendable, Codable, Equatable {
    public var reference: String
    public var target: String
    /// The directory that takes the writes, for a writable mount.
    public var upper: String?
    public var platform: String?
    public var plainHTTP: Bool
    public var credentialsFile: String?
    /// Whether the mount must need no server.
    public var sealed: Bool?
    /// What it allows; nil: nothing.
    public var rights: MountRights?
    /// Device and inode numbers of `target` and `upper`, as the client sees them: by the same path a server in another mount
    /// namespace may come to another directory.
    public var targetIdentity: String?
    public var upperIdentity: String?

    public init(
        reference: String, target: String, upper: String? = nil, platform: String? = nil, plainHTTP: Bool = false,
        credentialsFile: String? = nil, sealed: Bool? = nil, rights: MountRights? = nil
    ) {
        self.sealed = sealed
        self.rights = rights
        self.credentialsFile = credentialsFile
        self.reference = reference
        self.target = target
        self.upper = upper
        self.platform = platform
        self.plainHTTP = plainHTTP
    }
}

/// Body of `POST /v1/seals`.
public struct SealRequest: Sendable, Codable, Equatable {
    public var reference: String
    public var platform: String?
    public var plainHTTP: Bool
    public var credentialsFile: String?

    public init(
        reference: String, platform: String? = nil, plainHTTP: Bool = false, credentialsFile: String? = nil
    ) {
        self.reference = reference
        self.platform = platform
        self.plainHTTP = plainHTTP
        self.credentialsFile = credentialsFile
    }
}

/// Body of `DELETE /v1/mounts`.
public struct UnmountRequest: Sendable, Codable, Equatable {
    public var target: String
    public init(target: String) { self.target = target }
}

/// Body of `DELETE /v1/images`.
public struct RemoveRequest: Sendable, Codable, Equatable {
    public var reference: String
    /// False leaves the layers for a garbage collection.
    public var collects: Bool

    public init(reference: String, collects: Bool) {
        self.reference = reference
        self.collects = collects
    }
}

/// Body of `POST /v1/gc`.
public struct GarbageRequest: Sendable, Codable, Equatable {
    public var dryRun: Bool
    public init(dryRun: Bool) { self.dryRun = dryRun }
}

/// Body of `POST /v1/pins`.
public struct PinRequest: Sendable, Codable, Equatable {
    public var reference: String
    public var pinned: Bool

    public init(reference: String, pinned: Bool) {
        self.reference = reference
        self.pinned = pinned
    }
}

/// An entry of `GET /v1/mounts`, and the result of `DELETE`.
public struct MountListing: Sendable, Codable, Equatable {
    public var target: String
    public var reference: String?
    public var writable: String?
    /// true for a mount that needs no server.
    public var sealed: Bool?

    public init(target: String, reference: String?, writable: String? = nil, sealed: Bool? = nil) {
        self.sealed = sealed
        self.target = target
        self.reference = reference
        self.writable = writable
    }
}

/// What went wrong at the server: the sentence to print and the exit code.
public struct ControlFailure: Sendable, Codable, Equatable {
    public var message: String
    public var exitCode: Int32
}

/// A line of a streamed answer: exactly one of the three. An empty line says that the server is alive.
struct ControlLine<Result: Codable & Sendable>: Codable, Sendable {
    var progress: PullProgress?
    var result: Result?
    var error: ControlFailure?
}

/// JSON of small documents.
public enum JSONText {
    /// Without line breaks, keys sorted.
    public static func line(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(value))
    }

    /// Indented, keys sorted: for people and programs alike.
    public static func document(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    /// Reads a document of a known type.
    public static func decode<Value: Decodable>(_ type: Value.Type, _ bytes: some Sequence<UInt8>) throws -> Value {
        try JSONDecoder().decode(type, from: Data(bytes))
    }
}
