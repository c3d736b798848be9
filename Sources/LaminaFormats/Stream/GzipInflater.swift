import CZlib
import Synchronization

/// Which library decompresses the gzip of streams. A position that was made with one can be gone on from with the other.
public enum GzipInflater: Int, Sendable, CaseIterable {
    /// Everywhere.
    case zlib
    /// Intel's ISA-L, at more than twice zlib's speed: on x86-64 and arm64, if lamina was built with it.
    case isal

    /// Those that this program has.
    public static var available: [GzipInflater] {
        #if ISAL
            [.zlib, .isal]
        #else
            [.zlib]
        #endif
    }

    /// The fastest of them.
    public static var best: GzipInflater { available.contains(.isal) ? .isal : .zlib }

    private static let chosen = Atomic<Int>(GzipInflater.zlib.rawValue)

    /// What is used where nothing else is asked for.
    public static var standard: GzipInflater {
        get { GzipInflater(rawValue: chosen.load(ordering: .relaxed)) ?? .zlib }
        set { chosen.store(newValue.rawValue, ordering: .relaxed) }
    }

    func makeInflate() throws(FormatError) -> any RawInflate {
        #if ISAL
            if self == .isal { return try ISALInflate() }
        #endif
        return try ZlibInflate()
    }
}

/// Decompresses the deflate data of one gzip member after the other (RFC 1951), and tells where one could go on from.
protocol RawInflate: AnyObject {
    /// Prepares for the start of deflate data.
    func reset()

    /// Prepares for the block where a state was taken.
    ///
    /// - Throws: `FormatError` `unsupported` for a state that cannot be gone on from.
    func resume(_ state: GzipMemberState) throws(FormatError)

    /// Decompresses until the input is used up, the output is full, the data ends, or, if asked to, until a block has ended. Cuts what was
    /// used and what was written off the fronts.
    func step(
        _ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer, stopsAtBoundary: Bool
    ) throws(StreamDamage) -> RawInflateStep

    /// Where it stands; asked only after a step has stopped behind a block.
    var place: RawInflatePlace { get }
}

enum RawInflateStep: Equatable {
    case more
    /// Directly behind a block that is not the last.
    case boundary
    /// Behind the last block. These bytes of the input were taken and belong to what comes after it.
    case end([UInt8])
}

/// A place between two blocks.
struct RawInflatePlace {
    /// Of the last byte that has bits of the block before: how many of its bits, its high ones, belong to the next block.
    var bits: UInt8
    /// These bits in their places, the others zero.
    var lastByte: UInt8
    /// Whole bytes behind that byte that were taken from the input already.
    var unreadBytes: Int
    /// The output before it, up to 32 KiB.
    var window: [UInt8]
}

/// zlib's inflate.
final class ZlibInflate: RawInflate {
    // On the heap, because zlib keeps the address of the structure that it was initialized with.
    private let stream: UnsafeMutablePointer<z_stream>
    private var lastByte: UInt8 = 0

    init() throws(FormatError) {
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        // -15: deflate data alone, with the largest window.
        guard inflateInit2_(stream, -15, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
            throw FormatError(.tooLarge, "zlib cannot be set up: out of memory")
        }
    }

    deinit {
        inflateEnd(stream)
        stream.deallocate()
    }

    func reset() { inflateReset(stream) }

    func resume(_ state: GzipMemberState) throws(FormatError) {
        lastByte = state.lastByte
        let primed =
            state.bits == 0
            || inflatePrime(stream, Int32(state.bits), Int32(state.lastByte >> (8 - state.bits))) == Z_OK
        let hasWindow =
            state.window.isEmpty || inflateSetDictionary(stream, state.window, UInt32(state.window.count)) == Z_OK
        guard primed, hasWindow else {
            throw FormatError(.unsupported, "zlib does not go on from the checkpoint of a gzip stream")
        }
    }

    func step(
        _ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer, stopsAtBoundary: Bool
    ) throws(StreamDamage) -> RawInflateStep {
        let before = input
        let status = stream.step(&input, &output, stopsAtBoundary ? Z_BLOCK : Z_NO_FLUSH)
        if input.count < before.count { lastByte = before[before.count - input.count - 1] }
        switch status {
        case Z_OK, Z_BUF_ERROR:
            // Bit 7: directly behind a block; bit 6: the block was the member's last (zlib.h, inflate).
            return stopsAtBoundary && stream.pointee.data_type & 0xc0 == 0x80 ? .boundary : .more
        case Z_STREAM_END: return .end([])
        case Z_MEM_ERROR: throw StreamDamage(reason: "out of memory")
        default: throw StreamDamage(reason: stream.reason(status))
        }
    }

    var place: RawInflatePlace {
        let bits = UInt8(truncatingIfNeeded: stream.pointee.data_type & 7)
        var count = UInt32(GzipMemberState.windowSize)
        let window = [UInt8](unsafeUninitializedCapacity: GzipMemberState.windowSize) { buffer, filled in
            inflateGetDictionary(stream, buffer.baseAddress, &count)
            filled = Int(count)
        }
        return RawInflatePlace(
            bits: bits, lastByte: bits == 0 ? 0 : lastByte & (0xff << (8 - bits)), unreadBytes: 0, window: window)
    }
}

#if ISAL
    import CISAL

    /// ISA-L's inflate. It does not stop between blocks by itself: near where a place is wanted it gets so little at a time that its
    /// input ends within a block's header, which it keeps until there is more of it.
    final class ISALInflate: RawInflate {
        /// Most headers of blocks with a code of their own have 50 to 90 bytes. Where many were passed by unseen, the blocks are
        /// other ones, whose headers have as little as three bits: then each byte may be the one.
        private static let (smallStep, smallestStep) = (32, 1)
        private static let patience = 256 << 10

        private let inflater: OpaquePointer
        /// How much output has come since a place was first asked for.
        private var searched = 0

        init() throws(FormatError) {
            guard let inflater = lamina_isal_new() else {
                throw FormatError(.tooLarge, "ISA-L cannot be set up: out of memory")
            }
            self.inflater = inflater
        }

        deinit { lamina_isal_free(inflater) }

        func reset() { lamina_isal_reset(inflater) }

        func resume(_ state: GzipMemberState) throws(FormatError) {
            let value = state.bits == 0 ? 0 : state.lastByte >> (8 - state.bits)
            guard
                lamina_isal_resume(inflater, state.bits, value, state.window, UInt32(clamping: state.window.count)) == 0
            else { throw FormatError(.unsupported, "ISA-L does not go on from the checkpoint of a gzip stream") }
        }

        func step(
            _ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer, stopsAtBoundary: Bool
        ) throws(StreamDamage) -> RawInflateStep {
            if !stopsAtBoundary { searched = 0 }
            while true {
                let size = stopsAtBoundary ? min(input.count, nextStep) : input.count
                let step = lamina_isal_inflate(inflater, input.baseAddress, size, output.baseAddress, output.count)
                input = UnsafeRawBufferPointer(rebasing: input[Int(step.used)...])
                output = UnsafeMutableRawBufferPointer(rebasing: output[Int(step.written)...])
                switch step.status {
                case 0: break
                case 1:
                    let place = lamina_isal_where(inflater)
                    // The rest of the byte that the last block ends in belongs to nothing.
                    let next = place.next_bits >> (place.unread_bits % 8)
                    return .end((0..<Int(place.unread_bits / 8)).map { UInt8(truncatingIfNeeded: next >> (8 * $0)) })
                default: throw StreamDamage(reason: Self.reason(step.status))
                }
                guard stopsAtBoundary else { return .more }
                searched += Int(step.written)
                if lamina_isal_where(inflater).is_between_blocks != 0 {
                    searched = 0
                    return .boundary
                }
                if input.isEmpty || output.isEmpty || (step.used == 0 && step.written == 0) { return .more }
            }
        }

        /// How much input it may get at once, so that it does not go from one block to the next without a stop.
        private var nextStep: Int {
            let stored = Int(lamina_isal_where(inflater).stored_left)
            if stored > 0 { return stored }
            return searched < Self.patience ? Self.smallStep : Self.smallestStep
        }

        /// By igzip_lib.h, in zlib's words.
        private static func reason(_ status: Int32) -> String {
            switch status {
            case -1: "invalid block"
            case -2: "invalid code"
            case -3: "invalid distance too far back"
            default: "ISA-L error \(status)"
            }
        }

        var place: RawInflatePlace {
            let place = lamina_isal_where(inflater)
            let bits = UInt8(truncatingIfNeeded: place.unread_bits % 8)
            let value = UInt8(truncatingIfNeeded: place.next_bits) & ((1 << bits) - 1)
            return RawInflatePlace(
                bits: bits, lastByte: bits == 0 ? 0 : value << (8 - bits), unreadBytes: Int(place.unread_bits / 8),
                window: [UInt8](UnsafeBufferPointer(start: place.window, count: Int(place.window_size))))
        }
    }
#endif
