import Foundation
import LaminaDigest
import Testing

@testable import LaminaFormats

/// A layer of Tests/Fixtures, read with this room: footer, table of contents, tree.
struct LayerFixture {
    var blob: [UInt8]
    var tocOffset: Int
    /// As in the manifest: of the JSON or, for zstd:chunked, of its compressed bytes.
    var tocDigest: String
    /// What `tocDigest` should be.
    var vouchedFor: Digest
    var format: LayerFormat
    var tarSplit: ZstdChunked.Place?
    var toc: [UInt8]
    var tree: LayerTree

    /// The layers of a fixture, the lowest first.
    static func layers(_ name: String) throws -> [LayerFixture] {
        let root = directory.appending(path: name)
        let index = try JSONDecoder().decode(Index.self, from: Data(contentsOf: root.appending(path: "index.json")))
        let manifest = try JSONDecoder().decode(
            Manifest.self, from: Data(read(root, try #require(index.manifests.first).digest)))
        return try manifest.layers.map { try LayerFixture(blob: read(root, $0.digest), annotations: $0.annotations) }
    }

    static let directory = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures")

    private static func read(_ root: URL, _ digest: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: root.appending(path: "blobs/sha256/" + digest.dropFirst(7))))
    }

    private init(blob: [UInt8], annotations: [String: String]?) throws {
        self.blob = blob
        let size = Int64(blob.count)
        let footer = try blob.withUnsafeBytes { (bytes) throws in try LayerFooter.find(in: bytes, blobSize: size) }
        switch try #require(footer) {
        case .estargz(let offset):
            format = .estargz
            tocOffset = Int(offset)
            let member = tocOffset..<blob.count - EStargz.footerSize
            toc = try blob.withUnsafeBytes { try EStargz.extractTOC(fromMember: .init(rebasing: $0[member])) }
            vouchedFor = SHA256.hash(toc)
        case .zstdChunked(let place, let tarSplit):
            format = .zstdChunked
            self.tarSplit = tarSplit
            tocOffset = Int(place.offset) - 8
            let frame = Array(blob[Int(place.offset)..<Int(place.range.upperBound)])
            toc = try frame.withUnsafeBytes { try ZstdChunked.extractTOC($0, place: place) }
            vouchedFor = SHA256.hash(frame)
            for key in ["io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."] {
                guard let text = annotations?[key + "manifest-position"] else { continue }
                #expect(ZstdChunked.parsePosition(text, hasType: true) == place)
            }
        default: throw FormatError(.unsupported, "no fixture is of this format")
        }
        let keys = [
            "io.github.containers.zstd-chunked.manifest-checksum", "io.containers.zstd-chunked.manifest-checksum",
            "containerd.io/snapshot/stargz/toc.digest",
        ]
        let annotation = keys.compactMap { annotations?[$0] }.first
        tocDigest = try #require(annotation)
        let (format, end) = (format, Int64(tocOffset))
        tree = try toc.withUnsafeBytes { try LayerTree.parse(toc: $0, tocOffset: end, format: format) }
    }

    private struct Index: Decodable { var manifests: [Descriptor] }
    private struct Manifest: Decodable { var layers: [Descriptor] }
    private struct Descriptor: Decodable {
        var digest: String
        var annotations: [String: String]?
    }
}

/// A path of `tree.jsonl`: what containerd made of the same image.
struct DescribedPath: Decodable {
    var path: String
    var type: String
    var mode: String
    var uid: UInt32
    var gid: UInt32
    var mtime: Int64
    var size: Int64?
    var sha256: String?
    var target: String?
    var dev: [UInt64]?
    var nlink: UInt32?
    var same: String?
    var xattr: [String: String]?

    static func all() throws -> [String: DescribedPath] {
        let text = try String(contentsOf: LayerFixture.directory.appending(path: "tree.jsonl"), encoding: .utf8)
        let paths = try text.split(separator: "\n").map {
            try JSONDecoder().decode(DescribedPath.self, from: Data($0.utf8))
        }
        return Dictionary(uniqueKeysWithValues: paths.map { ($0.path, $0) })
    }
}

extension LayerTree {
    /// The node of a path such as `data/link`; `nil` if there is none.
    func node(at path: String) -> Int32? {
        var node: Int32 = 0
        for component in path.split(separator: "/") {
            guard let next = child(of: node, named: component.utf8) else { return nil }
            node = next
        }
        return node
    }

    /// The attributes of a node, as text.
    func xattrs(of node: Int32) -> [String: String] {
        var all: [String: String] = [:]
        for xattr in xattrs where xattr.node == node {
            all[String(decoding: name(of: xattr), as: UTF8.self)] = String(decoding: value(of: xattr), as: UTF8.self)
        }
        return all
    }

    /// Parses a table of contents that a test has written.
    static func parse(_ json: String, tocOffset: Int64 = 1 << 40, limits: FormatLimits = FormatLimits()) throws
        -> LayerTree
    {
        try Array(json.utf8).withUnsafeBytes {
            try parse(toc: $0, tocOffset: tocOffset, format: .estargz, limits: limits)
        }
    }

    /// Parses entries, each a JSON object without its braces.
    static func parse(entries: [String], tocOffset: Int64 = 1 << 40, limits: FormatLimits = FormatLimits()) throws
        -> LayerTree
    {
        let list = entries.map { "{\($0)}" }.joined(separator: ",")
        return try parse("{\"version\":1,\"entries\":[\(list)]}", tocOffset: tocOffset, limits: limits)
    }

    /// What is wrong with a tree in general: `nil` if nothing is. Checks everything that ``LayerTree`` promises.
    func brokenPromise(tocOffset: Int64) -> String? {
        var names = [UInt32](repeating: 0, count: nodes.count)
        guard let root = nodes.first, root.mode & FileType.mask == FileType.directory else { return "no root" }
        for dirent in dirents {
            guard nodes.indices.contains(Int(dirent.parent)), nodes.indices.contains(Int(dirent.node)),
                dirent.node != 0
            else { return "a name is out of range" }
            guard nodes[Int(dirent.parent)].mode & FileType.mask == FileType.directory else {
                return "a name in a file"
            }
            let name = name(of: dirent)
            if name.isEmpty || name.contains(0) || name.contains(0x2f) || name.elementsEqual(".".utf8)
                || name.elementsEqual("..".utf8)
            {
                return "an impossible name"
            }
            names[Int(dirent.node)] += 1
        }
        for (left, right) in zip(dirents, dirents.dropFirst()) {
            let isSorted =
                left.parent < right.parent
                || left.parent == right.parent && name(of: left).lexicographicallyPrecedes(name(of: right))
            if !isSorted { return "names are out of order or double" }
        }
        for (index, node) in nodes.enumerated().dropFirst() {
            let isDirectory = node.mode & FileType.mask == FileType.directory
            if names[index] == 0 || isDirectory && names[index] != 1 { return "a node has no name, or a directory two" }
            if !isDirectory && node.nlink != names[index] { return "nlink is wrong" }
            if isDirectory && node.parent >= Int32(index) { return "a directory comes before its parent" }
            let hasContent = node.mode & FileType.mask == FileType.regular && node.size > 0
            if hasContent != contents.indices.contains(Int(node.content)) { return "content is wrong" }
            if hasContent, contents[Int(node.content)].size != node.size { return "content has another size" }
        }
        for content in contents {
            var end: Int64 = 0
            for chunk in chunks[Int(content.chunks.lowerBound)..<Int(content.chunks.upperBound)] {
                if chunk.offset != end || chunk.size < 1 { return "chunks do not tile" }
                if chunk.blobSize == 0 {
                    // A hole: no bytes of the blob are behind it.
                } else if chunk.blobOffset < 0 || chunk.blobSize < 1 || chunk.blobOffset + chunk.blobSize > tocOffset {
                    return "a chunk is outside the blob"
                }
                end += chunk.size
            }
            if end != content.size { return "chunks do not fill their content" }
        }
        return xattrs.allSatisfy { nodes.indices.contains(Int($0.node)) } ? nil : "an attribute of nothing"
    }
}

/// The code of the error that `body` throws; `nil` if it throws none, or another.
func formatError(_ body: () throws -> Void) -> FormatError? {
    do {
        try body()
        return nil
    } catch {
        return error as? FormatError
    }
}
