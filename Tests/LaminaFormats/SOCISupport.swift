import Foundation
import LaminaDigest
import LaminaTestSupport
import Testing

@testable import LaminaFormats

/// A layer and the zTOC that soci, or another writer, made of it.
struct IndexedLayer: CustomTestStringConvertible {
    var name: String
    var ztocPath: String
    var layerPath: String

    var testDescription: String { name }
    var ztoc: [UInt8] { get throws { [UInt8](try Data(contentsOf: URL(filePath: ztocPath))) } }
    var layer: [UInt8] { get throws { [UInt8](try Data(contentsOf: URL(filePath: layerPath))) } }

    static let directory = Fixtures.directory + "/soci"

    /// A layer of `odd`, and a zTOC of it.
    static func odd(_ name: String) -> IndexedLayer {
        let layer = name.hasSuffix(".own") ? String(name.dropLast(4)) : name
        return IndexedLayer(
            name: "odd/\(name)", ztocPath: "\(directory)/odd/\(name).ztoc", layerPath: "\(directory)/odd/\(layer).layer"
        )
    }

    /// Every zTOC of the layouts, by the index that names it.
    static func ofLayout(_ layout: String) throws -> [IndexedLayer] {
        struct Manifest: Decodable {
            struct Descriptor: Decodable {
                var mediaType: String
                var digest: String
                var annotations: [String: String]?
            }
            var config: Descriptor?
            var layers: [Descriptor]?
        }
        let blobs = "\(directory)/\(layout)/blobs/sha256"
        var found: [IndexedLayer] = []
        for file in try FileManager.default.contentsOfDirectory(atPath: blobs).sorted() {
            let data = try Data(contentsOf: URL(filePath: "\(blobs)/\(file)"))
            guard data.first == UInt8(ascii: "{"),
                let manifest = try? JSONDecoder().decode(Manifest.self, from: data),
                manifest.config?.mediaType.hasPrefix("application/vnd.amazon.soci.index.") == true
            else { continue }
            for ztoc in manifest.layers ?? [] where ztoc.mediaType == "application/octet-stream" {
                let layer = try #require(ztoc.annotations?["com.amazon.soci.image-layer-digest"])
                let name = "\(layout)/\(layer.dropFirst(7).prefix(12))"
                // Both versions of an index name the same zTOCs.
                guard !found.contains(where: { $0.name == name }) else { continue }
                found.append(
                    IndexedLayer(
                        name: name, ztocPath: "\(blobs)/\(ztoc.digest.dropFirst(7))",
                        layerPath: "\(blobs)/\(layer.dropFirst(7))"))
            }
        }
        return found
    }

    static let layouts = ["plain-gzip-64k", "mixed-v1-128k"]
    static let ofLayouts: [IndexedLayer] = (try? layouts.flatMap(ofLayout)) ?? []

    /// The odd layers that soci reads, or for which another writer made a zTOC that it reads.
    static let readable =
        [
            "dotdot", "empty-tar", "file-as-parent", "first-block-empty", "first-block-empty.own", "flushes",
            "full-header",
            "hardlink-size", "hardlink-size-last", "hardlink-size.own", "long-padding", "no-end", "one-end-block",
            "root-dir", "symlink-size", "symlink-size.own", "two-archives", "typenul", "zinfo-v1", "hardlink-before",
            "hardlink-dangling",
        ].map(odd)

    static var all: [IndexedLayer] { ofLayouts + readable }
}

/// The whole of a layer's tar, and the tree that comes of it as a plain layer.
struct UnpackedLayer {
    var tar: [UInt8]
    /// An error, if it is no layer.
    var tree: Result<LayerTree, any Error>
    /// By the place of their payload: the files' bytes.
    var files: [Int64: ArraySlice<UInt8>] = [:]

    init(_ layer: [UInt8], _ format: LayerFormat) throws {
        var tar: [UInt8] = []
        let stream = try StreamDecompressor(format.compression)
        try layer.withUnsafeBytes { try stream.push($0) { tar += $0 } }
        try stream.finish()
        self.tar = tar
        var reader = TarReader()
        var lines: [UInt8] = []
        var entries: [TarEntry] = []
        try tar.withUnsafeBytes { bytes in
            var piece = bytes
            pieces: while true {
                switch try reader.next(&piece) {
                case .more: break pieces
                case .entry(let entry): entries.append(entry)
                case .payload, .zeros: break
                }
            }
        }
        try reader.finish()
        for entry in entries {
            let isFile = entry.header.kind == .regular && entry.header.size > 0
            let start = Int(entry.payloadOffset)
            let bytes = isFile ? tar[start..<start + Int(entry.header.size)] : []
            if isFile { files[entry.payloadOffset] = bytes }
            EntryLines.append(entry, digest: isFile ? SHA256.hash(Array(bytes)) : nil, to: &lines)
        }
        let document = try EntryLines.document(lines.isEmpty ? [] : [EntryLines.pack(lines)])
        tree = Result {
            try document.withUnsafeBytes {
                try LayerTree.parse(entries: $0, tarSize: Int64(tar.count), format: format)
            }
        }
    }
}

extension LayerTree {
    /// Everything that a file system shows of it, but for the files' digests.
    var shown: [String] {
        var names = [Int32: String]()
        func path(_ node: Int32) -> String {
            if node == 0 { return "" }
            if let known = names[node] { return known }
            guard let entry = dirents.first(where: { $0.node == node }) else { return "?" }
            let made = path(entry.parent) + "/" + hex(name(of: entry))
            names[node] = made
            return made
        }
        func hex(_ bytes: ArraySlice<UInt8>) -> String { bytes.map { String($0, radix: 16) }.joined(separator: ".") }
        func line(_ number: Int32, _ path: String) -> String {
            var node = nodes[Int(number)]
            let target = target(of: number).map(hex) ?? ""
            let attributes = xattrs.filter { $0.node == number }.map { hex(name(of: $0)) + "=" + hex(value(of: $0)) }
            (node.content, node.target) = (node.content >= 0 ? 0 : -1, 0)
            return "\(path) \(number) \(node) \(target) \(attributes)"
        }
        return [line(0, "")] + dirents.map { line($0.node, path($0.parent) + "/" + hex(name(of: $0))) }
    }
}

extension ZTOC {
    static func parse(_ bytes: [UInt8], limits: FormatLimits = FormatLimits()) throws -> ZTOC {
        try bytes.withUnsafeBytes { bytes in try parse(bytes, limits: limits) }
    }

    func tree(_ bytes: [UInt8], limits: FormatLimits = FormatLimits()) throws -> LayerTree {
        let blob = SHA256.hash([UInt8](repeating: 1, count: 1))
        return try bytes.withUnsafeBytes { ztoc in
            try LayerTree.parse(ztoc: self, ztoc, digest: SHA256.hash(bytes), blob: blob, limits: limits)
        }
    }

    /// What a span decompresses to, as far as the zTOC says how much that is.
    func inflate(_ number: Int, of layer: [UInt8], _ bytes: [UInt8], size: Int? = nil) throws -> [UInt8] {
        let span = spans[number]
        let compressed = Array(layer[Int(span.blob.lowerBound)..<Int(span.blob.upperBound)])
        guard format == .plainGzip else { return compressed }
        let start = SpanStart(bits: span.bits, window: Array(bytes[span.window]))
        let count = size ?? Int(span.outputSize ?? max(0, archiveSize - span.output))
        var output = [UInt8](repeating: 0xEE, count: count)
        try compressed.withUnsafeBytes { compressed in
            try output.withUnsafeMutableBytes { output in
                _ = try SpanInflater.inflate(compressed, from: start, into: output)
            }
        }
        return output
    }
}
