/// A flatbuffer from outside, read by hand with every access checked (https://flatbuffers.dev/internals/).
///
/// Everything in it is found by offsets, which may point anywhere, also to themselves: each is checked to lie within the bytes before it
/// is followed. A caller follows a fixed number of them on its way to a value, so nothing here loops or recurses.
struct FlatBuffer {
    let bytes: UnsafeRawBufferPointer
    /// Where `bytes` begins in the document, for errors.
    var base = 0

    /// The root table: the document's first four bytes say where it is.
    func root() throws(FormatError) -> FlatTable { try table(at: target(of: 0)) }

    /// The table at a position.
    func table(at position: Int) throws(FormatError) -> FlatTable {
        let distance = Int(try load(Int32.self, at: position))
        let vtable = position - distance
        let size = Int(try load(UInt16.self, at: vtable))
        guard size >= 4, size % 2 == 0, size <= bytes.count - vtable else {
            throw broken("the list of a table's fields is not within the bytes", at: vtable)
        }
        return FlatTable(buffer: self, position: position, vtable: vtable, vtableSize: size)
    }

    /// Where an offset at a position leads to. Offsets go forward: zero would lead to itself.
    func target(of position: Int) throws(FormatError) -> Int {
        let distance = Int(try load(UInt32.self, at: position))
        guard distance > 0, distance < bytes.count - position else {
            throw broken("an offset leads out of the bytes", at: position)
        }
        return position + distance
    }

    /// The elements of a vector, which are `stride` bytes each.
    func vector(at position: Int, stride: Int) throws(FormatError) -> FlatVector {
        let count = Int(try load(UInt32.self, at: position))
        guard count <= (bytes.count - position - 4) / stride else {
            throw broken("a list is longer than the bytes", at: position, actual: "\(count) elements")
        }
        return FlatVector(buffer: self, start: position + 4, count: count)
    }

    /// The bytes of a vector of bytes, or of a string without its NUL.
    func string(at position: Int) throws(FormatError) -> Range<Int> {
        let vector = try vector(at: position, stride: 1)
        return vector.start..<vector.start + vector.count
    }

    @inline(__always)
    func load<Value: FixedWidthInteger & BitwiseCopyable>(_: Value.Type, at position: Int) throws(FormatError) -> Value
    {
        guard position >= 0, position <= bytes.count - MemoryLayout<Value>.size else {
            throw broken("a value lies outside the bytes", at: position)
        }
        return Value(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: Value.self))
    }

    func broken(_ message: String, at position: Int, actual: String? = nil) -> FormatError {
        FormatError(.badTOC, message, offset: Int64(clamping: base + position), actual: actual)
    }
}

/// A table: fields by number, of which any may be absent.
struct FlatTable {
    let buffer: FlatBuffer
    let position: Int
    fileprivate let vtable: Int
    fileprivate let vtableSize: Int

    /// Where a field's value is; nil if it is absent.
    private func place(of field: Int) throws(FormatError) -> Int? {
        let entry = 4 + 2 * field
        guard entry <= vtableSize - 2 else { return nil }
        let offset = Int(try buffer.load(UInt16.self, at: vtable + entry))
        return offset == 0 ? nil : position + offset
    }

    /// A number; fields that have their default value are not written.
    func number<Value: FixedWidthInteger & BitwiseCopyable>(_ field: Int, or value: Value) throws(FormatError) -> Value
    {
        guard let place = try place(of: field) else { return value }
        return try buffer.load(Value.self, at: place)
    }

    /// Where in the bytes a string, or a vector of bytes, is; empty if it is absent.
    func string(_ field: Int) throws(FormatError) -> Range<Int> {
        guard let place = try place(of: field) else { return 0..<0 }
        return try buffer.string(at: buffer.target(of: place))
    }

    /// A table; nil if it is absent.
    func table(_ field: Int) throws(FormatError) -> FlatTable? {
        guard let place = try place(of: field) else { return nil }
        return try buffer.table(at: buffer.target(of: place))
    }

    /// A vector of strings or tables; nil if it is absent.
    func vector(_ field: Int) throws(FormatError) -> FlatVector? {
        guard let place = try place(of: field) else { return nil }
        return try buffer.vector(at: buffer.target(of: place), stride: 4)
    }
}

/// A vector of offsets: to strings or to tables. Its elements are within the bytes; where they lead is checked when they are followed.
struct FlatVector {
    fileprivate let buffer: FlatBuffer
    fileprivate let start: Int
    let count: Int

    func table(_ index: Int) throws(FormatError) -> FlatTable {
        try buffer.table(at: buffer.target(of: start + 4 * index))
    }

    func string(_ index: Int) throws(FormatError) -> Range<Int> {
        try buffer.string(at: buffer.target(of: start + 4 * index))
    }
}
