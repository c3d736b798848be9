import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaPodman

/// A parser of bytes from outside, as a fuzzer calls it: it takes any bytes and returns nothing. It must not crash, hang,
/// allocate over the bounds, or throw an error that is not its room's own.
public enum FuzzTarget: String, Sendable, CaseIterable {
    /// The end of a blob: which format it is.
    case footer
    /// The JSON of a table of contents, as eStargz has it and with the containers dialect's fields.
    case toc
    /// The gzip member that contains a table of contents.
    case tocMember = "toc-member"
    /// The frame that contains a table of contents of zstd:chunked, after its annotation.
    case manifest
    /// A tar, in pieces, and the tree made from it.
    case tar
    /// A member of gzip, and what follows it; also as a stream that is interrupted and continued.
    case gzip
    /// A frame of zstd, and what follows it; also as a stream that is interrupted and continued.
    case zstd
    /// A tar-split, compressed or not.
    case tarSplit = "tar-split"
    /// What the index keeps of a tar's headers.
    case tarPart = "tar-part"
    /// A zTOC of SOCI, and the tree made from it.
    case ztoc
    /// A span of gzip, from a window of SOCI.
    case span
    /// What podman keeps of its layers, images and containers.
    case podman
    /// podman's storage.conf, and what lamina writes into it.
    case storage
    /// An image's manifest or configuration, as podman's program would decode it.
    case documents
    /// podman's registries.conf.
    case registries
    /// podman's auth.json, and docker's configuration.
    case auth

    /// Runs the parser on `bytes`; traps if it breaks a promise.
    public func run(_ bytes: UnsafeRawBufferPointer) {
        do {
            try parse(bytes)
        } catch {
            // Errors are shown to people: that must work too.
            precondition(!"\(error)".isEmpty)
            guard error is FormatError || error is OCIError || error is PodmanError else {
                fatalError("an error that is nobody's own: \(error)")
            }
        }
    }

    /// Small, so that a fuzzer reaches them.
    private static var limits: FormatLimits {
        var limits = FormatLimits()
        limits.tocBytes = 1 << 20
        limits.entries = 2000
        limits.chunkBytes = 1 << 20
        limits.zeroBytes = 8 << 20
        return limits
    }

    private func parse(_ bytes: UnsafeRawBufferPointer) throws {
        switch self {
        case .footer: try Self.footer(bytes)
        case .toc: try Self.toc(bytes)
        case .tocMember:
            let json = try EStargz.extractTOC(fromMember: bytes, limits: Self.limits)
            precondition(json.count <= Self.limits.tocBytes)
            try json.withUnsafeBytes { try Self.toc($0) }
        case .manifest: try Self.manifest(bytes)
        case .tar: try Self.tar(bytes)
        case .gzip: try Self.member(bytes, .gzip)
        case .zstd: try Self.member(bytes, .zstd)
        case .tarSplit:
            var total = 0
            try TarSplit.read(bytes) { item in
                guard case .bytes(let part) = item else { return }
                total += part.count
                // A kilobyte of zstd can expand to gigabytes: that is within the limits, but too much for fuzzing.
                if total > 16 << 20 { throw FormatError(.tooLarge, "enough of it") }
            }
        case .tarPart:
            // The frame gives its size, and that much is allocated: at most half a gigabyte, which a fuzzer would report as a
            // hang.
            guard bytes.count < 1 << 16 else { return }
            let part = try TarPart(bytes)
            precondition(part.cuts.allSatisfy { $0.size >= 0 && $0.offset >= 0 })
            for member in try TarRun(bytes).members {
                precondition(member.part.cuts.allSatisfy { $0.size >= 0 && $0.offset >= 0 })
            }
        case .ztoc: try Self.ztoc(bytes)
        case .span: try Self.span(bytes)
        case .podman: try Self.podman(Array(bytes))
        case .storage: try Self.storage(Array(bytes))
        case .documents:
            if let problem = GoDocument.problem(manifest: Array(bytes), config: Array(bytes)) {
                precondition(!problem.isEmpty)
            }
        case .registries:
            for (registry, repository) in [("docker.io", "library/app"), ("a.r.example:5000", "team/x/y")] {
                let hosts = try ContainersRegistries.hosts(
                    for: registry, repository, parsing: Array(bytes), path: "registries.conf")
                precondition(hosts?.isEmpty != true)
            }
        case .auth:
            let config = try DockerConfig(parsing: Array(bytes), path: "auth.json")
            for host in ["docker.io", "r.example:5000"] {
                _ = config.credentials(for: host, repository: "team/x/y")
                _ = config.helper(for: host)
            }
        }
    }

    private static func podman(_ bytes: [UInt8]) throws {
        for use in try GraphRoot.uses(reading: bytes) {
            precondition(use.name.count <= 300 && !use.text.isEmpty)
        }
    }

    private static func storage(_ bytes: [UInt8]) throws {
        let text = String(decoding: bytes, as: UTF8.self)
        func stores(_ text: String) throws -> [String] {
            try StorageConfiguration(parsing: Array(text.utf8), path: "storage.conf").imageStores
        }
        let before = try stores(text)
        guard let added = try StorageConfiguration.adding("/images", to: text, path: "storage.conf") else {
            precondition(before.contains("/images"))
            return
        }
        let after = try stores(added)
        precondition(after == ["/images"] + before)
        guard let removed = try StorageConfiguration.removing("/images", from: added, path: "storage.conf") else {
            preconditionFailure("what was added cannot be removed")
        }
        let last = try stores(removed)
        precondition(last == before)
    }

    private static func ztoc(_ bytes: UnsafeRawBufferPointer) throws {
        let ztoc = try ZTOC.parse(bytes, limits: limits)
        precondition(!ztoc.spans.isEmpty && ztoc.entryCount <= limits.entries)
        for (span, next) in zip(ztoc.spans, ztoc.spans.dropFirst()) {
            // No byte of the blob is between two spans, and at most one in both.
            let shared = span.blob.upperBound - next.blob.lowerBound
            precondition(0...1 ~= shared && (shared == 1) == (next.bits > 0) && next.bits < 8)
            precondition(span.output + (span.outputSize ?? -1) == next.output)
        }
        for span in ztoc.spans {
            precondition(span.blob.lowerBound >= 0 && span.blob.upperBound <= ztoc.blobSize)
            precondition(span.window.upperBound <= bytes.count && span.window.count <= 32 << 10)
        }
        let digest = SHA256.hash([UInt8]())
        let tree = try LayerTree.parse(ztoc: ztoc, bytes, digest: digest, blob: digest, limits: limits)
        precondition(!tree.nodes.isEmpty && tree.nodes.count <= limits.entries + 1)
        let starts = Dictionary(ztoc.spans.map { ($0.blob.lowerBound, $0) }) { _, last in last }
        for content in tree.contents {
            var position: Int64 = 0
            for chunk in tree.chunks[Int(content.chunks.lowerBound)..<Int(content.chunks.upperBound)] {
                precondition(chunk.offset == position && chunk.size > 0 && chunk.innerOffset >= 0)
                let span = starts[chunk.blobOffset]
                precondition(span?.blob.count == Int(chunk.blobSize))
                if let size = span?.outputSize { precondition(chunk.innerOffset + chunk.size <= size) }
                position += chunk.size
            }
            precondition(position == content.size)
        }
    }

    /// The first three bytes: how many bits, how much is wanted in units of sixteen bytes, and how long the window is in units of 128.
    private static func span(_ bytes: UnsafeRawBufferPointer) throws {
        guard bytes.count > 3 else { return }
        let count = min(Int(bytes[2]) * 128, bytes.count - 3)
        let start = SpanStart(bits: bytes[0] & 7, window: Array(bytes[3..<3 + count]))
        precondition(SpanStart(start.bytes) == start)
        let output = UnsafeMutableRawBufferPointer.allocate(byteCount: Int(bytes[1]) * 16, alignment: 16)
        defer { output.deallocate() }
        try SpanInflater.inflate(UnsafeRawBufferPointer(rebasing: bytes[(3 + count)...]), from: start, into: output)
    }

    private static func footer(_ bytes: UnsafeRawBufferPointer) throws {
        for size in [Int64(bytes.count), 1 << 40] {
            switch try LayerFooter.find(in: bytes, blobSize: size) {
            case .estargz(let offset), .stargz(let offset): precondition(0..<size ~= offset)
            case .estargzExternal(let end): precondition(0..<size ~= end)
            case .zstdChunked(let toc, let tarSplit):
                for place in [toc, tarSplit ?? toc] {
                    precondition(place.offset >= 8 && place.compressedSize > 0 && place.range.upperBound <= size)
                }
            case nil: break
            }
        }
        _ = ZstdChunked.parsePosition(String(decoding: bytes, as: UTF8.self), hasType: bytes.count % 2 == 0)
    }

    private static func toc(_ bytes: UnsafeRawBufferPointer) throws {
        let end: Int64 = 1 << 20
        let tree = try LayerTree.parse(toc: bytes, tocOffset: end, format: .zstdChunked, limits: limits)
        precondition(!tree.nodes.isEmpty && tree.nodes.count <= limits.entries + 1)
        for dirent in tree.dirents {
            let name = tree.name(of: dirent)
            precondition(!name.isEmpty && !name.contains(0) && !name.contains(UInt8(ascii: "/")))
            precondition(!name.elementsEqual(".".utf8) && !name.elementsEqual("..".utf8))
            precondition(tree.nodes.indices.contains(Int(dirent.node)) && dirent.node != 0)
        }
        for content in tree.contents {
            var position: Int64 = 0
            for chunk in tree.chunks[Int(content.chunks.lowerBound)..<Int(content.chunks.upperBound)] {
                precondition(chunk.offset == position && chunk.size > 0)
                precondition(chunk.blobSize == 0 || (chunk.blobOffset >= 0 && chunk.blobOffset + chunk.blobSize <= end))
                position += chunk.size
            }
            precondition(position == content.size)
        }
        for node in tree.nodes.indices { _ = tree.target(of: Int32(node)) }
    }

    /// The first eight bytes are the size from the annotation.
    private static func manifest(_ bytes: UnsafeRawBufferPointer) throws {
        guard bytes.count > 8 else { return }
        let size = Int64(littleEndian: bytes.loadUnaligned(as: Int64.self))
        let frame = UnsafeRawBufferPointer(rebasing: bytes[8...])
        guard size > 0 else { return }
        let place = ZstdChunked.Place(offset: 8, compressedSize: Int64(frame.count), size: size)
        let json = try ZstdChunked.extractTOC(frame, place: place, limits: limits)
        precondition(json.count == Int(size))
        try json.withUnsafeBytes { try toc($0) }
    }

    /// The first byte is the size of the pieces in which the rest comes.
    private static func tar(_ bytes: UnsafeRawBufferPointer) throws {
        guard let first = bytes.first else { return }
        var reader = TarReader()
        var lines: [UInt8] = []
        var rest = UnsafeRawBufferPointer(rebasing: bytes.dropFirst())
        while !rest.isEmpty {
            var piece = UnsafeRawBufferPointer(rebasing: rest.prefix(Int(first) * 16 + 1))
            rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(piece.count))
            pieces: while true {
                switch try reader.next(&piece) {
                case .more: break pieces
                case .entry(let entry):
                    precondition(entry.header.size >= 0)
                    let isFile = entry.header.kind == .regular && entry.header.size > 0
                    EntryLines.append(entry, digest: isFile ? SHA256.hash([UInt8]()) : nil, to: &lines)
                case .payload(let payload): precondition(!payload.isEmpty)
                case .zeros(let count): precondition(1...TarReader.zerosAtOnce ~= count)
                }
            }
        }
        try reader.finish()
        // Whatever the tar contains, these are lines of a table of contents.
        let document = try EntryLines.document(lines.isEmpty ? [] : [EntryLines.pack(lines)])
        try document.withUnsafeBytes { document in
            let tree = try LayerTree.parse(entries: document, tarSize: Int64(bytes.count), format: .plainTar)
            precondition(!tree.nodes.isEmpty)
        }
    }

    /// The first two bytes say how much of it is needed, in units of sixteen bytes.
    private static func member(
        _ bytes: UnsafeRawBufferPointer, _ compression: StreamDecompressor.Compression
    ) throws {
        guard bytes.count > 2 else { return }
        let needed = (Int(bytes[0]) | Int(bytes[1]) << 8) * 16
        let member = UnsafeRawBufferPointer(rebasing: bytes[2...])
        let decoder = try ChunkDecoder()
        do {
            try decoder.decode(member, as: compression, needing: needed) { precondition($0.count >= needed) }
        } catch is FormatError {}
        do {
            let stream = try StreamDecompressor(compression)
            var total = 0
            try stream.push(member) { piece in
                total += piece.count
                if total > 16 << 20 { throw FormatError(.tooLarge, "enough of it") }
            }
            try stream.finish()
        } catch is FormatError {}
        if compression == .gzip { expectAlike(member) }
        var position: StreamPosition?
        let whole = try output(of: member, compression, from: .start) { position = $0 }
        // From a place in the middle comes what came after that place.
        guard let position else { return }
        let rest = try output(of: member, compression, from: position) { _ in }
        precondition(position.blobOffset <= Int64(member.count) && position.outputOffset <= Int64(whole.count))
        precondition(
            rest.elementsEqual(whole[Int(position.outputOffset)...]), "another output from \(position.outputOffset)")
    }

    /// What zlib reads, every other library reads as the same.
    private static func expectAlike(_ blob: UnsafeRawBufferPointer) {
        guard let expected = try? output(of: blob, .gzip, from: .start, by: .zlib, passing: { _ in }) else { return }
        for inflater in GzipInflater.available {
            let found = try? output(of: blob, .gzip, from: .start, by: inflater, passing: { _ in })
            precondition(found == expected, "\(inflater) reads it otherwise")
        }
    }

    /// What a blob decompresses to, in small pieces; returns the last place to go on from that it passes.
    private static func output(
        of blob: UnsafeRawBufferPointer, _ compression: StreamDecompressor.Compression, from start: StreamPosition,
        by inflater: GzipInflater = .standard, passing: (StreamPosition) -> Void
    ) throws -> [UInt8] {
        let decompressor = try LayerDecompressor(compression, from: start, by: inflater)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 8191, alignment: 16)
        defer { buffer.deallocate() }
        var output: [UInt8] = []
        var place = Int(start.blobOffset)
        while place < blob.count {
            var input = UnsafeRawBufferPointer(rebasing: blob[place..<min(place + 997, blob.count)])
            place += input.count
            var wasFull = false
            while !input.isEmpty || wasFull {
                var room = buffer
                let before = input.count
                let isBoundary = try decompressor.step(&input, &room, stopsAtBoundary: true)
                let made = buffer.count - room.count
                precondition(made > 0 || input.count < before || isBoundary || wasFull, "it gets no further")
                output += buffer[..<made]
                wasFull = room.isEmpty
                if isBoundary { passing(decompressor.position) }
                if output.count > 4 << 20 { throw FormatError(.tooLarge, "enough of it") }
            }
        }
        precondition(decompressor.outputOffset - start.outputOffset == Int64(output.count))
        try decompressor.finish()
        return output
    }
}
