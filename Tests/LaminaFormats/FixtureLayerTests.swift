import LaminaDigest
import Testing

@testable import LaminaFormats

@Suite("layers of other writers")
struct FixtureLayerTests {
    static let fixtures = [
        "estargz", "estargz-64k", "zstd-chunked-stargz", "zstd-chunked-skopeo-1.9", "zstd-chunked-podman-5",
    ]

    @Test("the table of contents has the digest that the manifest says", arguments: fixtures)
    func tocDigest(_ name: String) throws {
        for layer in try LayerFixture.layers(name) {
            #expect(layer.vouchedFor.description == layer.tocDigest)
            #expect(layer.tree.brokenPromise(tocOffset: Int64(layer.tocOffset)) == nil)
        }
    }

    @Test("every chunk inflates and has its digest, and so has every whole file", arguments: fixtures)
    func chunks(_ name: String) throws {
        let decoder = try ChunkDecoder()
        var chunkCount = 0
        var rangesOfTwoMembers = 0
        var holeCount = 0
        for layer in try LayerFixture.layers(name) {
            for content in layer.tree.contents {
                var whole = SHA256()
                for index in content.chunks {
                    let chunk = layer.tree.chunks[Int(index)]
                    if chunk.blobSize == 0 {
                        let zeros = [UInt8](repeating: 0, count: Int(chunk.size))
                        #expect(SHA256.hash(zeros) == chunk.digest)
                        zeros.withUnsafeBytes { whole.update($0) }
                        holeCount += 1
                        continue
                    }
                    try layer.blob.withUnsafeBytes { blob in
                        let member = blob[Int(chunk.blobOffset)..<Int(chunk.blobOffset + chunk.blobSize)]
                        let needed = Int(chunk.innerOffset + chunk.size)
                        try decoder.decode(
                            .init(rebasing: member), as: layer.format.compression, needing: needed
                        ) { payload in
                            let bytes = UnsafeRawBufferPointer(rebasing: payload[Int(chunk.innerOffset)..<needed])
                            #expect(SHA256.hash(bytes) == chunk.digest)
                            whole.update(bytes)
                        }
                        let size = ChunkDecoder.payloadSize(of: .init(rebasing: member), needing: needed)
                        if size == nil, layer.format == .estargz { rangesOfTwoMembers += 1 }
                    }
                    chunkCount += 1
                }
                #expect(whole.digest() == content.digest)
            }
        }
        #expect(chunkCount > 1500)
        // Where the parts of the parallel writer meet.
        #expect(rangesOfTwoMembers == (name.hasPrefix("estargz") ? 1 : 0))
        // Only the containers dialect has holes.
        #expect(holeCount == (name.hasSuffix("skopeo-1.9") || name.hasSuffix("podman-5") ? 1 : 0))
    }

    @Test("the members that chunks name lie side by side up to the table of contents")
    func membersAreDisjoint() throws {
        for layer in try LayerFixture.layers("estargz-64k") {
            let members = layer.tree.chunks.map { $0.blobOffset..<$0.blobOffset + $0.blobSize }
                .sorted { $0.lowerBound < $1.lowerBound }
            for (left, right) in zip(members, members.dropFirst()) { #expect(left.upperBound <= right.lowerBound) }
            #expect(members.last?.upperBound == Int64(layer.tocOffset))
        }
    }

    @Test("the three layers over each other are the tree that containerd unpacks", arguments: fixtures)
    func tree(_ name: String) throws {
        var merged: [String: MergedPath] = [:]
        for layer in try LayerFixture.layers(name) { MergedPath.overlay(layer.tree, on: &merged) }
        let expected = try DescribedPath.all()
        #expect(Set(merged.keys).symmetricDifference(expected.keys).isEmpty)
        for (path, expected) in expected {
            let found = try #require(merged[path])
            let node = found.tree.nodes[Int(found.node)]
            #expect(found.type == expected.type, "\(path)")
            #expect(String(found.attributes.mode & 0o7777, radix: 8) == expected.octalMode, "\(path)")
            #expect(found.attributes.uid == expected.uid && found.attributes.gid == expected.gid, "\(path)")
            if expected.type != "dir" {
                #expect(node.mtimeSeconds == expected.mtime / 1_000_000_000, "\(path)")
                #expect(node.nlink == expected.nlink, "\(path)")
            }
            if let size = expected.size { #expect(node.size == size, "\(path)") }
            if let sha256 = expected.sha256, node.size > 0 {
                #expect(found.tree.contents[Int(node.content)].digest.hex == sha256, "\(path)")
            }
            if let device = expected.dev { #expect(node.device == device[0] << 8 | device[1], "\(path)") }
            let target = found.tree.target(of: found.node).map { String(decoding: $0, as: UTF8.self) }
            #expect(target == expected.target, "\(path)")
            let user = found.tree.xattrs(of: found.node).filter { !$0.key.hasPrefix("trusted.overlay.") }
            let hex = user.filter { !$0.key.hasPrefix("user.overlay.") }.mapValues {
                $0.utf8.map { String($0, radix: 16) }.joined()
            }
            #expect(hex == expected.xattr ?? [:], "\(path)")
        }
    }

    @Test("the first layer holds what its README says")
    func firstLayer() throws {
        let tree = try #require(try LayerFixture.layers("estargz").first).tree
        #expect(tree.node(at: "names/" + String(repeating: "n", count: 255)) != nil)
        #expect(tree.node(at: "names/ü-你好-😀") != nil)
        #expect(tree.node(at: "names/new\nline") != nil)
        #expect(tree.node(at: "data/link") == tree.node(at: "data/random.bin"))
        #expect(tree.xattrs(of: try #require(tree.node(at: "x/attr"))) == ["user.lamina": "value"])
        let deep = try #require(tree.node(at: "deep/d00/d01"))
        #expect(tree.nodes[Int(deep)].isImplicit && tree.nodes[Int(deep)].mode == 0o40755)
        let leaf = "/deep/" + (0..<40).map { ($0 < 10 ? "d0" : "d") + "\($0)" }.joined(separator: "/") + "/leaf"
        #expect(tree.path(of: try #require(tree.node(at: leaf))) == leaf)
        #expect(tree.dirents(of: try #require(tree.node(at: "many"))).count == 1500)
        #expect(tree.nodes[Int(try #require(tree.node(at: "dup")))].size == 6)
        #expect(tree.nodes[0].isImplicit && tree.prioritizedEnd == nil)
        #expect(tree.node(at: ".no.prefetch.landmark") == nil)
    }

    @Test("the second layer has a whiteout, an opaque directory and an implicit one")
    func secondLayer() throws {
        let tree = try LayerFixture.layers("estargz")[1].tree
        let gone = tree.nodes[Int(try #require(tree.node(at: "rm/gone")))]
        #expect(gone.mode == 0o20000 && gone.device == 0)
        let opaque = try #require(tree.node(at: "opq"))
        #expect(tree.xattrs(of: opaque) == ["trusted.overlay.opaque": "y", "user.overlay.opaque": "y"])
        #expect(tree.nodes[Int(opaque)].mode == 0o40711)
        #expect(tree.nodes[Int(try #require(tree.node(at: "srv/private")))].isImplicit)
        #expect(tree.nodes[Int(try #require(tree.node(at: "swap")))].mode == 0o40644)
    }
}

extension DescribedPath {
    var octalMode: String { String(UInt32(mode, radix: 8) ?? .max, radix: 8) }
}

/// A path of several layers above each other, as overlayfs shows them.
private struct MergedPath {
    var tree: LayerTree
    var node: Int32
    /// Of the lowest layer that lists the directory, if this one does not.
    var attributes: LayerTree.Node

    var type: String {
        switch attributes.mode & FileType.mask {
        case FileType.directory: "dir"
        case FileType.regular: "file"
        case FileType.symlink: "link"
        case FileType.character: "chr"
        case FileType.block: "blk"
        default: "fifo"
        }
    }

    static func overlay(_ tree: LayerTree, on merged: inout [String: MergedPath]) {
        overlay(tree, 0, "/", on: &merged)
    }

    private static func overlay(
        _ tree: LayerTree, _ number: Int32, _ path: String, on merged: inout [String: MergedPath]
    ) {
        let node = tree.nodes[Int(number)]
        let prefix = path == "/" ? "/" : path + "/"
        let isDirectory = node.mode & FileType.mask == FileType.directory
        let lower = merged[path]
        if !isDirectory || lower?.type != "dir" || tree.xattrs(of: number)["user.overlay.opaque"] == "y" {
            for below in merged.keys.filter({ $0.hasPrefix(prefix) && $0 != "/" }) { merged[below] = nil }
        }
        merged[path] = nil
        if node.mode == FileType.character && node.device == 0 { return }
        let attributes = node.isImplicit && lower?.type == "dir" ? lower?.attributes ?? node : node
        merged[path] = MergedPath(tree: tree, node: number, attributes: attributes)
        guard isDirectory else { return }
        for index in tree.dirents(of: number) {
            let dirent = tree.dirents[index]
            overlay(tree, dirent.node, prefix + String(decoding: tree.name(of: dirent), as: UTF8.self), on: &merged)
        }
    }
}
