import LaminaDigest

/// The digests of runs of zeros, each computed once.
struct ZeroDigests {
    /// How many sizes are remembered: most holes have one of a few sizes.
    private static let limit = 4096
    private static let block = [UInt8](repeating: 0, count: 64 << 10)
    private var known: [Int64: Digest] = [:]
    private var left: Int64

    init(limits: FormatLimits) { left = limits.zeroBytes }

    mutating func digest(of size: Int64) throws(FormatError) -> Digest {
        if let digest = known[size] { return digest }
        guard size <= left else {
            throw FormatError(.tooLarge, "the holes of the layer are too large to be verified", actual: "\(size) bytes")
        }
        left -= size
        var hash = SHA256()
        var rest = size
        Self.block.withUnsafeBytes { block in
            while rest > 0 {
                let count = Int(min(rest, Int64(block.count)))
                hash.update(UnsafeRawBufferPointer(rebasing: block[..<count]))
                rest -= Int64(count)
            }
        }
        let digest = hash.digest()
        if known.count < Self.limit { known[size] = digest }
        return digest
    }
}

extension TreeBuilder {
    /// A regular file whose chunks are being collected.
    struct PendingFile {
        struct Chunk {
            var offset: Int64
            var size: Int64
            var digest: Digest?
            var blobOffset: Int64
            var innerOffset: Int64
            var isZeros: Bool
        }

        var isOpen = false
        /// -1: a hidden file.
        var node: Int32 = -1
        /// Cleaned.
        var path: [UInt8] = []
        var size: Int64 = 0
        var digest: Digest?
        var chunks: [Chunk] = []
        var position = 0
    }

    /// Starts the file that ``path`` names; its node is set when it has one.
    mutating func beginFile(_ entry: TOCEntry) throws(FormatError) {
        guard 0...limits.fileBytes ~= entry.size else {
            throw FormatError(
                .badEntry, "the size is negative or too large", expected: "at most \(limits.fileBytes)",
                actual: "\(entry.size)")
        }
        file.isOpen = true
        file.node = -1
        file.path.removeAll(keepingCapacity: true)
        file.path.append(contentsOf: path.path)
        file.size = entry.size
        file.digest = entry.digest
        file.position = entry.position
        file.chunks.removeAll(keepingCapacity: true)
        if entry.size > 0 { try appendChunk(entry) }
    }

    /// Takes a `chunk` entry: it belongs to the regular file directly before it, and has that file's name or none.
    mutating func addChunk(_ entry: TOCEntry, _ parser: TOCParser) throws(FormatError) {
        if entry.name.count > 0 {
            try parser.reader.withBytes(entry.name) { (name) throws(FormatError) in try path.clean(name) }
        }
        guard file.isOpen,
            entry.name.count == 0 || file.path.withUnsafeBytes({ $0.isEqual(to: path.path) })
        else {
            throw FormatError(.badEntry, "the chunk does not follow the file that it is part of")
        }
        try appendChunk(entry)
    }

    private mutating func appendChunk(_ entry: TOCEntry) throws(FormatError) {
        // A hole has a place in the blob without bytes: it may be the blob's very end.
        guard 0..<tocOffset ~= entry.offset || (entry.isZeros && entry.offset >= 0) else {
            throw FormatError(
                .badEntry, "the payload lies outside the layer", expected: "an offset under \(tocOffset)",
                actual: "\(entry.offset)")
        }
        guard 0..<file.size ~= entry.chunkOffset, 0...file.size - entry.chunkOffset ~= entry.chunkSize else {
            throw FormatError(
                .badEntry, "the chunk is not within its file", expected: "a part of \(file.size) bytes",
                actual: "\(entry.chunkSize) bytes at \(entry.chunkOffset)")
        }
        let size = entry.chunkSize == 0 ? file.size - entry.chunkOffset : entry.chunkSize
        // A hole is never decompressed.
        guard entry.isZeros || size <= limits.chunkBytes,
            entry.isZeros || 0...limits.chunkBytes - size ~= entry.innerOffset
        else {
            // What no file is so large as is no file.
            let isPlausible = size <= 1 << 40 && 0...1 << 40 ~= entry.innerOffset
            throw FormatError(
                isPlausible ? .largeChunk : .tooLarge, "the chunk needs too much to be decompressed",
                expected: "at most \(limits.chunkBytes) bytes",
                actual: "\(size) bytes behind \(entry.innerOffset)")
        }
        if !entry.isZeros {
            if let last = memberOffsets.last, last > entry.offset { memberOffsetsAreSorted = false }
            if memberOffsets.last != entry.offset { memberOffsets.append(entry.offset) }
        }
        file.chunks.append(
            PendingFile.Chunk(
                offset: entry.chunkOffset, size: size, digest: entry.chunkDigest, blobOffset: entry.offset,
                innerOffset: entry.innerOffset, isZeros: entry.isZeros))
    }

    /// Gives a file its content, when its last chunk has come.
    mutating func finishFile() throws(FormatError) {
        guard file.isOpen else { return }
        file.isOpen = false
        guard file.node >= 0, file.size > 0 else { return }
        do throws(FormatError) {
            nodes[Int(file.node)].content = try content()
        } catch {
            // The current entry is the next one: the error must name the file.
            var error = error.naming(file.path.withUnsafeBytes { FormatError.display($0) })
            error.offset = Int64(file.position)
            throw error
        }
    }

    private mutating func content() throws(FormatError) -> Int32 {
        try checkTiling()
        let digest = try checkDigests()
        let start = Int32(chunks.count)
        for chunk in file.chunks {
            guard let chunkDigest = file.chunks.count == 1 ? digest : chunk.digest else {
                throw FormatError(.unsupported, "a chunk of the file has no digest")
            }
            if chunk.isZeros { try checkZeros(chunk.size, chunkDigest) }
            chunks.append(
                LayerTree.Chunk(
                    offset: chunk.offset, size: chunk.size, digest: chunkDigest, blobOffset: chunk.blobOffset,
                    blobSize: chunk.isZeros ? 0 : -1,
                    // What follows a hole has the same offset: the count gives each its own place in the order of the blob.
                    innerOffset: chunk.isZeros ? Int64(chunks.count) + 1 : chunk.innerOffset))
        }
        let content = LayerTree.Content(digest: digest, size: file.size, chunks: start..<Int32(chunks.count))
        return share(content)
    }

    /// Checks that a hole's digest is the digest of that many zeros: nothing is fetched for it that could be verified later.
    private mutating func checkZeros(_ size: Int64, _ digest: Digest) throws(FormatError) {
        let actual = try zeros.digest(of: size)
        guard actual == digest else {
            throw FormatError(
                .digestMismatch, "a chunk that is said to be zeros has another digest", expected: "\(actual)",
                actual: "\(digest)")
        }
    }

    /// Sorts the chunks and checks that they cover the file, each byte once.
    private mutating func checkTiling() throws(FormatError) {
        let pairs = zip(file.chunks, file.chunks.dropFirst())
        if !pairs.allSatisfy({ $0.offset < $1.offset }) { file.chunks.sort { $0.offset < $1.offset } }
        var end: Int64 = 0
        for chunk in file.chunks {
            guard chunk.offset == end else {
                throw FormatError(
                    .badEntry, chunk.offset > end ? "the file's chunks leave a gap" : "the file's chunks overlap",
                    expected: "a chunk at \(end)", actual: "one at \(chunk.offset)")
            }
            // No overflow, because each chunk is within its file.
            end += chunk.size
        }
        guard end == file.size else {
            throw FormatError(
                .badEntry, "the file's chunks end before it does", expected: "\(file.size) bytes", actual: "\(end)")
        }
    }

    /// The digest of the file; for a file of one chunk, the chunk's digest is as good.
    private func checkDigests() throws(FormatError) -> Digest {
        guard file.chunks.count == 1, let chunkDigest = file.chunks[0].digest else {
            guard let digest = file.digest else { throw FormatError(.unsupported, "the file has no digest") }
            return digest
        }
        if let digest = file.digest, digest != chunkDigest {
            throw FormatError(
                .digestMismatch, "the file's digest is not that of its only chunk", expected: "\(digest)",
                actual: "\(chunkDigest)")
        }
        return chunkDigest
    }

    /// Takes the newest content, whose chunks are the last; if there is an equal one, drops it and takes that.
    private mutating func share(_ content: LayerTree.Content) -> Int32 {
        // All the bytes of all digests, and a seed: an attacker who writes a table of contents chooses its digests.
        var hasher = Hasher()
        hasher.combine(content.size)
        content.digest.withUnsafeBytes { hasher.combine(bytes: $0) }
        let own = chunks[Int(content.chunks.lowerBound)...]
        if own.count > 1 {
            for chunk in own {
                hasher.combine(chunk.offset)
                chunk.digest.withUnsafeBytes { hasher.combine(bytes: $0) }
            }
        }
        let hash = UInt64(bitPattern: Int64(hasher.finalize()))
        if let known = contentByHash[hash], isEqual(contents[Int(known)], content) {
            chunks.removeLast(own.count)
            return known
        }
        // If two differ but have the same hash, only the first is shared: that only loses sharing, and practically never
        // happens.
        let number = Int32(contents.count)
        contents.append(content)
        if contentByHash[hash] == nil { contentByHash[hash] = number }
        return number
    }

    private func isEqual(_ left: LayerTree.Content, _ right: LayerTree.Content) -> Bool {
        left.digest == right.digest && left.size == right.size && left.chunks.count == right.chunks.count
            && zip(left.chunks, right.chunks).allSatisfy {
                let (one, other) = (chunks[Int($0)], chunks[Int($1)])
                return one.offset == other.offset && one.size == other.size && one.digest == other.digest
            }
    }
}
