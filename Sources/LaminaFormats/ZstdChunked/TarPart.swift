import CZstd

/// What a member of a layer holds besides the bytes of files: tar headers and padding. They are kept so that the tar can later
/// be put together from these and the files.
///
/// `n`, then n pairs of offset and size (LE64 each) of what was cut out, then the rest; compressed by zstd.
public struct TarPart: Sendable, Equatable {
    /// Where a file's bytes were in the member's payload.
    public struct Cut: Sendable, Equatable {
        public var offset: Int
        public var size: Int

        public init(offset: Int, size: Int) {
            self.offset = offset
            self.size = size
        }
    }

    /// In order, within the payload.
    public var cuts: [Cut]
    /// The payload without them.
    public var rest: [UInt8]

    /// The most that a member's payload may hold besides files: a million headers.
    static let restLimit = 512 << 20

    /// Cuts `cuts` out of a payload. Overlapping ones (two files with the same bytes) are cut once.
    public static func encode(_ payload: UnsafeRawBufferPointer, cutting cuts: [Cut]) -> [UInt8] {
        var kept: [Cut] = []
        var rest: [UInt8] = []
        var position = 0
        for cut in cuts.sorted(by: { $0.offset < $1.offset }) where cut.offset >= position {
            rest += payload[position..<cut.offset]
            position = cut.offset + cut.size
            kept.append(cut)
        }
        rest += payload[position...]
        var head: [UInt8] = []
        for number in [kept.count] + kept.flatMap({ [$0.offset, $0.size] }) {
            withUnsafeBytes(of: Int64(number).littleEndian) { head += $0 }
        }
        let all = head + rest
        return [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(all.count)) { buffer, count in
            let result = ZSTD_compress(buffer.baseAddress, buffer.count, all, all.count, 1)
            // Cannot fail: there is room by libzstd's own bound; an empty part would fail to decode, with an error.
            count = ZSTD_isError(result) == 0 ? result : 0
        }
    }

    /// Undoes ``encode(_:cutting:)``. Throws ``FormatError`` for bytes that it did not make.
    public init(_ bytes: UnsafeRawBufferPointer) throws(FormatError) {
        let size = ZSTD_getFrameContentSize(bytes.baseAddress, bytes.count)
        guard size >= 8, size <= UInt64(Self.restLimit) else { throw Self.broken }
        let all = try ZstdChunked.decompress(bytes, size: Int(size), of: "a kept part of the tar", offset: 0)
        let number = { (index: Int) -> Int? in
            guard (index + 1) * 8 <= all.count else { return nil }
            return all.withUnsafeBytes {
                Int(Int64(littleEndian: $0.loadUnaligned(fromByteOffset: index * 8, as: Int64.self)))
            }
        }
        guard let count = number(0), (0...all.count / 16).contains(count) else { throw Self.broken }
        cuts = []
        let restSize = all.count - 8 * (1 + 2 * count)
        guard restSize >= 0 else { throw Self.broken }
        var end = 0
        var skipped = 0
        for index in 0..<count {
            guard let offset = number(1 + 2 * index), let size = number(2 + 2 * index), offset >= end,
                (0...(1 << 40)).contains(size), offset - end <= restSize - skipped
            else { throw Self.broken }
            skipped += offset - end
            end = offset + size
            cuts.append(Cut(offset: offset, size: size))
        }
        rest = Array(all[(8 * (1 + 2 * count))...])
    }

    init(cuts: [Cut], rest: [UInt8]) { (self.cuts, self.rest) = (cuts, rest) }

    static var broken: FormatError { FormatError(.corruptMember, "a kept part of the tar is damaged") }
}
