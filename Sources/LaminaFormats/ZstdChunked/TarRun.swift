import CZstd

/// What members that stand side by side in a blob hold beside the bytes of files: one record for many, as most hold a header.
///
/// -1, the number of members; of each its place in the blob, how many bytes are kept of it, the number of cuts, and of each cut its
/// offset and size (LE64 each); then what is kept, one after the other; compressed by zstd. What a single member had was kept as
/// `TarPart` before.
public struct TarRun: Sendable {
    /// Where in the blob each member begins; nil: where the record says that it does.
    public var members: [(blobOffset: Int64?, part: TarPart)]

    /// Undoes `TarRunEncoder`, and `TarPart.encode`. Throws ``FormatError`` for bytes that neither made.
    public init(_ bytes: UnsafeRawBufferPointer) throws(FormatError) {
        let size = ZSTD_getFrameContentSize(bytes.baseAddress, bytes.count)
        guard size >= 16, size <= UInt64(TarPart.restLimit) else {
            members = [(nil, try TarPart(bytes))]
            return
        }
        let all = try ZstdChunked.decompress(bytes, size: Int(size), of: "a kept part of the tar", offset: 0)
        var position = 0
        func number() throws(FormatError) -> Int {
            guard position + 8 <= all.count else { throw TarPart.broken }
            defer { position += 8 }
            return all.withUnsafeBytes {
                Int(Int64(littleEndian: $0.loadUnaligned(fromByteOffset: position, as: Int64.self)))
            }
        }
        guard try number() == -1 else {
            members = [(nil, try TarPart(bytes))]
            return
        }
        let count = try number()
        guard (0...all.count / 24).contains(count) else { throw TarPart.broken }
        var found: [(Int64, [TarPart.Cut], Int)] = []
        found.reserveCapacity(count)
        for _ in 0..<count {
            let (offset, kept, cutCount) = try (number(), number(), number())
            guard offset >= 0, (0...all.count).contains(kept), (0...all.count / 16).contains(cutCount) else {
                throw TarPart.broken
            }
            var cuts: [TarPart.Cut] = []
            var (end, skipped) = (0, 0)
            for _ in 0..<cutCount {
                let cut = TarPart.Cut(offset: try number(), size: try number())
                guard cut.offset >= end, (0...(1 << 40)).contains(cut.size), cut.offset - end <= kept - skipped else {
                    throw TarPart.broken
                }
                skipped += cut.offset - end
                end = cut.offset + cut.size
                cuts.append(cut)
            }
            found.append((Int64(offset), cuts, kept))
        }
        members = []
        members.reserveCapacity(count)
        for (offset, cuts, kept) in found {
            guard position + kept <= all.count else { throw TarPart.broken }
            members.append((offset, TarPart(cuts: cuts, rest: Array(all[position..<(position + kept)]))))
            position += kept
        }
    }
}

/// Gathers what members hold beside files. Not `Sendable`: each thread that decodes has one.
///
/// Costs about a microsecond a member: the compressor is set up once, and runs once for many members.
public final class TarRunEncoder {
    /// Speed is what counts: headers and padding shrink to a fifth however little is tried.
    private static let level: Int32 = -1

    private let context: OpaquePointer?
    private var head: [UInt8] = []
    private var rest: [UInt8] = []
    private var count = 0

    public init() { context = ZSTD_createCCtx() }

    deinit { ZSTD_freeCCtx(context) }

    public var isEmpty: Bool { count == 0 }

    /// Adds a member's payload without what is cut out of it. Cuts that overlap (two files of one bytes) are cut once.
    public func add(_ payload: UnsafeRawBufferPointer, at blobOffset: Int64, cutting cuts: [TarPart.Cut]) {
        let before = rest.count
        var position = 0
        var kept: [TarPart.Cut] = []
        let isSorted = zip(cuts, cuts.dropFirst()).allSatisfy { $0.offset <= $1.offset }
        for cut in isSorted ? cuts : cuts.sorted(by: { $0.offset < $1.offset }) where cut.offset >= position {
            rest += payload[position..<cut.offset]
            position = cut.offset + cut.size
            kept.append(cut)
        }
        rest += payload[position...]
        append(Int(blobOffset))
        append(rest.count - before)
        append(kept.count)
        for cut in kept {
            append(cut.offset)
            append(cut.size)
        }
        count += 1
    }

    /// What was gathered, and nothing is from now on.
    public func finish() -> [UInt8] {
        var all: [UInt8] = []
        all.reserveCapacity(16 + head.count + rest.count)
        for number in [-1, count] { withUnsafeBytes(of: Int64(number).littleEndian) { all += $0 } }
        all += head
        all += rest
        head.removeAll(keepingCapacity: true)
        rest.removeAll(keepingCapacity: true)
        count = 0
        return [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(all.count)) { buffer, count in
            let result = ZSTD_compressCCtx(context, buffer.baseAddress, buffer.count, all, all.count, Self.level)
            // Cannot fail for want of room, by libzstd's own bound; an empty record would not decode, and say so.
            count = ZSTD_isError(result) == 0 ? result : 0
        }
    }

    private func append(_ number: Int) { withUnsafeBytes(of: Int64(number).littleEndian) { head += $0 } }
}
