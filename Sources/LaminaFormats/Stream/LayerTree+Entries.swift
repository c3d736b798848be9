extension LayerTree {
    /// Builds the tree of a plain layer from the ``EntryLines`` of its whole tar.
    ///
    /// A chunk's `blobOffset` and `blobSize` are those of the file's headers and bytes in the tar. Throws as
    /// ``parse(toc:tocOffset:format:limits:didRead:)`` does.
    public static func parse(
        entries: UnsafeRawBufferPointer, tarSize: Int64, format: LayerFormat, limits: FormatLimits = FormatLimits(),
        didRead: (Int) -> Void = { _ in }
    ) throws(FormatError) -> LayerTree {
        var limits = limits
        // A file is read as it comes, so its size does not matter.
        limits.chunkBytes = limits.fileBytes
        var parser = try TOCParser(entries, limits: limits)
        var builder = TreeBuilder(tocOffset: tarSize, tocSize: entries.count, limits: limits)
        // A plain layer shows all its names; stargz brings its table of contents and landmarks as files.
        builder.hidesFormatNames = format == .stargz
        try parser.entries { (parser, entry) throws(FormatError) in
            try builder.add(&entry, parser)
            didRead(parser.reader.position)
        }
        return try builder.finish()
    }
}
