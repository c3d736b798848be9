import Glibc
public import LaminaDigest
import LaminaSystem

/// Writes a layer with a table of contents: a tar whose files can be fetched one by one, and still an ordinary tar.gz or
/// tar.zst.
///
/// eStargz, https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md: a gzip member starts at each chunk of
/// each regular file that is not empty; after the payload it holds the tar's padding and the headers of the entries that
/// follow. The table of contents is a separate member, then comes the footer.
///
/// zstd:chunked as containers/storage reads it: each chunk is a zstd frame, and so is what is between two files. Table of
/// contents, tar-split and footer follow in skippable frames (`LayerWriter+Zstd.swift`).
///
/// Deterministic: the same entries and options give the same bytes with any number of threads (another version of libdeflate or
/// libzstd may compress differently). Compression and chunk digests run on `threads` threads; the caller's thread hashes the
/// tar and calls `output`. Not `Sendable`: only one thread may call it.
///
/// Memory: the running batches (`Options.memoryLimit`) and about 250 bytes for each entry, twice that in `finish`.
public final class LayerWriter {
    /// How to write.
    public struct Options: Sendable, Equatable {
        /// What to write.
        public var format = Format.estargz
        /// The size of a file's chunks in bytes, 4 KiB to 64 MiB.
        public var chunkSize = 4 << 20
        /// libdeflate's level: 0 (stored), 1 (fast) … 12 (small); or libzstd's, where 0 is its default, 3.
        public var level = 6
        /// How many threads compress; 0 is one for each processor.
        public var threads = 0
        /// A bound on the buffers, in bytes; at least two chunks and their compressed forms are always held.
        public var memoryLimit = 96 << 20

        public init() {}

        /// The formats that are written.
        public enum Format: String, Sendable, CaseIterable {
            case estargz
            case zstdChunked = "zstd-chunked"
        }

        public static let chunkSizes = 4 << 10...64 << 20
        public static let levels = 0...12
    }

    /// What was written.
    public struct Result: Sendable, Equatable {
        /// Of the blob.
        public var blobDigest: Digest
        /// Of the blob, in bytes.
        public var blobSize: Int64
        /// Of the uncompressed tar, table of contents included.
        public var diffID: Digest
        /// Of the table of contents' JSON.
        public var tocDigest: Digest
        /// Of the uncompressed tar, in bytes.
        public var uncompressedSize: Int64
        /// For zstd:chunked: what its manifest says besides the digest.
        public var chunked: ChunkedResult? = nil
    }

    /// Where the parts of a zstd:chunked blob are.
    public struct ChunkedResult: Sendable, Equatable {
        public var toc: ZstdChunked.Place
        /// SHA-256 of the table of contents as it is compressed.
        public var tocChecksum: Digest
        public var tarSplit: ZstdChunked.Place
    }

    /// Which file marks the end of the prioritized files.
    public enum Landmark: String, Sendable, CaseIterable {
        /// Behind the prioritized files.
        case prefetch = ".prefetch.landmark"
        /// First in a layer without prioritized files.
        case noPrefetch = ".no.prefetch.landmark"
    }

    /// The table of contents' name in the tar; no other entry may have it.
    public static let tocName = "stargz.index.json"

    /// A batch goes to the workers at this size in bytes; a chunk that is larger goes at once.
    private static let batchSize = 512 << 10
    /// A run of headers without payload is cut into members of about this size, so that neither writer nor reader must hold the
    /// headers of a million empty files.
    private static let headerRunLimit = 256 << 10

    private let options: Options
    private let pipeline: MemberPipeline
    private let output: (UnsafeRawBufferPointer) throws -> Void
    var toc: TOCBuilder
    /// Of zstd:chunked.
    var tarSplit: TarSplitBuilder?
    private var tarHash = SHA256()
    private var tarSize: Int64 = 0
    private var blobHash = SHA256()
    private(set) var blobSize: Int64 = 0
    /// The current member: where it starts in the current batch, and how much of it is a chunk.
    private var memberStart = 0
    private var memberChunk = 0
    /// How much of the current file's payload is still to be written.
    private var fileLeft: Int64 = 0
    private var chunkLeft = 0
    private var fileSize: Int64 = 0
    private var fileHash: SHA256?
    private var fileName: [UInt8] = []
    private var headerBytes: [UInt8] = []
    private var isBroken = false

    /// Starts the threads.
    ///
    /// - Parameter output: takes the blob's bytes in order; called on the thread that calls the writer.
    /// - Throws: `FormatError` for options out of range.
    public init(options: Options = Options(), output: @escaping (UnsafeRawBufferPointer) throws -> Void) throws {
        guard Options.chunkSizes.contains(options.chunkSize), Options.levels.contains(options.level),
            options.threads >= 0
        else {
            throw FormatError(
                .unsupported,
                "a chunk size of \(options.chunkSize) bytes (4 KiB to 64 MiB), compression level \(options.level) "
                    + "(0 to 12) and \(options.threads) threads cannot be used together")
        }
        self.options = options
        self.output = output
        toc = TOCBuilder(chunkSize: options.chunkSize, format: options.format)
        if options.format == .zstdChunked { tarSplit = try TarSplitBuilder() }
        let wanted = options.threads > 0 ? options.threads : max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        let batchBytes = 2 * (options.chunkSize + Self.batchSize + Self.headerRunLimit)
        // Besides those that are being compressed, one that is being filled and one that waits to be written.
        let batches = min(wanted + 2, max(2, options.memoryLimit / batchBytes))
        pipeline = try MemberPipeline(
            threadCount: min(wanted, max(1, batches - 1)), batchCount: batches,
            codec: options.format == .estargz ? .gzip(level: options.level) : .zstd(level: options.level))
    }

    /// Writes an entry's header. A regular file's payload follows by `write` or `fill`, exactly `header.size` bytes.
    ///
    /// - Throws: `FormatError` if eStargz cannot express the entry, or the payload before it is not complete; and what `output`
    ///   throws. The writer must not be used after an error.
    public func append(_ header: TarHeader) throws {
        try guarded {
            try requireComplete()
            var header = header
            if header.kind == .directory, header.name.last != UInt8(ascii: "/") {
                header.name.append(UInt8(ascii: "/"))
            }
            if header.kind != .regular { header.size = 0 }
            guard !isReserved(header.name) else {
                throw FormatError(.unsupported, "the name is reserved for the table of contents", entry: Self.tocName)
            }
            headerBytes.removeAll(keepingCapacity: true)
            try TarWriter.append(header, to: &headerBytes)
            if pipeline.current.count - memberStart - memberChunk > Self.headerRunLimit { try endMember() }
            try headerBytes.withUnsafeBytes { try appendTar($0) }
            toc.add(header)
            tarSplit?.beginFile(header.name, size: header.size)
            fileName = header.name
            fileSize = header.size
            fileLeft = header.size
            chunkLeft = 0
            fileHash = header.size > Int64(options.chunkSize) ? SHA256() : nil
        }
    }

    /// Writes an entry of a file of one byte; nothing in zstd:chunked, whose readers would show it.
    public func append(_ landmark: Landmark) throws {
        guard options.format == .estargz else { return }
        try append(TarHeader(kind: .regular, name: Array(landmark.rawValue.utf8), size: 1))
        try withUnsafeBytes(of: UInt8(0x0f)) { try write($0) }
    }

    /// Writes the next bytes of the payload.
    public func write(_ bytes: UnsafeRawBufferPointer) throws {
        var rest = bytes
        while !rest.isEmpty {
            try fill { space in
                let count = min(space.count, rest.count)
                space.copyMemory(from: UnsafeRawBufferPointer(rebasing: rest[..<count]))
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                return count
            }
        }
    }

    /// Lets `reader` fill the next bytes of the payload, as many as it likes; returns how many these were.
    public func fill(_ reader: (UnsafeMutableRawBufferPointer) throws -> Int) throws {
        try guarded {
            guard fileLeft > 0 else {
                throw FormatError(
                    .badEntry, "it got more than the \(fileSize) bytes that its header says",
                    entry: fileName.withUnsafeBytes { FormatError.display($0) })
            }
            if chunkLeft == 0 { try beginChunk() }
            let batch = pipeline.current
            let space = UnsafeMutableRawBufferPointer(start: batch.input.base + batch.count, count: chunkLeft)
            let count = try reader(space)
            precondition(count >= 0 && count <= space.count, "a reader filled more than it was given")
            let bytes = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(space)[..<count])
            batch.count += count
            memberChunk += count
            tarHash.update(bytes)
            tarSize += Int64(count)
            fileHash?.update(bytes)
            tarSplit?.update(bytes)
            chunkLeft -= count
            fileLeft -= Int64(count)
            // A frame of zstd:chunked holds only its chunk.
            if chunkLeft == 0, options.format == .zstdChunked { try endMember() }
            if fileLeft == 0 { try endFile() }
        }
    }

    /// Writes the table of contents and the footer.
    public func finish() throws -> Result {
        try guarded {
            try requireComplete()
            if options.format == .zstdChunked { try appendEnd() }
            try endMember()
            if pipeline.current.count > 0 { submit() }
            while !pipeline.isIdle { try retire() }
            if options.format == .zstdChunked {
                let (chunked, tocDigest) = try writeChunkedEnd()
                return Result(
                    blobDigest: blobHash.digest(), blobSize: blobSize, diffID: tarHash.digest(), tocDigest: tocDigest,
                    uncompressedSize: tarSize, chunked: chunked)
            }
            let tocOffset = blobSize
            let json = toc.finish()
            let tocDigest = SHA256.hash(json)
            try writeTOC(json)
            try emit(EStargzFooterBytes.make(tocOffset: tocOffset))
            return Result(
                blobDigest: blobHash.digest(), blobSize: blobSize, diffID: tarHash.digest(), tocDigest: tocDigest,
                uncompressedSize: tarSize)
        }
    }
}

extension LayerWriter {
    /// After any error the state cannot be used any more.
    private func guarded<T>(_ body: () throws -> T) throws -> T {
        guard !isBroken else { throw FormatError(.unsupported, "the layer's writer has failed before") }
        isBroken = true
        let result = try body()
        isBroken = false
        return result
    }

    private func isReserved(_ name: [UInt8]) -> Bool { Tar.clean(name).elementsEqual(Self.tocName.utf8) }

    private func requireComplete() throws {
        guard fileLeft == 0 else {
            throw FormatError(
                .badEntry, "\(fileLeft) of its \(fileSize) bytes are missing",
                entry: fileName.withUnsafeBytes { FormatError.display($0) })
        }
    }

    private func beginChunk() throws {
        try endMember()
        chunkLeft = Int(min(Int64(options.chunkSize), fileLeft))
        pipeline.current.reserve(chunkLeft)
    }

    private func endFile() throws {
        if let digest = fileHash?.digest() { toc.setDigest(digest) }
        fileHash = nil
        try tarSplit?.endFile()
        let zeros = [UInt8](repeating: 0, count: Tar.padding(fileSize))
        try zeros.withUnsafeBytes { try appendTar($0) }
    }

    /// Appends bytes of the tar that are not payload.
    private func appendTar(_ bytes: UnsafeRawBufferPointer) throws {
        let batch = pipeline.current
        batch.reserve(bytes.count)
        (batch.input.base + batch.count).copyMemory(
            from: bytes.baseAddress ?? UnsafeRawPointer(batch.input.base), byteCount: bytes.count)
        batch.count += bytes.count
        tarHash.update(bytes)
        tarSize += Int64(bytes.count)
        tarSplit?.append(bytes)
    }

    /// Ends the tar: two blocks of zeros.
    private func appendEnd() throws {
        let zeros = [UInt8](repeating: 0, count: Tar.endSize)
        try zeros.withUnsafeBytes { try appendTar($0) }
    }

    /// Ends the current member, and passes its batch on if it is large enough.
    private func endMember() throws {
        let batch = pipeline.current
        if batch.count > memberStart {
            batch.members.append(.init(end: batch.count, chunkSize: memberChunk))
            memberStart = batch.count
            memberChunk = 0
        }
        if batch.count >= Self.batchSize {
            submit()
            while pipeline.isFull { try retire() }
        }
    }

    private func submit() {
        pipeline.submit()
        memberStart = 0
        memberChunk = 0
    }

    /// Writes the oldest running batch.
    private func retire() throws {
        try pipeline.retire { batch in
            var start = 0
            for member in batch.members {
                if let digest = member.chunkDigest {
                    toc.addChunk(
                        offset: blobSize + Int64(start), end: blobSize + Int64(member.compressedEnd), digest: digest,
                        isZeros: member.isZeros)
                }
                start = member.compressedEnd
            }
            try emit(UnsafeRawBufferPointer(start: batch.output.base, count: start))
        }
    }

    func emit(_ bytes: UnsafeRawBufferPointer) throws {
        blobHash.update(bytes)
        blobSize += Int64(bytes.count)
        try output(bytes)
    }

    func emit(_ bytes: [UInt8]) throws { try bytes.withUnsafeBytes { try emit($0) } }

    private func writeTOC(_ json: [UInt8]) throws {
        headerBytes.removeAll(keepingCapacity: true)
        let header = TarHeader(kind: .regular, name: Array(Self.tocName.utf8), size: Int64(json.count))
        try TarWriter.append(header, to: &headerBytes)
        let batch = pipeline.current
        batch.reserve(headerBytes.count + json.count + Tar.blockSize + Tar.endSize)
        try headerBytes.withUnsafeBytes { try appendTar($0) }
        try json.withUnsafeBytes { try appendTar($0) }
        let zeros = [UInt8](repeating: 0, count: Tar.padding(header.size) + Tar.endSize)
        try zeros.withUnsafeBytes { try appendTar($0) }
        batch.members.append(.init(end: batch.count, chunkSize: 0))
        submit()
        try retire()
    }
}

/// The last 51 bytes of an eStargz blob: an empty gzip member whose extra field says where the table of contents is.
///
/// https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md#footer
enum EStargzFooterBytes {
    static func make(tocOffset: Int64) -> [UInt8] {
        let digits = String(tocOffset, radix: 16)
        // Gzip header: magic, deflate, FEXTRA, no time, no flags, unknown system; 26 bytes of extra field.
        var bytes: [UInt8] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0]
        // Subfield "SG" of 22 bytes.
        bytes += [UInt8(ascii: "S"), UInt8(ascii: "G"), 22, 0]
        bytes += Array(repeating: UInt8(ascii: "0"), count: 16 - digits.utf8.count)
        bytes += Array(digits.utf8)
        bytes += Array("STARGZ".utf8)
        // One stored block without bytes, the CRC-32 and the length of nothing.
        bytes += [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]
        return bytes
    }
}
