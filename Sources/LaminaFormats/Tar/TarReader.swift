/// Reads a tar stream that comes in pieces of any size: ustar, pax, GNU and v7.
///
/// It is a small value (at most 2 MiB in the middle of extended headers, else some hundred bytes): copy or encode it to go on
/// from there later. It never holds payload: it passes payload on as slices of its input.
///
/// ```
/// while true {
///     switch try reader.next(&piece) {
///     case .entry(let entry): …         // its payload follows, in as many pieces as it comes
///     case .payload(let bytes): …
///     case .more: piece = …             // or, at the end of the stream: try reader.finish()
///     }
/// }
/// ```
///
/// What follows the archive's end (two blocks of zeros) is taken and ignored. Sparse files come with their full contents. GNU's
/// multi-volume and dump types and unknown types are refused, because lamina cannot represent them.
public struct TarReader: Sendable, Codable {
    /// What comes out of a piece of the stream.
    public enum Event {
        /// The piece is used up.
        case more
        /// A new entry; the one before it is complete.
        case entry(TarEntry)
        /// The next bytes of the last entry's payload, never empty: a slice of the piece.
        case payload(UnsafeRawBufferPointer)
        /// How many zeros (at least one, and at most 1 MiB) come next in the last entry's payload: part of a hole.
        case zeros(Int)
    }

    /// The most zeros that the holes of one archive may add up to, in bytes: hashing them takes ten seconds or so.
    public static let holeLimit: Int64 = 16 << 30
    /// The most zeros in one event.
    public static let zerosAtOnce = 1 << 20

    /// Limit on the extended headers of one entry, and on what global headers leave behind, in bytes.
    public static let extendedHeaderLimit = 1 << 20

    /// The bytes taken so far: the offset in the stream of the next byte.
    public private(set) var offset: Int64 = 0

    enum Phase: UInt8, Codable { case header, extended, payload, padding, ended, sparseExtension, sparseMap }

    var phase = Phase.header
    /// An incomplete header block, or an incomplete extended header.
    var pending: [UInt8] = []
    /// Bytes to come of the payload or the padding.
    var left: Int64 = 0
    var paddingAfter = 0
    private var extendedSize = 0
    private var extendedType: UInt8 = 0
    private var zeroBlocks = 0
    /// Where the first header of the next entry is; -1 between entries.
    private var start: Int64 = -1
    private var global = TarPAX()
    var local = TarPAX()
    private var longName: [UInt8]?
    private var longLink: [UInt8]?
    var lastName: [UInt8] = []
    /// For a sparse file: the rest of its map, the place in the file, and how a map in its payload goes on.
    var sparse: TarSparse?
    var sparseEntry: TarEntry?
    var sparseMap = TarSparseMapReader()
    var sparsePart = 0
    var sparsePosition: Int64 = 0
    var holeBytes: Int64 = 0

    public init() {}

    /// Whether the reader is between two entries, or behind the last: a good place to save it.
    public var isBetweenEntries: Bool { (phase == .header && pending.isEmpty && start < 0) || phase == .ended }

    /// Whether the archive's end, two blocks of zeros, has been seen.
    public var hasEnded: Bool { phase == .ended }

    /// Takes bytes from the front of `piece` up to the next event.
    ///
    /// - Throws: `FormatError` that names entry and offset; the reader must not be used after that.
    public mutating func next(_ piece: inout UnsafeRawBufferPointer) throws(FormatError) -> Event {
        while !piece.isEmpty || sparse != nil {
            if sparse != nil, phase == .payload || phase == .padding || phase == .header {
                if let zeros = takeHole() { return .zeros(zeros) }
            }
            if piece.isEmpty { break }
            switch phase {
            case .sparseExtension:
                if let entry = try takeSparseExtension(&piece) { return .entry(entry) }
            case .sparseMap:
                if let entry = try takeSparseMap(&piece) { return .entry(entry) }
            case .header:
                if let entry = try takeHeader(&piece) { return .entry(entry) }
            case .extended:
                try takeExtended(&piece)
            case .payload:
                let bytes = take(Int(min(left, partLeft, Int64(piece.count))), of: &piece)
                left -= Int64(bytes.count)
                sparsePosition += Int64(bytes.count)
                if left == 0 {
                    left = Int64(paddingAfter)
                    phase = left > 0 ? .padding : .header
                }
                return .payload(bytes)
            case .padding:
                left -= Int64(take(Int(min(left, Int64(piece.count))), of: &piece).count)
                if left == 0 { phase = .header }
            case .ended:
                _ = take(piece.count, of: &piece)
            }
        }
        return .more
    }

    /// Ends the stream; an archive may lack its blocks of zeros.
    ///
    /// - Throws: `FormatError` if the stream was cut.
    public func finish() throws(FormatError) {
        switch phase {
        // The last file's padding may be missing.
        case .padding: return
        case .payload, .sparseExtension, .sparseMap:
            throw .tar("it is cut short: \(left) bytes of this entry are missing", entry: lastName, offset: offset)
        case .extended:
            throw .tar("it is cut short in an extended header", entry: lastName, offset: offset)
        case .header where !pending.isEmpty || start >= 0:
            if offset == Int64(pending.count) {
                let block = pending + [UInt8](repeating: 0, count: Tar.blockSize - pending.count)
                if let name = block.withUnsafeBytes({ Self.foreignCompression($0) }) { throw .compressed(by: name) }
            }
            throw .tar("it is cut short in a header", entry: lastName, offset: offset)
        case .header, .ended: return
        }
    }

    mutating func take(_ count: Int, of piece: inout UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        let bytes = UnsafeRawBufferPointer(rebasing: piece[..<count])
        piece = UnsafeRawBufferPointer(rebasing: piece[count...])
        offset += Int64(count)
        return bytes
    }
}

/// An entry and its place.
public struct TarEntry: Sendable, Equatable, Codable {
    public var header: TarHeader
    /// The stream's offset of its first header block, extended headers included.
    public var offset: Int64
    /// The stream's offset of its payload.
    public var payloadOffset: Int64
    /// For a sparse file: how many of its bytes are in holes, which the archive does not store.
    public var holeSize: Int64 = 0
    /// Whether the archive stores only parts of it: then the bytes at `payloadOffset` are not the file's bytes.
    public var isSparse = false
    /// Whether it is a sparse file in GNU's old format, whose map may go on behind its header.
    var isOldSparse = false
}

extension TarReader {
    /// Takes one header block; returns the entry if the block is an entry's own header.
    private mutating func takeHeader(_ piece: inout UnsafeRawBufferPointer) throws(FormatError) -> TarEntry? {
        if pending.isEmpty, piece.count >= Tar.blockSize {
            return try header(take(Tar.blockSize, of: &piece))
        }
        pending += take(min(Tar.blockSize - pending.count, piece.count), of: &piece)
        guard pending.count == Tar.blockSize else { return nil }
        let block = pending
        pending.removeAll(keepingCapacity: true)
        do {
            return try block.withUnsafeBytes { try header($0) }
        } catch let error as FormatError {
            throw error
        } catch {
            throw .tar("\(error)", entry: lastName, offset: offset)
        }
    }

    private mutating func header(_ block: UnsafeRawBufferPointer) throws(FormatError) -> TarEntry? {
        let place = offset - Int64(Tar.blockSize)
        if block.allSatisfy({ $0 == 0 }) {
            guard start < 0 else {
                throw .tar("the archive ends between an extended header and its entry", entry: lastName, offset: place)
            }
            zeroBlocks += 1
            if zeroBlocks == 2 { phase = .ended }
            return nil
        }
        guard zeroBlocks == 0 else {
            throw .tar("a lone block of zeros stands between two entries", entry: lastName, offset: place)
        }
        if place == 0, let name = Self.foreignCompression(block) {
            throw .compressed(by: name)
        }
        guard let sum = TarField.number(TarField.checksum, of: block) else {
            throw .tar("a header has no valid checksum", entry: lastName, offset: place)
        }
        let sums = TarField.checksums(block)
        guard sum == sums.unsigned || sum == sums.signed else {
            throw .tar("a header's checksum is \(sum), expected \(sums.unsigned)", entry: lastName, offset: place)
        }
        if start < 0 { start = place }
        switch block[TarField.type] {
        case UInt8(ascii: "x"), UInt8(ascii: "g"), UInt8(ascii: "L"), UInt8(ascii: "K"):
            try beginExtended(block, at: place)
            return nil
        case UInt8(ascii: "V"):
            // GNU's volume label: a header without payload that names the archive.
            start = -1
            return nil
        default:
            return try entry(block, at: place)
        }
    }

    private mutating func beginExtended(_ block: UnsafeRawBufferPointer, at place: Int64) throws(FormatError) {
        let name = TarField.text(TarField.name, of: block)
        guard let size = TarField.number(TarField.size, of: block), size >= 0 else {
            throw .tar("an extended header has no valid size", entry: name, offset: place)
        }
        extendedType = block[TarField.type]
        let before = extendedType == UInt8(ascii: "g") ? global.byteCount : local.byteCount
        guard size <= Int64(Self.extendedHeaderLimit - min(before, Self.extendedHeaderLimit)) else {
            throw .tar(
                "its extended headers are larger than the limit of \(Self.extendedHeaderLimit) bytes", entry: name,
                offset: place)
        }
        lastName = name
        extendedSize = Int(size)
        phase = .extended
        if size == 0 { phase = .header }
    }

    private mutating func takeExtended(_ piece: inout UnsafeRawBufferPointer) throws(FormatError) {
        let total = extendedSize + Tar.padding(Int64(extendedSize))
        pending += take(min(total - pending.count, piece.count), of: &piece)
        guard pending.count == total else { return }
        phase = .header
        let data = pending
        pending = []
        let place = offset - Int64(total)
        switch extendedType {
        case UInt8(ascii: "L"): longName = Array(data[..<extendedSize].prefix { $0 != 0 })
        case UInt8(ascii: "K"): longLink = Array(data[..<extendedSize].prefix { $0 != 0 })
        default:
            do {
                try data.withUnsafeBytes { bytes in
                    let records = UnsafeRawBufferPointer(rebasing: bytes[..<extendedSize])
                    if extendedType == UInt8(ascii: "g") { try global.read(records) } else { try local.read(records) }
                }
            } catch let problem as TarPAX.Problem {
                throw .tar(problem.text, entry: lastName, offset: place, unsupported: problem.unsupported)
            } catch {
                throw .tar("\(error)", entry: lastName, offset: place)
            }
            // A global header belongs to no entry.
            if extendedType == UInt8(ascii: "g"), local.isEmpty, longName == nil, longLink == nil { start = -1 }
        }
    }
}

extension TarReader {
    private mutating func entry(_ block: UnsafeRawBufferPointer, at place: Int64) throws(FormatError) -> TarEntry? {
        let magic = block[TarField.magic]
        let isPOSIX = magic.starts(with: "ustar\0".utf8)
        let hasOwners = isPOSIX || magic.starts(with: "ustar ".utf8)
        let name = entryName(block, isPOSIX: isPOSIX)
        lastName = name
        var header = TarHeader(kind: try kind(block, name, place), name: name)

        let mode = try number(TarField.mode, "mode", block)
        header.mode = UInt32(truncatingIfNeeded: mode) & 0o7777
        let userID = try number(TarField.userID, "owner", block, unless: local.userID ?? global.userID)
        let groupID = try number(TarField.groupID, "group", block, unless: local.groupID ?? global.groupID)
        guard let user = UInt32(exactly: userID), let group = UInt32(exactly: groupID) else {
            throw .tar("its owner \(userID):\(groupID) is out of range", entry: name, offset: place)
        }
        header.userID = user
        header.groupID = group
        if let time = local.modificationTime ?? global.modificationTime {
            header.modificationTime = time
        } else {
            header.modificationTime = .init(seconds: try number(TarField.modificationTime, "time", block))
        }
        if let text = local.userName ?? global.userName {
            header.userName = text
        } else if hasOwners {
            header.userName = TarField.text(TarField.userName, of: block)
        }
        if let text = local.groupName ?? global.groupName {
            header.groupName = text
        } else if hasOwners {
            header.groupName = TarField.text(TarField.groupName, of: block)
        }
        if header.kind == .hardLink || header.kind == .symbolicLink {
            header.linkName =
                local.linkPath ?? longLink ?? global.linkPath ?? TarField.text(TarField.linkName, of: block)
        }
        if header.kind == .characterDevice || header.kind == .blockDevice {
            header.deviceMajor = try device(local.deviceMajor, TarField.deviceMajor, block, place)
            header.deviceMinor = try device(local.deviceMinor, TarField.deviceMinor, block, place)
        }
        header.attributes = attributes()
        if let name = local.sparse?.name, header.kind == .regular { header.name = name }
        // Links, directories and devices have no payload, even if they have a size: GNU tar and Go do the same.
        let size = try number(TarField.size, "size", block, unless: local.size ?? global.size)
        guard size >= 0, size <= Int64.max - offset - Int64(Tar.blockSize) else {
            throw .tar("its size \(size) is out of range", entry: name, offset: place)
        }
        if header.kind == .regular { header.size = size }
        let found = try sparseFile(block, header, place)

        var entry = TarEntry(header: header, offset: start, payloadOffset: offset)
        entry.isOldSparse = block[TarField.type] == Self.oldSparseType
        start = -1
        local = TarPAX()
        longName = nil
        longLink = nil
        if header.size > 0 {
            left = header.size
            paddingAfter = Tar.padding(header.size)
            phase = .payload
        }
        if let found { return try begin(found, entry, isExtended: block[TarSparse.oldIsExtended] != 0) }
        return entry
    }

    private func entryName(_ block: UnsafeRawBufferPointer, isPOSIX: Bool) -> [UInt8] {
        if let name = local.path ?? longName ?? global.path { return name }
        let name = TarField.text(TarField.name, of: block)
        guard isPOSIX else { return name }
        let isStar = block[TarField.starTrailer].elementsEqual("tar\0".utf8)
        let prefix = TarField.text(isStar ? TarField.starPrefix : TarField.prefix, of: block)
        return prefix.isEmpty ? name : prefix + [UInt8(ascii: "/")] + name
    }

    private func kind(
        _ block: UnsafeRawBufferPointer, _ name: [UInt8], _ place: Int64
    ) throws(FormatError) -> TarHeader.Kind {
        let type = block[TarField.type]
        switch type {
        case UInt8(ascii: "0"), 0:
            // v7 had no type for directories, only a slash after the name.
            return name.last == UInt8(ascii: "/") && (type == 0 || local.size ?? 0 == 0 && isEmpty(block))
                ? .directory : .regular
        case UInt8(ascii: "7"): return .regular
        case UInt8(ascii: "1"): return .hardLink
        case UInt8(ascii: "2"): return .symbolicLink
        case UInt8(ascii: "3"): return .characterDevice
        case UInt8(ascii: "4"): return .blockDevice
        case UInt8(ascii: "5"): return .directory
        case UInt8(ascii: "6"): return .fifo
        case UInt8(ascii: "S"): return .regular
        default:
            let text = type >= 0x21 && type < 0x7f ? "'\(Unicode.Scalar(type))'" : "\(type)"
            throw .tar("it has the unknown type \(text)", entry: name, offset: place, unsupported: true)
        }
    }

    static let oldSparseType = UInt8(ascii: "S")

    private func isEmpty(_ block: UnsafeRawBufferPointer) -> Bool { TarField.number(TarField.size, of: block) == 0 }

    /// A field of the block, unless an extended header overrides it.
    private func number(
        _ field: Range<Int>, _ what: String, _ block: UnsafeRawBufferPointer, unless record: Int64? = nil
    ) throws(FormatError) -> Int64 {
        if let record { return record }
        if let number = TarField.number(field, of: block) { return number }
        throw .tar("its \(what) is not a number", entry: lastName, offset: offset - Int64(Tar.blockSize))
    }

    private func device(
        _ record: Int64?, _ field: Range<Int>, _ block: UnsafeRawBufferPointer, _ place: Int64
    ) throws(FormatError) -> UInt32 {
        let value = try number(field, "device number", block, unless: record)
        guard let device = UInt32(exactly: value) else {
            throw .tar("its device number \(value) is out of range", entry: lastName, offset: place)
        }
        return device
    }

    /// The global and the local ones, the last of each name, sorted.
    private func attributes() -> [TarHeader.Attribute] {
        if global.attributes.isEmpty, local.attributes.isEmpty { return [] }
        var last: [[UInt8]: [UInt8]] = [:]
        for attribute in global.attributes + local.attributes { last[attribute.name] = attribute.value }
        return last.map { TarHeader.Attribute(name: $0.key, value: $0.value) }
            .sorted { $0.name.lexicographicallyPrecedes($1.name) }
    }
}
