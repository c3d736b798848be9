public import LaminaDigest

extension LayerTree {
    /// Builds the tree of a plain layer from its zTOC, by the same rules as from a table of contents.
    ///
    /// A file's chunks are its parts in the spans. Their digests, and the files', are no digests of bytes, which a zTOC does not have, but
    /// name a place: of this blob, this zTOC and this byte (``ZTOC/place(_:_:in:by:)``). A chunk's member is its span, whose compressed
    /// bytes have a digest.
    ///
    /// - Parameters:
    ///   - bytes: of which `ztoc` was parsed.
    ///   - digest: of the zTOC.
    ///   - blob: of the layer.
    /// Throws ``FormatError``, `largeChunk` if a span with files in it is larger than the memory of decoders.
    public static func parse(
        ztoc: ZTOC, _ bytes: UnsafeRawBufferPointer, digest: Digest, blob: Digest, limits: FormatLimits = FormatLimits()
    ) throws(FormatError) -> LayerTree {
        var lines: [UInt8] = Array("{\"version\":1,\"entries\":[\n".utf8)
        let most = min(limits.tocBytes, Int(Int32.max))
        try ztoc.entries(in: bytes, limits: limits) { (entry) throws(FormatError) in
            if entry.header.kind == .regular, entry.header.size > 0 {
                try ztoc.append(entry, to: &lines, most: most) { ZTOC.place($0, $1, in: blob, by: digest) }
            } else {
                EntryLines.append(
                    TarEntry(header: entry.header, offset: 0, payloadOffset: entry.payloadOffset), digest: nil,
                    to: &lines)
            }
            guard lines.count <= most else { throw ZTOC.tooManyNames }
        }
        if lines.suffix(2).elementsEqual(",\n".utf8) { lines.removeLast(2) }
        lines += "]}".utf8
        // The standard library's function passes on errors without their type.
        let built = lines.withUnsafeBytes { lines in
            Result { () throws(FormatError) in try build(lines, of: ztoc, limits) }
        }
        var tree = try built.get()
        try tree.setMembers(ztoc, limits)
        return tree
    }

    private static func build(
        _ lines: UnsafeRawBufferPointer, of ztoc: ZTOC, _ limits: FormatLimits
    ) throws(FormatError) -> LayerTree {
        var parser = try TOCParser(lines, limits: limits)
        var builder = TreeBuilder(tocOffset: ztoc.blobSize, tocSize: lines.count, limits: limits)
        builder.hidesFormatNames = false
        try parser.entries { (parser, entry) throws(FormatError) in try builder.add(&entry, parser) }
        return try builder.finish()
    }

    /// Spans may share a byte, so a member does not end where the next one begins.
    private mutating func setMembers(_ ztoc: ZTOC, _ limits: FormatLimits) throws(FormatError) {
        var ends: [Int64: Int64] = [:]
        for span in ztoc.spans { ends[span.blob.lowerBound] = span.blob.upperBound }
        for index in chunks.indices {
            let start = chunks[index].blobOffset
            guard let end = ends[start], end - start <= limits.memberBytes else {
                throw FormatError(
                    .largeChunk, "the file is in a span that is too large", offset: start,
                    expected: "at most \(limits.memberBytes) bytes")
            }
            chunks[index].blobSize = end - start
        }
    }
}

extension ZTOC {
    /// What names a byte of a layer's tar as long as no digest of it is known: a file's first byte, and the first byte of one of its parts
    /// (-1: the whole file).
    public static func place(_ file: Int64, _ part: Int64, in blob: Digest, by ztoc: Digest) -> Digest {
        var hash = SHA256()
        Array("lamina span content 1\0".utf8).withUnsafeBytes { hash.update($0) }
        blob.withUnsafeBytes { hash.update($0) }
        ztoc.withUnsafeBytes { hash.update($0) }
        withUnsafeBytes(of: (file.littleEndian, part.littleEndian)) { hash.update($0) }
        return hash.digest()
    }

    fileprivate static var tooManyNames: FormatError {
        FormatError(.tooLarge, "the layer has too many entries, or too long names")
    }

    /// A file as lines of a table of contents: its own, and one for each further span.
    fileprivate func append(
        _ entry: Entry, to text: inout [UInt8], most: Int, _ name: (_ file: Int64, _ part: Int64) -> Digest
    ) throws(FormatError) {
        let start = entry.payloadOffset
        let end = start + entry.header.size
        var position = start
        var number = span(holding: start)
        let isWhole = number + 1 == spans.count || spans[number + 1].output >= end
        while position < end {
            let next = number + 1 < spans.count ? spans[number + 1].output : .max
            // Spans without output are at the start alone, and hold no file.
            let size = min(end, next) - position
            if position == start {
                EntryLines.begin(entry.header, &text)
                text += ",\"size\":\(entry.header.size),\"digest\":\"\(name(start, -1))\"".utf8
            } else {
                text += "{\"type\":\"chunk\"".utf8
            }
            if !isWhole {
                text += ",\"chunkOffset\":\(position - start),\"chunkSize\":\(size)".utf8
                text += ",\"chunkDigest\":\"\(name(start, position - start))\"".utf8
            }
            text +=
                ",\"offset\":\(spans[number].blob.lowerBound),\"innerOffset\":\(position - spans[number].output)".utf8
            if position == start { entry.header.appendAttributes(to: &text) }
            text += "},\n".utf8
            guard text.count <= most else { throw Self.tooManyNames }
            position += size
            number += 1
        }
    }
}
