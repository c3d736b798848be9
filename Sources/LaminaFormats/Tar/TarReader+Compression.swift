extension FormatError {
    static func compressed(by name: String) -> FormatError {
        .tar(
            "it is compressed by \(name), which no layer may be: gzip and zstd are", entry: [], offset: 0,
            unsupported: true)
    }
}

extension TarReader {
    /// The compression of the stream, if its first block is not a tar's but that of a known compression that was not undone.
    static func foreignCompression(_ block: UnsafeRawBufferPointer) -> String? {
        let magics: [(name: String, bytes: [UInt8])] = [
            ("xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]), ("lzip", Array("LZIP".utf8) + [1]),
            ("lz4", [0x04, 0x22, 0x4d, 0x18]), ("lzma", [0x5d, 0, 0]), ("gzip", [0x1f, 0x8b, 8]),
            ("zstd", [0x28, 0xb5, 0x2f, 0xfd]),
        ]
        // Names of files may begin like that, but then the rest is a header.
        let sums = TarField.checksums(block)
        let sum = TarField.number(TarField.checksum, of: block)
        guard sum != sums.unsigned, sum != sums.signed else { return nil }
        let isBzip2 =
            block.starts(with: "BZh".utf8) && block[4..<10].elementsEqual([0x31, 0x41, 0x59, 0x26, 0x53, 0x59])
        return isBzip2 ? "bzip2" : magics.first { block.starts(with: $0.bytes) }?.name
    }
}
