import CZlib

/// Makes the tar-split of a tar as it comes by: what containers/storage puts a layer's tar together from, with the files of the layer's
/// directory (`<layers>/<id>.tar-split.gz`, https://github.com/vbatts/tar-split). It is compressed by gzip and passed on at once.
///
/// The bytes of some files are put into it, as the layer's directory does not have them under their names: those of eStargz itself,
/// whiteouts that are not empty, sparse files, and files with names that lead upwards. As these can be of any size, it has a bound.
public final class TarSplitter {
    /// How large it may be, compressed: an eStargz has its own table of contents in it, with two digests an entry.
    static let sizeLimit: (base: Int64, ofEntry: Int64) = (4 << 20, 1024)

    private enum Place { case between, file(rest: Int64), embedded }

    private var reader = TarReader()
    private var builder: TarSplitBuilder
    private let stream: GzipStream
    private var place = Place.between
    /// Of the names of files with bytes.
    private var seen: Set<Int> = []
    private var entryCount: Int64 = 0

    /// - Parameter sink: gets the compressed bytes, in order. What it throws, `take` and `finish` throw.
    public init(_ sink: @escaping (UnsafeRawBufferPointer) throws -> Void) throws(FormatError) {
        stream = try GzipStream(sink)
        builder = TarSplitBuilder(stream)
    }

    /// How long the tar is so far, in bytes.
    public var tarSize: Int64 { reader.offset }

    /// Takes the next bytes of the tar.
    ///
    /// Throws ``FormatError`` for what is no tar, for one that has two files of one name, as only the last of them is in a directory,
    /// and for one whose tar-split is over its bound.
    public func take(_ bytes: UnsafeRawBufferPointer) throws {
        var piece = bytes
        while true {
            let before = piece
            let event = try reader.next(&piece)
            let taken = UnsafeRawBufferPointer(rebasing: before[..<(before.count - piece.count)])
            switch event {
            case .more:
                builder.append(taken)
                return try check()
            case .entry(let entry):
                builder.append(taken)
                try begin(entry)
            case .payload(let payload): try take(payload, of: taken)
            // Of a sparse file, whose bytes are put in as they stand in the tar.
            case .zeros: builder.append(taken)
            }
        }
    }

    private func check() throws {
        try stream.check()
        let limit = Self.sizeLimit.base + entryCount * Self.sizeLimit.ofEntry
        guard stream.size <= limit else {
            throw FormatError(
                .tooLarge, "the tar-split is over its limit",
                expected: "at most \(limit) bytes for \(entryCount) entries")
        }
    }

    private func begin(_ entry: TarEntry) throws(FormatError) {
        entryCount += 1
        let header = entry.header
        let path = header.name.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual(".".utf8) }
        let name = Array(path.joined(separator: [UInt8(ascii: "/")])).hashValue
        guard !seen.contains(name) else {
            throw FormatError(
                .unsupported, "two entries of the tar have one name, and one of them is a file with bytes")
        }
        let hasBytes = header.kind == .regular && header.size > 0
        if hasBytes { seen.insert(name) }
        if entry.isSparse || hasBytes && Self.isEmbedded(path) { return place = .embedded }
        builder.beginFile(header.name, size: hasBytes ? header.size : 0)
        place = hasBytes ? .file(rest: header.size) : .between
    }

    private static func isEmbedded(_ path: [ArraySlice<UInt8>]) -> Bool {
        guard let last = path.last else { return true }
        if path.contains(where: { $0.elementsEqual("..".utf8) }) || last.starts(with: ".wh.".utf8) { return true }
        return path.count == 1
            && ["stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark"].contains {
                last.elementsEqual($0.utf8)
            }
    }

    private func take(_ payload: UnsafeRawBufferPointer, of taken: UnsafeRawBufferPointer) throws {
        guard case .file(let rest) = place else { return builder.append(taken) }
        builder.update(payload)
        let left = rest - Int64(payload.count)
        place = left > 0 ? .file(rest: left) : .between
        if left == 0 { try builder.endFile() }
    }

    /// Ends the tar, and passes on what is left.
    public func finish() throws {
        try reader.finish()
        _ = try builder.finish()
        try check()
    }
}

/// zlib's deflate in gzip's framing (RFC 1952), passed on as it comes.
private final class GzipStream: TarSplitStream {
    // On the heap, because zlib keeps the address of the structure that it was initialized with.
    private let stream: UnsafeMutablePointer<z_stream>
    private let sink: (UnsafeRawBufferPointer) throws -> Void
    private var failure: (any Error)?
    /// How many bytes were passed on.
    private(set) var size: Int64 = 0

    init(_ sink: @escaping (UnsafeRawBufferPointer) throws -> Void) throws(FormatError) {
        self.sink = sink
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        // 31: gzip's framing, with the largest window.
        let size = Int32(MemoryLayout<z_stream>.size)
        guard deflateInit2_(stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, size) == Z_OK else {
            throw FormatError(.tooLarge, "zlib cannot be set up: out of memory")
        }
    }

    deinit {
        deflateEnd(stream)
        stream.deallocate()
    }

    func check() throws { if let failure { throw failure } }

    func write(_ bytes: [UInt8]) { push(bytes, Z_NO_FLUSH) }

    func finish() throws(FormatError) -> [UInt8] {
        push([], Z_FINISH)
        return []
    }

    private func push(_ bytes: [UInt8], _ mode: Int32) {
        guard failure == nil else { return }
        var input = bytes
        input.withUnsafeMutableBufferPointer { input in
            stream.pointee.next_in = input.baseAddress
            stream.pointee.avail_in = UInt32(input.count)
            withUnsafeTemporaryAllocation(byteCount: 64 << 10, alignment: 16) { buffer in
                repeat {
                    stream.pointee.next_out = buffer.baseAddress?.assumingMemoryBound(to: UInt8.self)
                    stream.pointee.avail_out = UInt32(buffer.count)
                    // It fails only for a stream that is not set up.
                    deflate(stream, mode)
                    let made = buffer.count - Int(stream.pointee.avail_out)
                    size += Int64(made)
                    do {
                        if made > 0 { try sink(UnsafeRawBufferPointer(rebasing: buffer[..<made])) }
                    } catch {
                        failure = error
                    }
                } while stream.pointee.avail_out == 0 && failure == nil
            }
        }
    }
}
