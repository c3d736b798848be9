/// One entry of a tar archive, without its payload: the contents of its header block and of the extended headers before it.
///
/// Names, link names and owner names are bytes, because tar has no encoding.
public struct TarHeader: Sendable, Equatable, Codable {
    /// The type of an entry, of those that lamina can represent.
    public enum Kind: UInt8, Sendable, Codable {
        case regular, hardLink, symbolicLink, characterDevice, blockDevice, directory, fifo
    }

    /// A point in time, in seconds since 1970 and nanoseconds (0 to 999,999,999) towards the future.
    public struct Time: Sendable, Hashable, Codable {
        public var seconds: Int64
        public var nanoseconds: UInt32

        public init(seconds: Int64, nanoseconds: UInt32 = 0) {
            self.seconds = seconds
            self.nanoseconds = nanoseconds
        }
    }

    /// An extended attribute: name (`user.mime_type`) and value, any bytes.
    public struct Attribute: Sendable, Hashable, Codable {
        public var name: [UInt8]
        public var value: [UInt8]

        public init(name: [UInt8], value: [UInt8]) {
            self.name = name
            self.value = value
        }
    }

    public var kind: Kind
    /// As it is in the archive, not cleaned; a directory's name usually ends in `/`.
    public var name: [UInt8]
    /// The target of a symbolic or hard link; empty for others.
    public var linkName: [UInt8]
    /// Permission, setuid, setgid and sticky bits: `mode & 0o7777`.
    public var mode: UInt32
    public var userID: UInt32
    public var groupID: UInt32
    /// The payload's size in bytes; 0 for everything but regular files.
    public var size: Int64
    public var modificationTime: Time
    /// Empty if the archive does not give it; never looked up.
    public var userName: [UInt8]
    public var groupName: [UInt8]
    /// Of character and block devices; 0 for others.
    public var deviceMajor: UInt32
    public var deviceMinor: UInt32
    /// Sorted by the names' bytes, each name once.
    public var attributes: [Attribute]

    public init(
        kind: Kind, name: [UInt8], linkName: [UInt8] = [], mode: UInt32 = 0, userID: UInt32 = 0, groupID: UInt32 = 0,
        size: Int64 = 0, modificationTime: Time = Time(seconds: 0), userName: [UInt8] = [], groupName: [UInt8] = [],
        deviceMajor: UInt32 = 0, deviceMinor: UInt32 = 0, attributes: [Attribute] = []
    ) {
        self.kind = kind
        self.name = name
        self.linkName = linkName
        self.mode = mode
        self.userID = userID
        self.groupID = groupID
        self.size = size
        self.modificationTime = modificationTime
        self.userName = userName
        self.groupName = groupName
        self.deviceMajor = deviceMajor
        self.deviceMinor = deviceMinor
        self.attributes = attributes
    }

    /// The name for messages: shortened, and with replacements for what is not UTF-8.
    public var displayName: String { name.withUnsafeBytes { FormatError.display($0) } }
}

/// Sizes of the format (POSIX.1-2017, pax, "ustar Interchange Format").
public enum Tar {
    /// Headers and payloads are padded with zeros to this many bytes.
    public static let blockSize = 512

    /// An archive ends in two blocks of zeros.
    public static let endSize = 1024

    /// How many zeros follow a payload of `size` bytes.
    public static func padding(_ size: Int64) -> Int { Int(-size & Int64(blockSize - 1)) }

    /// The name as a path from the root without its slash: empty components and `.` are removed, `..` climbs no higher than the
    /// root (as Go's `path.Clean("/" + name)`, by which eStargz identifies entries). The root is empty.
    public static func clean(_ name: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        clean(name, into: &result)
        return result
    }

    /// As `clean`, into a buffer that is reused.
    static func clean(_ name: [UInt8], into result: inout [UInt8]) {
        result.removeAll(keepingCapacity: true)
        var start = 0
        while start < name.count {
            let end = name[start...].firstIndex(of: UInt8(ascii: "/")) ?? name.count
            let component = name[start..<end]
            start = end + 1
            if component.isEmpty || component.elementsEqual([UInt8(ascii: ".")]) { continue }
            if component.elementsEqual([UInt8(ascii: "."), UInt8(ascii: ".")]) {
                result.removeLast(result.count - (result.lastIndex(of: UInt8(ascii: "/")) ?? 0))
                continue
            }
            if !result.isEmpty { result.append(UInt8(ascii: "/")) }
            result += component
        }
    }

    /// Whether a component of the name is `..`.
    public static func climbs(_ name: [UInt8]) -> Bool {
        name.split(separator: UInt8(ascii: "/")).contains { $0.elementsEqual([UInt8(ascii: "."), UInt8(ascii: ".")]) }
    }
}
