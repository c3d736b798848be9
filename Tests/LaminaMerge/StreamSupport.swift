import CZlib
import CZstd
import Glibc
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaMerge

/// A layer without a table of contents.
struct PlainLayer {
    var tar: [UInt8] = []
    /// Where each file's entry begins in the tar.
    var offsets: [String: Int] = [:]
    var files: [String: [UInt8]] = [:]

    init(_ files: [(String, [UInt8])]) throws {
        for (name, bytes) in files {
            offsets[name] = tar.count
            self.files[name] = bytes
            try TarWriter.append(
                TarHeader(kind: .regular, name: Array(name.utf8), mode: 0o644, size: Int64(bytes.count)), to: &tar)
            tar += bytes
            tar += [UInt8](repeating: 0, count: Tar.padding(Int64(bytes.count)))
        }
        tar += [UInt8](repeating: 0, count: Tar.endSize)
    }

    /// Files of all sizes, 20 MiB in all, that compress a little.
    ///
    /// - Parameter largeSize: the size of four of them, in bytes.
    static func mixed(_ seed: UInt64 = 1, largeSize: Int = 2_800_000) throws -> PlainLayer {
        var files: [(String, [UInt8])] = []
        for number in 0..<60 { files.append(("small\(number)", noise(4000 * number, seed: seed + UInt64(number)))) }
        for number in 0..<4 {
            files.append(("large\(number)", halfNoise(largeSize + number, seed: seed &+ UInt64(900 + number))))
        }
        files.append(("again", noise(4000 * 50, seed: seed + 50)))
        files.append(("zeros", [UInt8](repeating: 0, count: 1_000_000)))
        files.append(("empty", []))
        return try PlainLayer(files)
    }

    /// The same with larger files, 36 MiB in all, made once: it has several checkpoints.
    static let long = Result { try mixed(7, largeSize: 7_000_000) }

    /// Files that do not compress, 36 MiB in all: their blob is a little larger than their tar.
    static let random = Result {
        try PlainLayer((0..<6).map { ("random\($0)", noise(6_000_000, seed: UInt64(70 + $0))) })
    }

    var diffID: Digest { SHA256.hash(tar) }

    enum Writer: String, CaseIterable {
        case gzip, members, tar, zstd, frames

        var format: LayerFormat {
            switch self {
            case .gzip, .members: .plainGzip
            case .tar: .plainTar
            case .zstd, .frames: .plainZstd
            }
        }
    }

    func blob(_ writer: Writer) -> [UInt8] {
        let parts = stride(from: 0, to: tar.count, by: 300_000).map { tar[$0..<min(tar.count, $0 + 300_000)] }
        return switch writer {
        case .gzip: Self.gzip(tar[...])
        case .members: parts.flatMap(Self.gzip)
        case .tar: tar
        case .zstd: Self.zstd(tar[...])
        case .frames: parts.flatMap(Self.zstd)
        }
    }

    static func gzip(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        var stream = z_stream()
        deflateInit2_(
            &stream, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        defer { deflateEnd(&stream) }
        let bound = Int(deflateBound(&stream, UInt(bytes.count)))
        return bytes.withUnsafeBytes { input in
            [UInt8](unsafeUninitializedCapacity: bound) { output, count in
                stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
                stream.avail_in = UInt32(input.count)
                stream.next_out = output.baseAddress
                stream.avail_out = UInt32(bound)
                deflate(&stream, Z_FINISH)
                count = bound - Int(stream.avail_out)
            }
        }
    }

    private static func zstd(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        bytes.withUnsafeBytes { bytes in
            [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(bytes.count)) { buffer, count in
                count = ZSTD_compress(buffer.baseAddress, buffer.count, bytes.baseAddress, bytes.count, 1)
            }
        }
    }
}

/// Bytes that compress to about a half.
func halfNoise(_ count: Int, seed: UInt64) -> [UInt8] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
        // Eight at a time: without optimization a byte at a time takes seconds.
        for offset in stride(from: 0, to: count, by: 8) {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            let word = state & 0x0f0f_0f0f_0f0f_0f0f
            withUnsafeBytes(of: word) { word in
                UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[offset...])
                    .copyBytes(from: word.prefix(count - offset))
            }
        }
        filled = count
    }
}

extension PlainLayer {
    /// How many bytes of a gzip blob hold only a file's entry and bytes: without what its first and its last 4 KiB share with
    /// others.
    func compressedSize(of name: String, in blob: [UInt8]) throws -> Int {
        guard let start = offsets[name], let size = files[name]?.count else { return 0 }
        let decompressor = try LayerDecompressor(.gzip)
        var (first, last) = (0, 0)
        try blob.withUnsafeBytes { blob in
            try withUnsafeTemporaryAllocation(byteCount: 1 << 20, alignment: 16) { output in
                for offset in stride(from: 0, to: blob.count, by: 4096) {
                    var input = UnsafeRawBufferPointer(rebasing: blob[offset..<min(offset + 4096, blob.count)])
                    var wasFull = false
                    while !input.isEmpty || wasFull {
                        var room = output
                        _ = try decompressor.step(&input, &room, stopsAtBoundary: false)
                        wasFull = room.isEmpty
                    }
                    if decompressor.outputOffset <= Int64(start) { first = Int(decompressor.blobOffset) }
                    if decompressor.outputOffset <= Int64(start + size) { last = Int(decompressor.blobOffset) }
                }
            }
        }
        return last - first
    }
}

extension Fixture {
    /// The checkpoints of a layer that is in the store.
    func checkpoints(_ engine: MergeEngine, _ layer: LayerID) throws -> [CheckpointRecord] {
        var found: [CheckpointRecord] = []
        var tar: Int64 = 0
        while let next = try engine.store.index.checkpoints(around: tar..<tar, in: layer).end {
            found.append(next)
            tar = next.output + 1
        }
        return found
    }

    /// The most bytes of a layer's blob between two neighbouring checkpoints.
    func checkpointDistance(_ engine: MergeEngine, _ layer: LayerID, blobSize: Int64) throws -> Int64 {
        let places = [0] + (try checkpoints(engine, layer).map(\.blobOffset)) + [blobSize]
        return zip(places, places.dropFirst()).map { $1 - $0 }.max() ?? 0
    }

    /// A layer's blob, made from the tar by a command.
    func compress(_ layer: PlainLayer, _ command: String) throws -> [UInt8] {
        let (tar, blob) = (directory + "/layer.tar", directory + "/layer.blob")
        let file = try File(tar, O_WRONLY | O_CREAT | O_TRUNC)
        try layer.tar.withUnsafeBytes { try file.write($0, at: 0) }
        try #require(system("\(command) <'\(tar)' >'\(blob)'") == 0)
        return try readFile(blob, limit: 256 << 20)
    }

    /// Writes an image of one plain layer; returns its descriptor.
    func write(_ layer: PlainLayer, _ writer: PlainLayer.Writer, tag: String = "a", diffID: Digest? = nil) throws
        -> Descriptor
    {
        try writeImage(
            [ImageLayer(blob: layer.blob(writer), tocDigest: nil, diffID: diffID ?? layer.diffID)], tag: tag,
            layout: layout)[0]
    }

    /// Streams a layer of the layout.
    func stream(
        _ engine: MergeEngine, _ descriptor: Descriptor, _ diffID: Digest, from source: (any BlobSource)? = nil,
        shouldStop: @escaping @Sendable () -> Bool = { false }
    ) throws -> LayerID {
        try LayerStream(
            engine: engine, source: source ?? OCILayoutSource(directory: layout), descriptor: descriptor,
            diffID: diffID, shouldStop: shouldStop, report: { _, _ in }
        ).run()
    }
}

extension Store {
    /// What the index says about a layer's files: path, size, digest and state, in order.
    func fileLines(_ image: ImageRecord) throws -> [String] {
        try index.files(of: image).map { "\($0.path) \($0.mode) \($0.bytes) \($0.digest ?? "-") \($0.state ?? "-")" }
    }
}

/// A source with one blob's bytes, which it gives under any digest.
struct OneBlob: BlobSource {
    let bytes: [UInt8]
    var location = "oci:/none"

    func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes {
        throw OCIError(.notFound, "there is none")
    }

    func read(
        _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws { try bytes[Int(range.lowerBound)..<Int(range.upperBound)].withUnsafeBytes { try sink($0) } }
}
