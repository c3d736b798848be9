import LaminaStore

/// What a check is to look at.
public struct CheckOptions: Sendable, Codable, Equatable {
    /// Only this image's files; nil: the whole store.
    public var image: String?
    /// How much of what has landed is read and hashed, in percent: first what was not read for longest; nil: nothing.
    public var readPercent: Double?
    /// Whether what is damaged is put right.
    public var repairs: Bool
    /// How long it may take, in seconds; nil: without a limit.
    public var seconds: Double?

    public init(image: String? = nil, readPercent: Double? = nil, repairs: Bool = false, seconds: Double? = nil) {
        self.image = image
        self.readPercent = readPercent
        self.repairs = repairs
        self.seconds = seconds
    }
}

/// Something that differs from what the index says.
public struct CheckFinding: Sendable, Codable, Equatable {
    public enum Kind: String, Sendable, Codable {
        /// The index itself.
        case index
        /// A backing file is not there, or it has another size, a hole where the index says that bytes are, or other bytes.
        case missing, size, hole, digest
        /// A layer is another one than was said, and nothing of it is served.
        case quarantine
        /// Nobody can tell: the disk, or the system, does not let the file be read just now. Nothing is forgotten for that.
        case unreadable

        /// nil for a file that is sound.
        init?(_ health: ContentHealth) {
            switch health {
            case .sound: return nil
            case .absent: self = .missing
            case .short: self = .size
            case .holed: self = .hole
            case .wrong: self = .digest
            }
        }
    }

    /// A range of a file, in bytes.
    public struct Part: Sendable, Codable, Equatable {
        public var offset: Int64
        public var size: Int64
    }

    public var kind: Kind
    /// The content; nil for the index.
    public var digest: String?
    /// The file, relative to the store.
    public var path: String
    /// The damaged chunks.
    public var chunks: [Part]
    public var repaired: Bool
    /// Why it was not repaired, or what was found.
    public var reason: String?

    public init(
        _ kind: Kind, digest: String? = nil, path: String, chunks: [Part] = [], repaired: Bool = false,
        reason: String? = nil
    ) {
        self.kind = kind
        self.digest = digest
        self.path = path
        self.chunks = chunks
        self.repaired = repaired
        self.reason = reason
    }
}

/// Files that the index does not know; no damage: a crash may leave some, a lost index leaves all.
public struct UnknownFiles: Sendable, Codable, Equatable {
    public var files = 0
    public var bytes: Int64 = 0
    /// Files that had the digest of their name, and are in the index now.
    public var adopted = 0
    public var adoptedBytes: Int64 = 0
    /// Files that were nothing, and were removed.
    public var removed = 0

    public init() {}
}

/// What a check has found.
public struct CheckReport: Sendable, Codable, Equatable {
    public var root: String
    public var image: String?
    /// How many contents were compared with their files.
    public var contents: Int64 = 0
    /// How many bytes of them have landed.
    public var bytes: Int64 = 0
    /// How many of these were read and hashed.
    public var readBytes: Int64 = 0
    /// Everything that is damaged, repaired or not.
    public var damage: [CheckFinding] = []
    public var unknown = UnknownFiles()
    /// Compressed bytes that were fetched for repairs.
    public var fetchedBytes: Int64 = 0
    /// Contents that were being merged and could not be looked at.
    public var skipped: Int64 = 0
    /// Whether it looked at everything that it was asked to, within its time.
    public var complete = true
    /// Whether all bytes have been read now, by this check and those before it.
    public var roundFinished = false

    public init(root: String, image: String? = nil) {
        self.root = root
        self.image = image
    }

    /// How much of the damage was put right.
    public var repaired: Int { damage.count { $0.repaired } }
}
