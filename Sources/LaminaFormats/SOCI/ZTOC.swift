public import LaminaDigest

/// A zTOC of SOCI: the names of a plain layer, and places in its blob from which it can be decompressed
/// (https://github.com/awslabs/soci-snapshotter/blob/main/docs/glossary.md, `ztoc/fbs/ztoc.fbs` there).
///
/// What it proves and what not: its own digest is named by whoever made the index. The digest of a *span*, a range of the blob, is of the
/// span's **compressed** bytes. No digest of any byte that comes out is in it; the window that a span begins with, like the names and
/// attributes, is the indexer's word until the whole layer was hashed. So what comes out of a span is shared with no other layer before.
///
/// ``parse(_:limits:)`` checks all that can be checked without the blob. A later look at an entry (``entries(in:_:)``) is checked again.
public struct ZTOC: Sendable, Equatable {
    /// A range of the blob that is decompressed as one.
    public struct Span: Sendable, Equatable {
        /// Its compressed bytes. If ``bits`` is not 0 the first of them is also the last one of the span before.
        public var blob: Range<Int64>
        /// In the tar: of the first byte that comes out.
        public var output: Int64
        /// How many bytes come out; nil for the last span, of which the zTOC does not say it.
        public var outputSize: Int64?
        /// How many bits of its first byte are its own, the high ones: 0 to 7. 0: all of them.
        public var bits: UInt8
        /// SHA-256 of its compressed bytes.
        public var digest: Digest
        /// In the zTOC: the 32 KiB of output before it; empty where there are none, as in a tar that is not compressed.
        public var window: Range<Int>
    }

    /// `plainGzip` or `plainTar`.
    public var format: LayerFormat
    /// As the writer names itself.
    public var buildTool: String
    public var version: String
    /// The size of the blob that it is of.
    public var blobSize: Int64
    /// Where the tar's archive ends, in bytes; there may be more behind it, such as padding.
    public var archiveSize: Int64
    /// How many bytes a span was to have at least, decompressed.
    public var spanSize: Int64
    /// In the order of the blob, without a gap; at least one.
    public var spans: [Span]
    /// How many entries the tar has.
    public var entryCount: Int

    /// The largest zTOC that is read, in bytes. Each span takes 32 KiB of it.
    public static let limit = 128 << 20
    /// How many spans a layer may have: a zTOC of gzip can hold fewer.
    static let spanLimit = 1 << 17
    /// A span's window: how far deflate data refers back (RFC 1951).
    static let windowSize = GzipMemberState.windowSize

    /// Reads a zTOC, whose digest was checked. A pure function; its time is the size of the bytes.
    ///
    /// Throws ``FormatError``: `badTOC` for bytes that are no zTOC or that contradict themselves, `badEntry`, `tooLarge`, `unsupported`;
    /// with the place in the bytes.
    public static func parse(
        _ bytes: UnsafeRawBufferPointer, limits: FormatLimits = FormatLimits()
    ) throws(FormatError) -> ZTOC {
        guard bytes.count <= min(limit, limits.tocBytes) else {
            throw FormatError(
                .tooLarge, "the zTOC is over its limit", expected: "at most \(min(limit, limits.tocBytes)) bytes",
                actual: "\(bytes.count)")
        }
        let root = try FlatBuffer(bytes: bytes).root()
        guard let toc = try root.table(4), let compression = try root.table(5) else {
            throw FormatError(.badTOC, "the zTOC has no table of contents, or no places to decompress from")
        }
        let blobSize = try root.number(2, or: Int64(0))
        let archiveSize = try root.number(3, or: Int64(0))
        guard 0...limits.fileBytes ~= blobSize, 0...limits.fileBytes ~= archiveSize else {
            throw FormatError(
                .badTOC, "a size of the layer is negative or too large", actual: "\(blobSize) and \(archiveSize)")
        }
        let entryCount = try toc.vector(0)?.count ?? 0
        guard entryCount <= limits.entries else {
            throw FormatError(
                .tooLarge, "the zTOC has too many entries", expected: "at most \(limits.entries)",
                actual: "\(entryCount)")
        }
        let digests = try Self.digests(compression, bytes)
        let points = try compression.string(3)
        let places: Places
        switch try compression.number(0, or: Int8(1)) {
        case 1: places = try .gzip(bytes, points, blobSize, limits)
        case 2: places = try .tar(bytes, points, blobSize)
        case let other:
            throw FormatError(
                .unsupported, "the zTOC is of a compression that lamina does not know", actual: "\(other)")
        }
        let last = Int64(try compression.number(1, or: Int32(0)))
        guard places.points.count == digests.count, last == Int64(digests.count) - 1 else {
            throw FormatError(
                .badTOC, "the zTOC counts its spans in different ways",
                expected: "\(places.points.count) digests", actual: "\(digests.count), the last span \(last)")
        }
        let format: LayerFormat = places.isCompressed ? .plainGzip : .plainTar
        let ztoc = ZTOC(
            format: format, buildTool: Self.text(try root.string(1), bytes),
            version: Self.text(try root.string(0), bytes), blobSize: blobSize, archiveSize: archiveSize,
            spanSize: places.spanSize, spans: places.spans(digests, blobSize: blobSize), entryCount: entryCount)
        try ztoc.entries(in: bytes, limits: limits) { (_) throws(FormatError) in }
        return ztoc
    }

    private static func digests(_ table: FlatTable, _ bytes: UnsafeRawBufferPointer) throws(FormatError) -> [Digest] {
        guard let vector = try table.vector(2), vector.count > 0 else {
            throw FormatError(.badTOC, "the zTOC has no digests of spans")
        }
        guard vector.count <= spanLimit else {
            throw FormatError(
                .tooLarge, "the zTOC has too many spans", expected: "at most \(spanLimit)", actual: "\(vector.count)")
        }
        var digests: [Digest] = []
        digests.reserveCapacity(vector.count)
        for index in 0..<vector.count {
            let place = try vector.string(index)
            switch DigestText(UnsafeRawBufferPointer(rebasing: bytes[place])) {
            case .digest(let digest): digests.append(digest)
            case .otherAlgorithm:
                throw FormatError(
                    .unsupported, "the digest of a span is not by SHA-256", offset: Int64(place.lowerBound))
            case .absent, .malformed:
                throw FormatError(.badTOC, "the digest of a span is malformed", offset: Int64(place.lowerBound))
            }
        }
        return digests
    }

    private static func text(_ place: Range<Int>, _ bytes: UnsafeRawBufferPointer) -> String {
        FormatError.display(UnsafeRawBufferPointer(rebasing: bytes[place]))
    }

    /// The span that holds a byte of the tar: the last one that begins at or before it. A binary search.
    public func span(holding offset: Int64) -> Int {
        var (low, high) = (0, spans.count)
        while low < high {
            let middle = (low + high) / 2
            if spans[middle].output <= offset { low = middle + 1 } else { high = middle }
        }
        return max(0, low - 1)
    }
}

/// Where spans begin, before they have their digests.
private struct Places {
    struct Point {
        var blob: Int64
        var output: Int64
        var bits: UInt8 = 0
        var window = 0..<0
    }

    var points: [Point] = []
    var spanSize: Int64
    var isCompressed: Bool

    /// The checkpoints of gzip: a count, the size of a span, then packed points.
    static func gzip(
        _ bytes: UnsafeRawBufferPointer, _ place: Range<Int>, _ blobSize: Int64, _ limits: FormatLimits
    ) throws(FormatError) -> Places {
        let buffer = FlatBuffer(bytes: UnsafeRawBufferPointer(rebasing: bytes[place]), base: place.lowerBound)
        let (head, size) = (12, 17 + ZTOC.windowSize)
        let count = Int(try buffer.load(Int32.self, at: 0))
        var places = Places(spanSize: try buffer.load(Int64.self, at: 4), isCompressed: true)
        // The bytes that are left bound the count: a count of 2^31 allocates nothing.
        let stored = (place.count - head) / size
        // A gzip header alone takes ten bytes.
        guard blobSize > 10, count > 0, (place.count - head) % size == 0, stored == count || stored == count - 1 else {
            throw buffer.broken("the checkpoints have another size than their count", at: 0, actual: "\(count)")
        }
        // An older writer left out the first one, which is always the same.
        if stored < count { places.points.append(Point(blob: 10, output: 0)) }
        for index in 0..<stored {
            let start = head + size * index
            let (blob, output) = (try buffer.load(Int64.self, at: start), try buffer.load(Int64.self, at: start + 8))
            let bits = try buffer.load(UInt8.self, at: start + 16)
            guard 10..<max(blobSize, 10) ~= blob, 0...limits.fileBytes ~= output, bits < 8 else {
                throw buffer.broken(
                    "a checkpoint is outside the layer", at: start,
                    actual: "\(bits) bits before \(blob), output \(output)")
            }
            if let last = places.points.last {
                // Empty blocks at the very start make two of them without output between.
                guard last.blob < blob, last.output < output || (last.output == 0 && output == 0) else {
                    throw buffer.broken(
                        "the checkpoints run backward", at: start,
                        actual: "\(blob), output \(output), behind \(last.blob), output \(last.output)")
                }
            } else {
                guard output == 0, bits == 0 else {
                    throw buffer.broken("the first checkpoint is not at the start", at: start, actual: "\(output)")
                }
            }
            let end = place.lowerBound + start + size
            let known = Int(min(output, Int64(ZTOC.windowSize)))
            places.points.append(Point(blob: blob, output: output, bits: bits, window: end - known..<end))
        }
        return places
    }

    /// The checkpoints of a tar that is not compressed: a flatbuffer with the size of a span.
    static func tar(
        _ bytes: UnsafeRawBufferPointer, _ place: Range<Int>, _ blobSize: Int64
    ) throws(FormatError) -> Places {
        let buffer = FlatBuffer(bytes: UnsafeRawBufferPointer(rebasing: bytes[place]), base: place.lowerBound)
        let root = try buffer.root()
        let (span, size) = (try root.number(1, or: Int64(0)), try root.number(2, or: Int64(0)))
        guard span > 0, size == blobSize else {
            throw buffer.broken("the spans of the tar do not make up the layer", at: 0, actual: "\(span) of \(size)")
        }
        let count = max(1, (size - 1) / span + 1)
        guard count <= Int64(ZTOC.spanLimit) else {
            throw FormatError(
                .tooLarge, "the zTOC has too many spans", expected: "at most \(ZTOC.spanLimit)", actual: "\(count)")
        }
        var places = Places(spanSize: span, isCompressed: false)
        places.points = (0..<count).map { Point(blob: $0 * span, output: $0 * span) }
        return places
    }

    func spans(_ digests: [Digest], blobSize: Int64) -> [ZTOC.Span] {
        points.indices.map { index in
            let point = points[index]
            let next = index + 1 < points.count ? points[index + 1] : nil
            let end = next?.blob ?? blobSize
            return ZTOC.Span(
                blob: point.blob - (point.bits == 0 ? 0 : 1)..<end, output: point.output,
                outputSize: isCompressed ? next.map { $0.output - point.output } : end - point.blob, bits: point.bits,
                digest: digests[index], window: point.window)
        }
    }
}
