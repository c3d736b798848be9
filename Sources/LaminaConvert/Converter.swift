import Glibc
public import LaminaDigest
public import LaminaFormats
public import LaminaOCI
import LaminaSystem

/// Makes an eStargz image in an OCI layout from an image in another form, a tar or a directory.
///
/// Each layer becomes an eStargz layer; entries, their order and their attributes stay. Reproducible: the same source and
/// options give the same bytes.
public enum Converter {
    /// How to convert.
    public struct Options: Sendable {
        /// Chunk size, compression level, threads and memory.
        public var layer = LayerWriter.Options()
        /// What a layer of the source may have: its entries, and their names and attributes together, are in memory while it is converted.
        public var limits = FormatLimits()
        /// Paths of files that should come first, in this order: what a container reads at its start. Each goes to the front of
        /// the last layer that holds it, its parent directories before it.
        public var prioritizedFiles: [[UInt8]] = []
        /// What a tar or directory is for (without it, this machine), or which image of an index to take.
        public var platform: Platform?
        /// Whether registries on other machines are also spoken to without TLS.
        public var plainHTTP = false
        public var registries = Registries()
        /// Whether the image is on disk, not only written, when the call returns.
        public var isDurable = true
        /// The creation time in the config of a tar or directory, in seconds since 1970; nil: none. The default is
        /// `SOURCE_DATE_EPOCH` (https://reproducible-builds.org/specs/source-date-epoch/).
        public var created = getenv("SOURCE_DATE_EPOCH").flatMap { Int64(String(cString: $0)) }

        public init() {}
    }

    /// How far a conversion has come.
    public struct Progress: Sendable, Equatable {
        /// Bytes read of the source's layers, as they are stored there.
        public var bytesDone: Int64
        /// All of them; `nil` if that is not known, as for a directory.
        public var bytesTotal: Int64?
        /// The layer being converted, counted from 0 for the lowest, and how many there are.
        public var layer: Int
        public var layerCount: Int
    }

    /// Converts `source` to `destination`, on the calling thread and the threads that compress.
    ///
    /// Memory: `options.layer.memoryLimit` and about 300 bytes for each entry of the current layer. With prioritized files each
    /// layer is spooled, uncompressed, to an unlinked file in the destination's directory. If a conversion fails or is stopped,
    /// nothing of it stays: no blob, no temporary file, no tag.
    ///
    /// - Parameters:
    ///   - progress: called at least for every MiB that is read.
    ///   - warning: gets a sentence for each thing that is left out: sockets, and files with eStargz's reserved names.
    ///   - shouldStop: asked often; `true` ends the call with `interrupted`.
    /// - Throws: `ConvertError`.
    public static func convert(
        _ source: ConversionSource, to destination: ConversionDestination, options: Options = Options(),
        progress: (Progress) -> Void = { _ in }, warning: (String) -> Void = { _ in },
        shouldStop: @Sendable () -> Bool = { false }
    ) throws -> ConvertedImage {
        do {
            return try withoutActuallyEscaping(progress) { progress in
                try withoutActuallyEscaping(warning) { warning in
                    try withoutActuallyEscaping(shouldStop) { shouldStop in
                        try Conversion(
                            source: source, destination: destination, options: options, progress: progress,
                            warning: warning, shouldStop: shouldStop
                        ).run()
                    }
                }
            }
        } catch {
            throw ConvertError(wrapping: error, source: source)
        }
    }
}

/// An image that was written.
public struct ConvertedImage: Sendable, Equatable {
    /// A layer before and after.
    public struct Layer: Sendable, Equatable {
        /// `nil` for a tar or a directory.
        public var source: Descriptor?
        public var descriptor: Descriptor
        public var diffID: Digest
        public var tocDigest: Digest
        /// Of the tar, in bytes.
        public var uncompressedSize: Int64
    }

    /// The manifest's.
    public var descriptor: Descriptor
    public var config: Descriptor
    /// The lowest first.
    public var layers: [Layer]
    public var platform: Platform
}

extension ConvertError {
    /// Adds the source to an error that does not name it yet.
    init(wrapping error: any Error, source: ConversionSource) {
        switch error {
        case let error as ConvertError: self = error
        case let error as FormatError:
            self.init(.badSource, "\(source) cannot be converted", cause: error)
        case let error as OCIError:
            let code: Code
            switch error.code {
            case .interrupted: code = .interrupted
            case .badManifest, .badLayout, .unsupported, .sizeMismatch, .digestMismatch: code = .badSource
            case .badReference, .notFound, .noPlatform, .unauthorized: code = .badReference
            default: code = .io
            }
            self.init(code, "\(source) cannot be converted", cause: error)
        default:
            self.init(.io, "\(source) cannot be converted", cause: error)
        }
    }
}
