import CZlib
import CZstd
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport

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
    static func mixed(_ seed: UInt64 = 1) throws -> PlainLayer {
        var files: [(String, [UInt8])] = []
        for number in 0..<60 { files.append(("small\(number)", noise(4000 * number, seed: seed + UInt64(number)))) }
        for number in 0..<4 {
            files.append(("large\(number)", halfNoise(2_800_000 + number, seed: seed &+ UInt64(900 + number))))
        }
        files.append(("again", noise(4000 * 50, seed: seed + 50)))
        files.append(("zeros", [UInt8](repeating: 0, count: 1_000_000)))
        files.append(("empty", []))
        return try PlainLayer(files)
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

    private static func gzip(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
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
func halfNoise(_ count: Int, seed: UInt64) -> [UInt8] { noise(count, seed: seed).map { $0 & 15 } }

extension Fixture {
    /// Writes an image of one plain layer; its descriptor.
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
    /// What the index says of a layer's files: path, size, digest and state, in order.
    func fileLines(_ image: ImageRecord) throws -> [String] {
        try index.files(of: image).map { "\($0.path) \($0.mode) \($0.bytes) \($0.digest ?? "-") \($0.state ?? "-")" }
    }
}
