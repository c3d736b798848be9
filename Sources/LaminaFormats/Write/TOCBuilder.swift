import LaminaDigest

/// Collects the table of contents of a layer as JSON, a line for each entry, while the layer is written.
///
/// https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md#toc. An entry is turned into text as soon as its
/// chunks' offsets and digests are known, so that it costs only its text (about 250 bytes).
///
/// Choices where the specification is silent:
/// - times are cut to whole seconds (not rounded) in eStargz, so that programs that compare whole seconds, such as Python's
///   caches, stay right; zstd:chunked has nanoseconds;
/// - names that are not UTF-8 stay unchanged, although JSON should be UTF-8: lamina reads them back exactly, and Go's readers
///   see U+FFFD for each wrong byte, as the reference writer would have written;
/// - an entry that a later one of the same archive replaces is left out.
struct TOCBuilder {
    /// A part of a regular file that begins with a gzip member.
    private struct Chunk {
        var offset: Int64
        var end: Int64
        var digest: Digest
        var isZeros: Bool
    }

    /// An entry that lacks chunks or digest.
    private struct Open {
        var header: TarHeader
        var chunkCount: Int
        var chunks: [Chunk] = []
        var fileDigest: Digest?

        var isComplete: Bool { chunks.count == chunkCount && (header.kind != .regular || fileDigest != nil) }
    }

    private let chunkSize: Int64
    private var open: [Open] = []
    /// The entries of `open` before this one are written.
    private var firstOpen = 0
    /// The first entry of `open` that may lack chunks.
    private var nextToFill = 0
    private var text: [UInt8]
    /// Where the lines of each entry start in `text`.
    private var starts: [Int] = []
    private var names = LayerNames()
    /// The last names: an entry gives its owners' names only if they differ from these, as the specification allows.
    private var userNames: [UInt32: [UInt8]] = [:]
    private var groupNames: [UInt32: [UInt8]] = [:]

    private let format: LayerWriter.Options.Format
    /// A block of the file systems that support holes: smaller runs cannot be holes.
    private static let holeSize: Int64 = 4096
    private static let head = Array("{\"version\":1,\"entries\":[".utf8)
    private static let emptyDigest = SHA256().digest()

    init(chunkSize: Int, format: LayerWriter.Options.Format = .estargz) {
        self.format = format
        self.chunkSize = Int64(chunkSize)
        text = Self.head
    }

    /// Adds the next entry of the tar.
    mutating func add(_ header: TarHeader) {
        names.add(header)
        let count = header.size == 0 ? 0 : Int((header.size - 1) / chunkSize) + 1
        open.append(Open(header: header, chunkCount: count))
        if header.kind == .regular, count == 0 { open[open.count - 1].fileDigest = Self.emptyDigest }
        writeComplete()
    }

    /// Sets the digest of the whole file that was added last. Not needed for files of one chunk.
    mutating func setDigest(_ digest: Digest) { open[open.count - 1].fileDigest = digest }

    /// Sets where the next chunk, in the order of the tar, starts in the blob.
    mutating func addChunk(offset: Int64, end: Int64, digest: Digest, isZeros: Bool) {
        while open[nextToFill].chunks.count == open[nextToFill].chunkCount { nextToFill += 1 }
        open[nextToFill].chunks.append(Chunk(offset: offset, end: end, digest: digest, isZeros: isZeros))
        if open[nextToFill].chunkCount == 1 { open[nextToFill].fileDigest = digest }
        writeComplete()
    }

    private mutating func writeComplete() {
        while firstOpen < open.count, open[firstOpen].isComplete {
            write(open[firstOpen])
            firstOpen += 1
        }
        nextToFill = max(nextToFill, firstOpen)
        // Only now and then, so that removing from the front costs little for each entry.
        if firstOpen == open.count || firstOpen > 1024 {
            open.removeFirst(firstOpen)
            nextToFill -= firstOpen
            firstOpen = 0
        }
    }

    /// The JSON; every entry must be complete.
    ///
    /// - Parameter tarSplitDigest: for zstd:chunked.
    mutating func finish(tarSplitDigest: Digest? = nil) -> [UInt8] {
        writeComplete()
        precondition(open.isEmpty, "every member has been given back")
        if let fates = names.fates() { rewrite(fates) }
        if text.last == UInt8(ascii: ",") { text.removeLast() }
        text += "\n]".utf8
        if let tarSplitDigest { text += ",\"tarSplitDigest\":\"\(tarSplitDigest)\"".utf8 }
        text += "}".utf8
        return text
    }
}

extension TOCBuilder {
    private mutating func write(_ entry: Open) {
        let header = entry.header
        starts.append(text.count)
        begin(header, type: header.kind.tocName)
        if header.kind == .regular, header.size > 0 { field("size", header.size) }
        key("modtime")
        let time = header.modificationTime
        JSONText.append(
            time: time.seconds, nanoseconds: format == .zstdChunked ? Int(time.nanoseconds) : 0, to: &text)
        if header.kind == .hardLink || header.kind == .symbolicLink {
            key("linkName")
            JSONText.append(string: header.linkName, to: &text)
        }
        if header.mode != 0 { field("mode", Int64(header.mode)) }
        if header.userID != 0 { field("uid", Int64(header.userID)) }
        if header.groupID != 0 { field("gid", Int64(header.groupID)) }
        if !header.userName.isEmpty, userNames.updateValue(header.userName, forKey: header.userID) != header.userName {
            key("userName")
            JSONText.append(string: header.userName, to: &text)
        }
        if !header.groupName.isEmpty,
            groupNames.updateValue(header.groupName, forKey: header.groupID) != header.groupName
        {
            key("groupName")
            JSONText.append(string: header.groupName, to: &text)
        }
        if let first = entry.chunks.first { field("offset", first.offset) }
        if format == .zstdChunked, let last = entry.chunks.last { field("endOffset", last.end) }
        if header.deviceMajor != 0 { field("devMajor", Int64(header.deviceMajor)) }
        if header.deviceMinor != 0 { field("devMinor", Int64(header.deviceMinor)) }
        header.appendAttributes(to: &text)
        if let digest = entry.fileDigest { field("digest", digest) }
        for (index, chunk) in entry.chunks.enumerated() {
            let offset = Int64(index) * chunkSize
            if index > 0 {
                end()
                begin(header, type: "chunk")
                field("offset", chunk.offset)
                field("chunkOffset", offset)
            }
            if format == .zstdChunked {
                // Its bytes are in the blob, which is a tar; a reader of the table of contents makes a hole without them.
                if chunk.isZeros, Self.holeSize <= min(chunkSize, header.size - offset) {
                    key("chunkType")
                    text += "\"zeros\"".utf8
                }
                // A file of one chunk has no such fields, as in containers/storage.
                if entry.chunks.count == 1 { break }
                field("chunkSize", min(chunkSize, header.size - offset))
            } else if header.size - offset >= chunkSize {
                // A last chunk that is short has no size: "to the end of the file".
                field("chunkSize", chunkSize)
            }
            field("chunkDigest", chunk.digest)
        }
        end()
    }

    private mutating func begin(_ header: TarHeader, type: StaticString) {
        text += "\n{\"name\":".utf8
        JSONText.append(string: header.name, to: &text)
        key("type")
        text.append(UInt8(ascii: "\""))
        text.append(contentsOf: UnsafeBufferPointer(start: type.utf8Start, count: type.utf8CodeUnitCount))
        text.append(UInt8(ascii: "\""))
    }

    private mutating func end() { text += "},".utf8 }

    private mutating func key(_ key: StaticString) {
        text += ",\"".utf8
        text.append(contentsOf: UnsafeBufferPointer(start: key.utf8Start, count: key.utf8CodeUnitCount))
        text += "\":".utf8
    }

    private mutating func field(_ name: StaticString, _ value: Int64) {
        key(name)
        text += "\(value)".utf8
    }

    private mutating func field(_ name: StaticString, _ digest: Digest) {
        key(name)
        text += "\"\(digest)\"".utf8
    }
}

extension TOCBuilder {
    /// Leaves out what was replaced, and gives links to replaced files their real targets. The lines are split at newlines and
    /// keys: inside a JSON string both newline and quote are escaped, so neither can be mistaken.
    private mutating func rewrite(_ fates: [LayerNames.Fate]) {
        var result = Self.head
        result.reserveCapacity(text.count)
        for (entry, fate) in fates.enumerated() {
            switch fate {
            case .stays: result += lines(of: entry)
            case .replaced: continue
            case .becomes(let source):
                let name = nameMember(of: entry)
                for line in lines(of: source).split(separator: UInt8(ascii: "\n")) {
                    result += name + line[Self.range(of: ",\"type\":", in: line).lowerBound...]
                }
            case .linksTo(let target):
                let line = lines(of: entry)
                let old = Self.range(of: ",\"linkName\":", in: line)
                result += line[..<old.upperBound]
                result += nameMember(of: target).dropFirst("\n{\"name\":".utf8.count)
                result += line[Self.endOfString(in: line, from: old.upperBound)...]
            }
        }
        text = result
    }

    private func lines(of entry: Int) -> ArraySlice<UInt8> {
        text[starts[entry]..<(entry + 1 < starts.count ? starts[entry + 1] : text.count)]
    }

    /// The start of an entry's line: newline, brace, and its name.
    private func nameMember(of entry: Int) -> ArraySlice<UInt8> {
        let lines = lines(of: entry)
        return lines[..<Self.range(of: ",\"type\":", in: lines).lowerBound]
    }

    private static func endOfString(in line: ArraySlice<UInt8>, from start: Int) -> Int {
        var index = start + 1
        while line[index] != UInt8(ascii: "\"") { index += line[index] == UInt8(ascii: "\\") ? 2 : 1 }
        return index + 1
    }

    private static func range(of key: StaticString, in line: ArraySlice<UInt8>) -> Range<Int> {
        let key = UnsafeBufferPointer(start: key.utf8Start, count: key.utf8CodeUnitCount)
        var index = line.startIndex
        while index + key.count <= line.endIndex {
            if line[index..<(index + key.count)].elementsEqual(key) { return index..<(index + key.count) }
            index += 1
        }
        fatalError("every line of this builder has the key")
    }
}
