import LaminaDigest

/// One entry of a table of contents, unchanged; absent fields are zero or empty (`TOCEntry` of
/// https://github.com/containerd/stargz-snapshotter/blob/main/estargz/types.go; user and group names and `NumLink` are not
/// read: numbers count, and names of an inode are counted).
struct TOCEntry {
    enum Kind: UInt8 { case directory, regular, symlink, hardLink, character, block, fifo, chunk }

    struct RawXattr {
        var name: JSONReader.Slice
        /// Base64.
        var value: JSONReader.Slice
    }

    var kind: Kind?
    var name = JSONReader.Slice.empty
    var linkName = JSONReader.Slice.empty
    var size: Int64 = 0
    var mode: Int64 = 0
    var uid: Int64 = 0
    var gid: Int64 = 0
    var deviceMajor: Int64 = 0
    var deviceMinor: Int64 = 0
    var modified = Timestamp()
    var offset: Int64 = 0
    var innerOffset: Int64 = 0
    var chunkOffset: Int64 = 0
    var chunkSize: Int64 = 0
    var digest: Digest?
    var chunkDigest: Digest?
    /// `chunkType` "zeros": the chunk is a hole, and has no bytes in the blob.
    var isZeros = false
    /// Where its object begins in the JSON.
    var position = 0
}

/// The fields of an entry that lamina reads, and how it recognizes them.
enum TOCField {
    case name, type, size, mode, uid, gid, offset, digest, xattrs, modtime, linkName, devMajor, devMinor, chunkSize
    case innerOffset, chunkOffset, chunkDigest, chunkType

    /// The field with this key; `nil` for any other. A length and a byte leave one candidate, which is compared completely.
    init?(_ key: UnsafeRawBufferPointer) {
        let candidate: (TOCField, StaticString)
        switch (key.count, key.first) {
        case (4, UInt8(ascii: "n")): candidate = (.name, "name")
        case (4, UInt8(ascii: "t")): candidate = (.type, "type")
        case (4, UInt8(ascii: "s")): candidate = (.size, "size")
        case (4, UInt8(ascii: "m")): candidate = (.mode, "mode")
        case (3, UInt8(ascii: "u")): candidate = (.uid, "uid")
        case (3, UInt8(ascii: "g")): candidate = (.gid, "gid")
        case (6, UInt8(ascii: "o")): candidate = (.offset, "offset")
        case (6, UInt8(ascii: "d")): candidate = (.digest, "digest")
        case (6, UInt8(ascii: "x")): candidate = (.xattrs, "xattrs")
        case (7, _): candidate = (.modtime, "modtime")
        case (8, UInt8(ascii: "l")): candidate = (.linkName, "linkName")
        case (8, _): candidate = key[4] == UInt8(ascii: "a") ? (.devMajor, "devMajor") : (.devMinor, "devMinor")
        case (9, _): candidate = key[5] == UInt8(ascii: "S") ? (.chunkSize, "chunkSize") : (.chunkType, "chunkType")
        case (11, UInt8(ascii: "i")): candidate = (.innerOffset, "innerOffset")
        case (11, _) where key[5] == UInt8(ascii: "O"): candidate = (.chunkOffset, "chunkOffset")
        case (11, _): candidate = (.chunkDigest, "chunkDigest")
        default: return nil
        }
        guard key.isEqual(to: candidate.1) else { return nil }
        self = candidate.0
    }
}

extension TOCEntry.Kind {
    init?(_ text: UnsafeRawBufferPointer) {
        switch (text.count, text.first) {
        case (3, UInt8(ascii: "r")) where text.isEqual(to: "reg"): self = .regular
        case (3, UInt8(ascii: "d")) where text.isEqual(to: "dir"): self = .directory
        case (5, UInt8(ascii: "c")) where text.isEqual(to: "chunk"): self = .chunk
        case (7, UInt8(ascii: "s")) where text.isEqual(to: "symlink"): self = .symlink
        case (8, UInt8(ascii: "h")) where text.isEqual(to: "hardlink"): self = .hardLink
        case (4, UInt8(ascii: "c")) where text.isEqual(to: "char"): self = .character
        case (5, UInt8(ascii: "b")) where text.isEqual(to: "block"): self = .block
        case (4, UInt8(ascii: "f")) where text.isEqual(to: "fifo"): self = .fifo
        default: return nil
        }
    }
}
