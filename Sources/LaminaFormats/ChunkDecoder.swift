import CDeflate
import LaminaSystem

/// Decompresses the members of a layer's chunks: one decoder a worker thread, not `Sendable`.
///
/// zstd frames: `ChunkDecoder+Zstd.swift`. gzip members:
///
/// A member is whole in memory, and its trailer says how large its payload is (RFC 1952 §2.3.1, ISIZE). So libdeflate inflates
/// it in one go, two to three times as fast as streaming. ISIZE is only a hint, and another member may follow in the range
/// (writers that work in parallel start one where their parts meet): then the decoder tries what is needed and a little more.
/// What does not fit is streamed by zlib, up to the bytes that are needed. The CRC is not used: chunks have digests, which the
/// caller compares.
public final class ChunkDecoder {
    /// How much a member may hold behind the needed bytes and still be inflated in one go: tar padding and the headers of the
    /// entries that follow. This is the most that is ever allocated beyond what is needed.
    public static let slack = 1 << 20

    /// How much beyond what is needed is tried if ISIZE is useless: padding and some headers.
    public static let smallSlack = 16 << 10

    /// The buffer, or libzstd's memory for a frame's window, is freed after use if it is larger than this.
    let keptCapacity: Int

    /// How much a frame may hold behind what is needed, if all of it is wanted.
    static let wholeLimit = 64 << 20

    private let decompressor: OpaquePointer
    private let inflater: Inflater
    /// Whether the last member was decompressed to its end.
    public internal(set) var isWhole = false
    /// Set up with the first frame: most stores never have one.
    var zstd: ZstdStream?
    private(set) var buffer = UnsafeMutableRawBufferPointer(start: nil, count: 0)

    /// Entered for members that take more memory than a chunk and a little: a frame with a large window, or one that is
    /// decompressed far beyond what is needed.
    let gate: DecoderGate?
    private var isInside = false
    /// Whether what is behind the bytes that are needed is wanted, too.
    private var goesToEnd = false
    /// Whether its memory goes to others after this.
    private var isLent = false

    /// A decoder with no buffer yet. Throws ``FormatError`` `tooLarge` when memory is short.
    ///
    /// - Parameters:
    ///   - keptCapacity: bytes of memory that it keeps from one member to the next for its payload, and as many again for
    ///     libzstd.
    ///   - gate: shared by decoders that must not all take much memory at once.
    public init(keeping keptCapacity: Int = 32 << 20, gate: DecoderGate? = nil) throws(FormatError) {
        self.keptCapacity = keptCapacity
        self.gate = gate
        inflater = try Inflater()
        guard let decompressor = libdeflate_alloc_decompressor() else {
            throw FormatError(.tooLarge, "libdeflate cannot be set up: out of memory")
        }
        self.decompressor = decompressor
    }

    deinit {
        libdeflate_free_decompressor(decompressor)
        buffer.deallocate()
    }

    /// Decompresses `member` and gives its payload, at least the first `needed` bytes, to `body`; valid during the call.
    ///
    /// For gzip as ``inflate(_:needing:_:)``; a member of zstd is a frame, perhaps followed by more; one that is not
    /// compressed is its own payload. With `whole`, a member of zstd is decompressed to its end where that is not far (64 MiB), and one of
    /// gzip where what it has behind what is needed fits into 1 MiB; ``isWhole`` says whether it was.
    public func decode<Result>(
        _ member: UnsafeRawBufferPointer, as compression: StreamDecompressor.Compression, needing needed: Int,
        whole: Bool = false, _ body: (UnsafeRawBufferPointer) throws -> Result
    ) throws -> Result {
        switch compression {
        case .gzip:
            goesToEnd = whole
            defer { goesToEnd = false }
            return try inflate(member, needing: needed, body)
        case .zstd:
            guard needed >= 0, needed <= Int.max / 2 else { throw Self.impossible(needed) }
            reserve(needed + Self.smallSlack)
            defer { tidy() }
            let count = try decompress(member, needing: needed, whole: whole)
            return try body(UnsafeRawBufferPointer(rebasing: buffer.prefix(count)))
        case .identity:
            guard needed >= 0, needed <= member.count else {
                throw FormatError(
                    .corruptMember, "the member ends before its payload does", expected: "\(needed) bytes",
                    actual: "\(member.count)")
            }
            return try body(member)
        }
    }

    /// Inflates `member` and gives its payload, at least the first `needed` bytes, to `body`; valid during the call.
    ///
    /// `member` is the compressed range of a chunk: a gzip member, perhaps followed by more. `needed` is the largest
    /// `innerOffset + size` of the chunks in it. Throws ``FormatError`` `corruptMember` if there is less or it is damaged, and
    /// what `body` throws. Memory: at most `needed` + 1 MiB, kept for the next call up to ``keptCapacity``.
    public func inflate<Result>(
        _ member: UnsafeRawBufferPointer, needing needed: Int, _ body: (UnsafeRawBufferPointer) throws -> Result
    ) throws -> Result {
        guard needed >= 0, needed <= Int.max / 2 else { throw Self.impossible(needed) }
        reserve(Self.payloadSize(of: member, needing: needed) ?? needed + Self.smallSlack)
        defer { tidy() }
        let count = try inflate(member, into: buffer, needing: needed)
        return try body(UnsafeRawBufferPointer(rebasing: buffer.prefix(count)))
    }

    /// Inflates `member` into `output`, which holds at least `needed` bytes; gives the number of bytes written, at
    /// least `needed`. Fast when `output` has room for the whole payload (``payloadSize(of:needing:)``).
    ///
    /// Throws ``FormatError`` `corruptMember` when there is less than `needed` or it is damaged.
    public func inflate(
        _ member: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer, needing needed: Int
    ) throws(FormatError) -> Int {
        guard needed >= 0, needed <= output.count else {
            throw FormatError(
                .tooLarge, "the member's payload does not fit the buffer", expected: "\(needed) bytes",
                actual: "\(output.count)")
        }
        isWhole = false
        if Self.payloadSize(of: member, needing: needed) ?? needed <= output.count {
            var used = 0
            var written = 0
            let status = libdeflate_gzip_decompress_ex(
                decompressor, member.baseAddress, member.count, output.baseAddress, output.count, &used, &written)
            if status == LIBDEFLATE_SUCCESS, written >= needed {
                isWhole = used == member.count
                return goesToEnd && !isWhole ? inflateRest(of: member, used, into: output, written) : written
            }
        }
        return try stream(member, into: output, needing: needed)
    }

    /// Inflates the gzip members behind the first one, as long as there is room: writers that work in parallel begin one where their
    /// parts meet.
    private func inflateRest(
        of member: UnsafeRawBufferPointer, _ start: Int, into output: UnsafeMutableRawBufferPointer, _ before: Int
    ) -> Int {
        var (position, end) = (start, before)
        while position < member.count, end < output.count {
            let input = UnsafeRawBufferPointer(rebasing: member[position...])
            let room = UnsafeMutableRawBufferPointer(rebasing: output[end...])
            var (used, written) = (0, 0)
            guard
                libdeflate_gzip_decompress_ex(
                    decompressor, input.baseAddress, input.count, room.baseAddress, room.count, &used, &written)
                    == LIBDEFLATE_SUCCESS, used > 0
            else { break }
            position += used
            end += written
        }
        isWhole = position == member.count
        return end
    }

    /// The size of the payload of `member` as its last four bytes say it, when it can be had in one go: at least
    /// `needed` and not more than 1 MiB over that. `nil`: the member will be streamed.
    public static func payloadSize(of member: UnsafeRawBufferPointer, needing needed: Int) -> Int? {
        // 10 bytes of header, 8 of trailer.
        guard member.count >= 18 else { return nil }
        let size = Int(UInt32(littleEndian: member.loadUnaligned(fromByteOffset: member.count - 4, as: UInt32.self)))
        guard size >= needed, size - needed <= slack else { return nil }
        return size
    }

    /// Inflates with zlib until `needed` bytes are there, across members.
    private func stream(
        _ member: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer, needing needed: Int
    ) throws(FormatError) -> Int {
        var input = member
        var room = UnsafeMutableRawBufferPointer(rebasing: output.prefix(needed))
        inflater.reset()
        while !room.isEmpty {
            let before = (input.count, room.count)
            switch inflater.step(&input, &room) {
            case .more:
                guard (input.count, room.count) != before else {
                    throw FormatError(
                        .corruptMember, "the gzip member ends before its payload does", offset: Int64(member.count),
                        expected: "\(needed) bytes", actual: "\(needed - room.count)")
                }
            case .memberEnd: inflater.reset()
            case .corrupt(let reason):
                throw FormatError(
                    .corruptMember, "the gzip member is damaged: \(reason)", offset: Int64(member.count - input.count),
                    expected: "\(needed) bytes", actual: "\(needed - room.count)")
            }
        }
        return needed
    }

    // MARK: Memory

    /// Gives the decoder memory to decompress into; it then belongs to the decoder.
    ///
    /// - Parameter memory: aligned to a page; freed with `deallocate`.
    public func lend(_ memory: UnsafeMutableRawBufferPointer) {
        release()
        buffer = memory
        isLent = true
    }

    /// Takes the decoder's memory away, for other uses; the memory that was lent may have been replaced by a larger one. Empty:
    /// it has none.
    public func takeMemory() -> UnsafeMutableRawBufferPointer {
        defer {
            buffer = UnsafeMutableRawBufferPointer(start: nil, count: 0)
            isLent = false
        }
        return buffer
    }

    /// Waits until no other decoder takes much memory, and keeps them out until the member is finished.
    func enterGate() {
        guard !isInside, let gate else { return }
        gate.enter()
        isInside = true
    }

    /// Frees what is not worth keeping, after the payload was used.
    private func tidy() {
        if buffer.count > keptCapacity, !isLent { release() }
        if let context = zstd, context.memory > keptCapacity { zstd = nil }
        if isInside { gate?.leave() }
        isInside = false
    }

    private static func impossible(_ size: Int) -> FormatError {
        FormatError(.tooLarge, "no member has this size", actual: "\(size) bytes")
    }

    private func reserve(_ count: Int) {
        guard count > buffer.count else { return }
        release()
        // A multiple of 64 KiB, so that similar sizes do not allocate again. Page-aligned, so that the output can be written
        // past the page cache.
        buffer = .allocate(byteCount: (count + 0xffff) & ~0xffff, alignment: 4096)
    }

    /// Makes room for more, and keeps the bytes in use.
    func grow(keeping used: Int, to count: Int) {
        let grown = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
        grown.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[..<used]))
        release()
        buffer = grown
    }

    private func release() {
        buffer.deallocate()
        buffer = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    }
}

/// Lets one decoder at a time take much memory, so that their total does not grow with their number.
public final class DecoderGate: Sendable {
    private let isTaken = Monitor(false)

    public init() {}

    func enter() {
        isTaken.wait { isTaken -> Void? in
            guard !isTaken else { return nil }
            isTaken = true
            return ()
        }
    }

    func leave() { isTaken.withLock(notify: true) { $0 = false } }
}
