import CZstd
import LaminaDigest

extension LayerWriter {
    /// Writes what follows the members in zstd:chunked: table of contents, tar-split and footer, each in a skippable frame.
    func writeChunkedEnd() throws -> (ChunkedResult, tocDigest: Digest) {
        guard var tarSplit = tarSplit.take() else {
            throw FormatError(.unsupported, "the layer's writer was not set up for zstd:chunked")
        }
        let split = try tarSplit.finish()
        // Of the compressed bytes: containers/storage hashes them before it decompresses them (`decodeAndValidateBlob`). If the
        // digest does not match, podman 5 ends with an error instead of pulling the whole layer.
        let json = toc.finish(tarSplitDigest: SHA256.hash(split.compressed))
        let compressed = try Self.compress(json)
        let toc = try emitSkippable(compressed, size: Int64(json.count))
        let place = try emitSkippable(split.compressed, size: split.size)
        try emit(Self.footer(toc: toc, tarSplit: place))
        return (
            ChunkedResult(toc: toc, tocChecksum: SHA256.hash(compressed), tarSplit: place), SHA256.hash(json)
        )
    }

    private func emitSkippable(_ bytes: [UInt8], size: Int64) throws -> ZstdChunked.Place {
        guard let count = UInt32(exactly: bytes.count) else {
            throw FormatError(.tooLarge, "no skippable frame holds so much", actual: "\(bytes.count) bytes")
        }
        try emit(ZstdChunked.frameMagic + withUnsafeBytes(of: count.littleEndian) { Array($0) })
        let place = ZstdChunked.Place(offset: blobSize, compressedSize: Int64(count), size: size)
        try emit(bytes)
        return place
    }

    /// https://github.com/containers/storage/blob/main/pkg/chunked/internal/minimal/compression.go, `footerDataToBlob`.
    private static func footer(toc: ZstdChunked.Place, tarSplit: ZstdChunked.Place) -> [UInt8] {
        var bytes = ZstdChunked.frameMagic + [64, 0, 0, 0]
        for number in [
            toc.offset, toc.compressedSize, toc.size, 1, tarSplit.offset, tarSplit.compressedSize, tarSplit.size,
        ] {
            withUnsafeBytes(of: number.littleEndian) { bytes += $0 }
        }
        return bytes + ZstdChunked.containersMagic
    }

    private static func compress(_ bytes: [UInt8]) throws(FormatError) -> [UInt8] {
        var failed = false
        let compressed = [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(bytes.count)) { buffer, count in
            let result = ZSTD_compress(buffer.baseAddress, buffer.count, bytes, bytes.count, 9)
            failed = ZSTD_isError(result) != 0
            count = failed ? 0 : result
        }
        guard !failed else { throw FormatError(.tooLarge, "the table of contents cannot be compressed") }
        return compressed
    }
}

/// Collects the tar-split of a layer while it is written, and compresses it on the way. From it and the files,
/// containers/storage puts the tar together again (https://github.com/vbatts/tar-split/blob/main/tar/storage/packer.go).
struct TarSplitBuilder {
    private let stream: ZstdWriter
    private var size: Int64 = 0
    private var position = 0
    /// Bytes of the tar since the last file.
    private var segment: [UInt8] = []
    private var name: [UInt8] = []
    private var fileSize: Int64 = 0
    private var crc = CRC64()

    init() throws(FormatError) { stream = try ZstdWriter() }

    /// Takes bytes of the tar that are in no file.
    mutating func append(_ bytes: UnsafeRawBufferPointer) { segment += bytes }

    /// Begins an entry, whose header was appended; every entry is a file here, and most are empty.
    mutating func beginFile(_ name: [UInt8], size: Int64) {
        flushSegment()
        self.name = name
        fileSize = size
        crc = CRC64()
        if size == 0 { writeFile() }
    }

    mutating func update(_ bytes: UnsafeRawBufferPointer) { crc.update(bytes) }

    /// Ends a file that has bytes.
    mutating func endFile() throws { writeFile() }

    private mutating func writeFile() {
        var line = Array("{\"type\":1,\"".utf8)
        if String(validating: name, as: UTF8.self) != nil {
            line += "name\":".utf8
            JSONText.append(string: name, to: &line)
        } else {
            line += "name_raw\":".utf8
            JSONText.append(base64: name, to: &line)
        }
        if fileSize > 0 { line += ",\"size\":\(fileSize)".utf8 }
        line += ",\"payload\":".utf8
        if fileSize > 0 {
            JSONText.append(base64: withUnsafeBytes(of: crc.value.bigEndian) { Array($0) }, to: &line)
        } else {
            line += "null".utf8
        }
        write(&line)
    }

    private mutating func flushSegment() {
        guard !segment.isEmpty else { return }
        var line = Array("{\"type\":2,\"payload\":".utf8)
        JSONText.append(base64: segment, to: &line)
        segment.removeAll(keepingCapacity: true)
        write(&line)
    }

    private mutating func write(_ line: inout [UInt8]) {
        line += ",\"position\":\(position)}\n".utf8
        position += 1
        size += Int64(line.count)
        stream.write(line)
    }

    /// All of it, and its decompressed size.
    mutating func finish() throws(FormatError) -> (compressed: [UInt8], size: Int64) {
        flushSegment()
        return (try stream.finish(), size)
    }
}

/// libzstd's streaming compressor, into memory.
private final class ZstdWriter {
    private let context: OpaquePointer
    private var output: [UInt8] = []
    private var failure: String?

    init() throws(FormatError) {
        guard let context = ZSTD_createCCtx() else {
            throw FormatError(.tooLarge, "zstd cannot be set up: out of memory")
        }
        self.context = context
    }

    deinit { ZSTD_freeCCtx(context) }

    func write(_ bytes: [UInt8]) { push(bytes, ZSTD_e_continue) }

    func finish() throws(FormatError) -> [UInt8] {
        push([], ZSTD_e_end)
        if let failure { throw FormatError(.tooLarge, "the tar-split cannot be compressed: \(failure)") }
        return output
    }

    private func push(_ bytes: [UInt8], _ mode: ZSTD_EndDirective) {
        bytes.withUnsafeBytes { bytes in
            var source = ZSTD_inBuffer(src: bytes.baseAddress, size: bytes.count, pos: 0)
            var isDone = false
            while !isDone, failure == nil {
                withUnsafeTemporaryAllocation(byteCount: 64 << 10, alignment: 16) { buffer in
                    var target = ZSTD_outBuffer(dst: buffer.baseAddress, size: buffer.count, pos: 0)
                    let left = ZSTD_compressStream2(context, &target, &source, mode)
                    output += buffer[..<target.pos]
                    if ZSTD_isError(left) != 0 { failure = String(cString: ZSTD_getErrorName(left)) }
                    isDone = mode == ZSTD_e_end ? left == 0 : source.pos == source.size
                }
            }
        }
    }
}

/// CRC-64 of ISO 3309, as Go's `crc64.ISO`: tar-split has it for each file. It takes eight bytes at a time.
struct CRC64 {
    private var state: UInt64 = ~0

    var value: UInt64 { ~state }

    /// `tables[n][byte]`: the byte, followed by n zeros.
    private static let tables: [[UInt64]] = {
        let polynomial: UInt64 = 0xD800_0000_0000_0000
        var first: [UInt64] = []
        for index in 0..<256 {
            var value = UInt64(index)
            for _ in 0..<8 { value = value & 1 == 1 ? polynomial ^ (value >> 1) : value >> 1 }
            first.append(value)
        }
        var tables = [first]
        for number in 1..<8 {
            tables.append(tables[number - 1].map { value in first[Int(value & 0xFF)] ^ (value >> 8) })
        }
        return tables
    }()
    private static let flat: [UInt64] = tables.flatMap { $0 }

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        var state = state
        Self.flat.withUnsafeBufferPointer { table in
            var index = 0
            while index + 8 <= bytes.count {
                let word = state ^ UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self))
                var next: UInt64 = 0
                for lane in 0..<8 {
                    let byte = Int((word >> UInt64(8 * lane)) & 0xFF)
                    next ^= table[(7 - lane) * 256 + byte]
                }
                state = next
                index += 8
            }
            while index < bytes.count {
                state = table[Int((state ^ UInt64(bytes[index])) & 0xFF)] ^ (state >> 8)
                index += 1
            }
        }
        self.state = state
    }
}
