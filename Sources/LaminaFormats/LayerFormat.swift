/// How a layer's blob is built. Raw values are stored in the index: never change one.
public enum LayerFormat: Int32, Sendable, CaseIterable {
    /// eStargz: gzip members, the table of contents in the last, `stargz.index.json`.
    case estargz = 1
    /// zstd:chunked: one zstd frame a chunk, the table of contents in a skippable frame. Both dialects.
    case zstdChunked = 2
    /// stargz from before chunks had digests: its table of contents proves nothing, so it is read as a plain layer.
    case stargz = 3
    /// eStargz whose table of contents is in another image, `<reference>-esgztoc`.
    case estargzExternal = 4
    /// tar+gzip without a table of contents.
    case plainGzip = 5
    /// tar+zstd without a table of contents.
    case plainZstd = 6
    /// An uncompressed tar.
    case plainTar = 7

    /// Whether the layer has a table of contents that can be trusted: then it can be mounted before it is downloaded.
    public var hasTOC: Bool {
        switch self {
        case .estargz, .zstdChunked, .estargzExternal: true
        case .stargz, .plainGzip, .plainZstd, .plainTar: false
        }
    }

    /// How the members of the blob are compressed.
    public var compression: StreamDecompressor.Compression {
        switch self {
        case .estargz, .stargz, .estargzExternal, .plainGzip: .gzip
        case .zstdChunked, .plainZstd: .zstd
        case .plainTar: .identity
        }
    }
}
