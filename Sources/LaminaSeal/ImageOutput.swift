/// Gathers an image's bytes, and passes them on a megabyte at a time.
struct ImageOutput: ~Copyable {
    private static let capacity = 1 << 20

    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 16)
    private var used = 0
    private let write: (UnsafeRawBufferPointer) throws -> Void
    /// How many bytes were put so far.
    private(set) var position = 0

    init(_ write: @escaping (UnsafeRawBufferPointer) throws -> Void) { self.write = write }

    deinit { buffer.deallocate() }

    mutating func flush() throws {
        guard used > 0 else { return }
        try write(UnsafeRawBufferPointer(rebasing: buffer[..<used]))
        used = 0
    }

    /// Runs `body` with that many zeroed bytes; at most a block.
    mutating func put(_ count: Int, _ body: (UnsafeMutableRawBufferPointer) -> Void) throws {
        if used + count > Self.capacity { try flush() }
        let part = UnsafeMutableRawBufferPointer(rebasing: buffer[used..<used + count])
        _ = part.initializeMemory(as: UInt8.self, repeating: 0)
        body(part)
        used += count
        position += count
    }

    mutating func put(_ bytes: ArraySlice<UInt8>) throws {
        var rest = bytes
        while !rest.isEmpty {
            let part = rest.prefix(EROFSFormat.blockSize)
            try put(part.count) { $0.copyBytes(from: part) }
            rest = rest.dropFirst(part.count)
        }
    }

    /// Puts zeros up to this position.
    mutating func pad(to end: Int) throws {
        while position < end { try put(min(end - position, EROFSFormat.blockSize)) { _ in } }
    }
}

extension UnsafeMutableRawBufferPointer {
    /// Stores an integer in the byte order of the format, the lowest byte first.
    func store<Value: FixedWidthInteger>(_ value: Value, at offset: Int) {
        storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
    }
}
