import Glibc
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaSystem

/// One running conversion: the layers one after the other, then config, manifest and tag.
final class Conversion {
    let source: ConversionSource
    let destination: ConversionDestination
    let options: Converter.Options
    let warning: (String) -> Void
    let shouldStop: @Sendable () -> Bool
    private let progress: (Converter.Progress) -> Void
    private var state = Converter.Progress(bytesDone: 0, bytesTotal: nil, layer: 0, layerCount: 1)
    private var lastReported: Int64 = 0

    private static let progressStep: Int64 = 1 << 20

    init(
        source: ConversionSource, destination: ConversionDestination, options: Converter.Options,
        progress: @escaping (Converter.Progress) -> Void, warning: @escaping (String) -> Void,
        shouldStop: @escaping @Sendable () -> Bool
    ) {
        self.source = source
        self.destination = destination
        self.options = options
        self.progress = progress
        self.warning = warning
        self.shouldStop = shouldStop
    }

    func run() throws -> ConvertedImage {
        // The source is opened first: without a source, nothing is made at the destination.
        switch source {
        case .image(let reference):
            let blobs = try reference.openSource(plainHTTP: options.plainHTTP, registries: options.registries)
            let image = try ImageResolver.resolve(
                reference, platform: options.platform, source: blobs, shouldStop: shouldStop)
            let layers = ForeignLayersSource.around(blobs, for: image.layers, registries: options.registries)
            return try writing { try convert(image, from: layers, to: $0) }
        case .tar(let path):
            let input = TarFileInput(file: try Self.open(path), path: path)
            begin(layers: 1, bytes: try input.fileSize())
            return try writing { layout in
                let layers = try self.convert([input], to: layout)
                return try self.finish(
                    layers, ImageDocuments.new(self.platform, layers, self.options.created), to: layout)
            }
        case .directory(let path):
            let tree = try DirectoryTree(path: path)
            begin(layers: 1, bytes: nil)
            return try writing { layout in
                let layer = try self.write(to: layout) { try tree.write(to: $0, for: self) }
                return try self.finish(
                    [layer], ImageDocuments.new(self.platform, [layer], self.options.created), to: layout)
            }
        }
    }

    /// Standard input is not opened by its name: it may be a pipe of another user, or a socket.
    private static func open(_ path: String) throws(SystemError) -> File {
        guard path == ConversionSource.standardInput else { return try File(path, O_RDONLY) }
        let descriptor = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
        guard descriptor >= 0 else { throw .last("open", path) }
        return File(adopting: descriptor, path: path)
    }

    private var platform: Platform { (options.platform ?? .host).normalized }

    private func convert(
        _ image: ResolvedImage, from blobs: any BlobSource, to layout: OCILayoutWriter
    ) throws -> ConvertedImage {
        begin(layers: image.layers.count, bytes: image.layers.reduce(0) { $0 + $1.size })
        let inputs = zip(image.layers, image.diffIDs).map { layer, diffID in
            BlobInput(blobs: blobs, descriptor: layer, diffID: diffID)
        }
        let layers = try convert(inputs, to: layout)
        return try finish(layers, ImageDocuments.converted(image, layers), to: layout)
    }

    /// Converts layers, the lowest first in input and output.
    private func convert(_ inputs: [any LayerInput], to layout: OCILayoutWriter) throws -> [WrittenLayer] {
        guard options.prioritizedFiles.isEmpty else {
            return try PrioritizedConversion(conversion: self, inputs: inputs, layout: layout).run()
        }
        var layers: [WrittenLayer] = []
        // Images often have the same layer twice, an empty one above all.
        var done: [Digest: WrittenLayer] = [:]
        for (number, input) in inputs.enumerated() {
            at(layer: number)
            if let digest = input.descriptor?.digest, let layer = done[digest] {
                layers.append(layer)
                advance(input.size)
                continue
            }
            let layer = try write(to: layout, of: input) { try StreamedLayer(input: input).write(to: $0, for: self) }
            layers.append(layer)
            if let digest = input.descriptor?.digest { done[digest] = layer }
        }
        return layers
    }

    /// Names the blobs, which have no name until now, and last of all the tag.
    private func finish(
        _ layers: [WrittenLayer], _ documents: ImageDocuments, to layout: OCILayoutWriter
    ) throws -> ConvertedImage {
        try checkStop()
        var named: Set<ObjectIdentifier> = []
        for layer in layers where named.insert(ObjectIdentifier(layer.blob)).inserted { try layer.name() }
        let config = try layout.addBlob(documents.config, mediaType: MediaType.ociConfig)
        let manifest = ImageManifest(
            config: config, layers: layers.map(\.descriptor), annotations: documents.annotations)
        var descriptor = try layout.addBlob(manifest.serialized(), mediaType: MediaType.ociManifest)
        descriptor.platform = documents.platform
        try layout.setManifest(descriptor, tag: destination.tag)
        report()
        return ConvertedImage(
            descriptor: descriptor, config: config, layers: layers.map(\.converted), platform: documents.platform)
    }

    /// Runs `body` with the layout; if `body` fails, removes what it made, if the directory was not there before.
    private func writing(_ body: (OCILayoutWriter) throws -> ConvertedImage) throws -> ConvertedImage {
        let path = destination.directory
        let wasThere = access(path + "/oci-layout", F_OK) == 0
        let hadDirectory = access(path, F_OK) == 0
        do {
            let layout = try OCILayoutWriter(directory: path, durable: options.isDurable)
            return try body(layout)
        } catch {
            if !wasThere {
                // rmdir leaves what another process has put there meanwhile.
                if rmdir(path + "/blobs/sha256") == 0, rmdir(path + "/blobs") == 0 {
                    unlink(path + "/index.json")
                    unlink(path + "/oci-layout")
                    if !hadDirectory { rmdir(path) }
                }
            }
            throw error
        }
    }
}

extension Conversion {
    /// Writes one layer's blob, which gets its name only in `finish`.
    func write(
        to layout: OCILayoutWriter, of input: (any LayerInput)? = nil, _ body: (LayerWriter) throws -> Void
    ) throws -> WrittenLayer {
        try checkStop()
        let blob = try layout.beginBlob()
        // The writer already hashes the blob, so the bytes go straight to its file.
        let file = UnownedFile(descriptor: blob.descriptor, path: destination.directory)
        var offset: Int64 = 0
        let writer = try LayerWriter(options: options.layer) { bytes in
            try self.checkStop()
            try file.write(bytes, at: offset)
            offset += Int64(bytes.count)
        }
        do {
            try body(writer)
            return WrittenLayer(blob: blob, result: try writer.finish(), source: input?.descriptor)
        } catch {
            throw input.map { naming($0, error) } ?? error
        }
    }

    /// Names the layer in an error about an entry.
    func naming(_ input: any LayerInput, _ error: any Error) -> any Error {
        guard error is FormatError else { return error }
        return ConvertError(.badSource, "\(input.name) of \(source) cannot be converted", cause: error)
    }

    func checkStop() throws {
        if shouldStop() { throw ConvertError(.interrupted, "the conversion of \(source) was interrupted") }
    }

    private func begin(layers: Int, bytes: Int64?) {
        state.layerCount = layers
        state.bytesTotal = bytes
        report()
    }

    func at(layer: Int) {
        state.layer = layer
        report()
    }

    /// Counts bytes of the source that were read.
    func advance(_ count: Int64) {
        state.bytesDone += count
        if state.bytesDone - lastReported >= Self.progressStep { report() }
    }

    private func report() {
        lastReported = state.bytesDone
        progress(state)
    }
}

/// A layer whose blob is complete but has no name yet; the blob is deleted with this object.
struct WrittenLayer {
    let blob: BlobWriter
    let result: LayerWriter.Result
    let source: Descriptor?

    /// Without the annotations that described the old blob's own format, or that a snapshotter may take for labels of its client.
    var descriptor: Descriptor {
        var annotations = (source?.annotations ?? [:]).withoutLabels
        for key in annotations.keys where Self.formatPrefixes.contains(where: { key.hasPrefix($0) }) {
            annotations[key] = nil
        }
        var mediaType = MediaType.ociLayerGzip
        if let chunked = result.chunked {
            // https://github.com/containers/storage/blob/main/pkg/chunked/internal/minimal/compression.go
            let prefix = "io.github.containers.zstd-chunked."
            let (toc, tarSplit) = (chunked.toc, chunked.tarSplit)
            annotations[prefix + "manifest-checksum"] = chunked.tocChecksum.description
            annotations[prefix + "manifest-position"] = "\(toc.offset):\(toc.compressedSize):\(toc.size):1"
            annotations[prefix + "tarsplit-position"] =
                "\(tarSplit.offset):\(tarSplit.compressedSize):\(tarSplit.size)"
            mediaType = MediaType.ociLayerZstd
        } else {
            annotations["containerd.io/snapshot/stargz/toc.digest"] = result.tocDigest.description
            annotations["io.containers.estargz.uncompressed-size"] = "\(result.uncompressedSize)"
        }
        return Descriptor(
            mediaType: mediaType, digest: result.blobDigest, size: result.blobSize, annotations: annotations)
    }

    var converted: ConvertedImage.Layer {
        ConvertedImage.Layer(
            source: source, descriptor: descriptor, diffID: result.diffID, tocDigest: result.tocDigest,
            uncompressedSize: result.uncompressedSize)
    }

    private static let formatPrefixes = [
        "io.containers.estargz.", "io.containers.zstd-chunked.", "io.github.containers.zstd-chunked.",
    ]

    /// Gives the blob its name; only once, even if the image has the layer twice.
    func name() throws {
        try blob.finish(digest: result.blobDigest, size: result.blobSize)
    }
}

/// Writes to a descriptor that another owner closes.
struct UnownedFile {
    let descriptor: Int32
    let path: String

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(SystemError) {
        var done = 0
        while done < bytes.count {
            let count = pwrite(
                descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done, off_t(offset) + off_t(done))
            if count < 0 {
                if errno == EINTR { continue }
                throw SystemError.last("write a blob to", path)
            }
            done += count
        }
    }
}
