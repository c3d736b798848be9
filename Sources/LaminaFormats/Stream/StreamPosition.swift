/// A place from which a compressed stream can be decompressed without what is before it.
///
/// For gzip, a boundary of deflate blocks as in zlib's `examples/zran.c`: the bit position and the 32 KiB before it. For zstd,
/// the start of a frame: libzstd cannot give away its state inside a frame. Without compression, any place.
public struct StreamPosition: Sendable, Equatable {
    /// In the blob: the first byte to give to the decompressor.
    public var blobOffset: Int64
    /// In what the blob decompresses to: the first byte that the decompressor gives.
    public var outputOffset: Int64
    /// What the decompressor has to know; empty at the start of a member or frame.
    public var decoder: [UInt8]

    /// The start of the stream.
    public static var start: StreamPosition { StreamPosition(blobOffset: 0, outputOffset: 0, decoder: []) }

    public init(blobOffset: Int64, outputOffset: Int64, decoder: [UInt8]) {
        self.blobOffset = blobOffset
        self.outputOffset = outputOffset
        self.decoder = decoder
    }
}

/// The state of a gzip member between two deflate blocks.
///
/// As bytes: version 1; the bits (0 to 7) of `lastByte` that belong to the next block, its high ones; `lastByte`; CRC-32 and
/// length modulo 2^32 of the member's output so far; the window, compressed by zstd.
struct GzipMemberState: Equatable {
    static let windowSize = 32 << 10
    private static let version: UInt8 = 1
    private static let headSize = 11

    var bits: UInt8
    var lastByte: UInt8
    var crc: UInt32
    var length: UInt32
    var window: [UInt8]

    var bytes: [UInt8] {
        var bytes = [Self.version, bits, lastByte]
        withUnsafeBytes(of: crc.littleEndian) { bytes += $0 }
        withUnsafeBytes(of: length.littleEndian) { bytes += $0 }
        return bytes + Zstd.compress(window)
    }

    init(bits: UInt8, lastByte: UInt8, crc: UInt32, length: UInt32, window: [UInt8]) {
        self.bits = bits
        self.lastByte = lastByte
        self.crc = crc
        self.length = length
        self.window = window
    }

    /// Reads what ``bytes`` wrote. Throws ``FormatError`` `unsupported` for anything else.
    init(_ bytes: [UInt8]) throws(FormatError) {
        guard bytes.count >= Self.headSize, bytes[0] == Self.version, bytes[1] < 8,
            let window = Zstd.decompress(bytes[Self.headSize...], limit: Self.windowSize)
        else { throw FormatError(.unsupported, "the checkpoint of a gzip stream is not one of this version") }
        func number(at index: Int) -> UInt32 {
            (0..<4).reduce(0) { $0 | UInt32(bytes[index + $1]) << (8 * UInt32($1)) }
        }
        self.init(bits: bytes[1], lastByte: bytes[2], crc: number(at: 3), length: number(at: 7), window: window)
    }
}
