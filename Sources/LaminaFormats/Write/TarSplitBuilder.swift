/// Where a tar-split's lines go to: compressed on the way, kept or passed on.
protocol TarSplitStream: AnyObject {
    func write(_ bytes: [UInt8])
    /// What is kept; nothing where it was passed on.
    func finish() throws(FormatError) -> [UInt8]
}

/// Collects the tar-split of a layer while it is written, and compresses it on the way. From it and the files,
/// containers/storage puts the tar together again (https://github.com/vbatts/tar-split/blob/main/tar/storage/packer.go).
struct TarSplitBuilder {
    private let stream: any TarSplitStream
    private var size: Int64 = 0
    private var position = 0
    /// Bytes of the tar since the last file.
    private var segment: [UInt8] = []
    private var name: [UInt8] = []
    private var fileSize: Int64 = 0
    private var crc = CRC64()

    /// A segment is written when it has this many bytes: a long one is as good as several.
    private static let segmentSize = 1 << 20

    init() throws(FormatError) { stream = try ZstdWriter() }

    init(_ stream: any TarSplitStream) { self.stream = stream }

    /// Takes bytes of the tar that are in no file.
    mutating func append(_ bytes: UnsafeRawBufferPointer) {
        segment += bytes
        if segment.count >= Self.segmentSize { flushSegment() }
    }

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
