import CZlib

/// zlib's inflate for gzip members (RFC 1952): streaming, with a 32 KiB window. Owns its `z_stream`.
///
/// For members whose size is not known beforehand; for the others ``ChunkDecoder`` is faster.
struct Inflater: ~Copyable {
    /// The result of one step.
    enum Step {
        /// The input is used up, or the output is full.
        case more
        /// The member is complete: its CRC-32 and length are right.
        case memberEnd
        /// The bytes are not a gzip member.
        case corrupt(String)
    }

    // On the heap, because zlib keeps the address of the structure that it was initialized with.
    private let stream: UnsafeMutablePointer<z_stream>

    init() throws(FormatError) {
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        // 15 + 16: the largest window, gzip framing alone.
        let status = inflateInit2_(stream, 31, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        guard status == Z_OK else {
            stream.deallocate()
            throw FormatError(.tooLarge, "zlib cannot be set up: out of memory")
        }
    }

    deinit {
        inflateEnd(stream)
        stream.deallocate()
    }

    /// Prepares for the start of a member.
    func reset() { inflateReset(stream) }

    /// Inflates from `input` to `output`, and cuts what was used and what was written off their fronts.
    func step(_ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer) -> Step {
        let status = stream.step(&input, &output, Z_NO_FLUSH)
        switch status {
        case Z_OK, Z_BUF_ERROR: return .more
        case Z_STREAM_END: return .memberEnd
        case Z_MEM_ERROR: return .corrupt("out of memory")
        default: return .corrupt(stream.reason(status))
        }
    }
}

extension UnsafeMutablePointer<z_stream> {
    /// Inflates from `input` to `output`, and cuts what was used and what was written off their fronts.
    ///
    /// - Returns: zlib's status.
    func step(
        _ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer, _ flush: Int32
    ) -> Int32 {
        // zlib counts in 32 bits.
        let available = UInt32(clamping: input.count)
        let room = UInt32(clamping: output.count)
        pointee.next_in = UnsafeMutablePointer<UInt8>(
            mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
        pointee.avail_in = available
        pointee.next_out = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
        pointee.avail_out = room
        let status = inflate(self, flush)
        input = UnsafeRawBufferPointer(rebasing: input.dropFirst(Int(available - pointee.avail_in)))
        output = UnsafeMutableRawBufferPointer(rebasing: output.dropFirst(Int(room - pointee.avail_out)))
        return status
    }

    /// zlib's words for an error.
    func reason(_ status: Int32) -> String { pointee.msg.map { String(cString: $0) } ?? "zlib error \(status)" }
}
