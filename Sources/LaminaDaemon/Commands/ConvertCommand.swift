import Glibc
import LaminaConvert
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaSystem

/// `lamina convert`: an image, a tar or a directory becomes an image of eStargz or zstd:chunked in an OCI
/// layout. Needs no store.
public struct ConvertCommand: Sendable {
    public var source: String
    public var destination: String
    /// `estargz` (nil) or `zstd-chunked`.
    public var format: String?
    /// Bytes; nil for the format's default.
    public var chunkSize: Int?
    public var level: Int?
    /// A file with a path on each line.
    public var prioritizedList: String?
    public var prioritizedFiles: [String]
    public var platform: String?
    public var plainHTTP: Bool
    public var credentialsFile: String?
    /// nil: one for each processor.
    public var threads: Int?

    public init(
        source: String, destination: String, format: String? = nil, chunkSize: Int? = nil, level: Int? = nil,
        prioritizedList: String? = nil, prioritizedFiles: [String] = [], platform: String? = nil,
        plainHTTP: Bool = false, threads: Int? = nil, credentialsFile: String? = nil
    ) {
        self.credentialsFile = credentialsFile
        self.source = source
        self.destination = destination
        self.format = format
        self.chunkSize = chunkSize
        self.level = level
        self.prioritizedList = prioritizedList
        self.prioritizedFiles = prioritizedFiles
        self.platform = platform
        self.plainHTTP = plainHTTP
        self.threads = threads
    }

    /// What the command prints with `--json`.
    public struct Report: Sendable, Codable, Equatable {
        public struct Layer: Sendable, Codable, Equatable {
            public var digest: String
            public var diffID: String
            public var tocDigest: String
            public var compressedBytes: Int64
            public var bytes: Int64
        }

        public var reference: String
        public var manifestDigest: String
        public var platform: String
        public var layers: [Layer]
        /// What was left out.
        public var warnings: [String]
    }

    public func run(_ context: CommandContext) throws {
        let source = try ConversionSource(parsing: source)
        let destination = try ConversionDestination(parsing: destination)
        let options = try makeOptions(context)
        Interrupts.install()
        let display = ConversionDisplay(output: context.output)
        var warnings: [String] = []
        let image: ConvertedImage
        do {
            defer { display.end() }
            image = try Converter.convert(
                source, to: destination, options: options, progress: { display.show($0) },
                warning: { warnings.append($0) },
                shouldStop: { Interrupts.requested })
        } catch  where Interrupts.requested {
            throw DaemonError(.interrupted, "interrupted; nothing was written")
        }
        for warning in warnings { context.output.warn(warning) }
        let report = Report(
            reference: destination.description, manifestDigest: image.descriptor.digest.description,
            platform: image.platform.description,
            layers: image.layers.map {
                Report.Layer(
                    digest: $0.descriptor.digest.description, diffID: $0.diffID.description,
                    tocDigest: $0.tocDigest.description, compressedBytes: $0.descriptor.size, bytes: $0.uncompressedSize
                )
            }, warnings: warnings)
        try context.output.show(report) { Self.text(report) }
    }

    func makeOptions(_ context: CommandContext) throws -> Converter.Options {
        var options = Converter.Options()
        if let chunkSize { options.layer.chunkSize = chunkSize }
        if let format {
            guard let format = LayerWriter.Options.Format(rawValue: format) else {
                throw DaemonError(.usage, "--format must be estargz or zstd-chunked, is '\(format)'")
            }
            options.layer.format = format
            // Each library's own default.
            if format == .zstdChunked { options.layer.level = 3 }
        }
        if let level { options.layer.level = level }
        if let threads { options.layer.threads = threads }
        options.limits.entries = context.configuration.store.maxLayerEntries
        options.limits.tocBytes = context.configuration.store.maxTOCBytes
        options.platform = try platform.map { try Platform(parsing: $0) }
        options.registries = context.configuration.registries(log: context.log)
        if let credentialsFile, let image = try? ImageReference(parsing: source) {
            try options.registries.use(credentialsFile: absolutePath(credentialsFile), for: image)
        }
        options.plainHTTP = plainHTTP || context.configuration.speaksPlainHTTP(source)
        var paths = prioritizedFiles.map { Array($0.utf8) }
        if let prioritizedList { paths += try Self.paths(of: readFile(prioritizedList, limit: Self.listLimit)) }
        options.prioritizedFiles = paths
        return options
    }

    /// Enough for a hundred thousand long paths.
    private static let listLimit = 16 << 20

    /// A path on each line, in any encoding; empty lines, and lines that begin with `#`, are skipped.
    static func paths(of list: [UInt8]) -> [[UInt8]] {
        list.split(separator: UInt8(ascii: "\n")).map { line in
            line.last == UInt8(ascii: "\r") ? Array(line.dropLast()) : Array(line)
        }.filter { !$0.isEmpty && $0[0] != UInt8(ascii: "#") }
    }

    static func text(_ report: Report) -> String {
        let layers = report.layers
        return "\(report.reference) (\(report.platform)): \(counted(layers.count, "layer")), "
            + "\(Units.bytes(layers.reduce(0) { $0 + $1.bytes })) in "
            + "\(Units.bytes(layers.reduce(0) { $0 + $1.compressedBytes })) compressed\n\(report.manifestDigest)"
    }
}

/// Shows how far a conversion has come: on a terminal as one rewritten line, elsewhere not at all.
private final class ConversionDisplay {
    private let output: Output
    private var drawnAt = 0.0
    private var isDrawn = false

    init(output: Output) { self.output = output }

    func show(_ progress: Converter.Progress) {
        let now = monotonicSeconds()
        guard output.showsProgressLine, now - drawnAt >= 0.1 else { return }
        drawnAt = now
        isDrawn = true
        var text =
            "converting layer \(progress.layer + 1) of \(progress.layerCount)  \(Units.bytes(progress.bytesDone))"
        if let total = progress.bytesTotal {
            text += " of \(Units.bytes(total))  \(Units.percent(progress.bytesDone, of: total))"
        }
        output.writeError("\r\(text)\u{1B}[K")
    }

    func end() { if isDrawn { output.writeError("\r\u{1B}[K") } }
}
