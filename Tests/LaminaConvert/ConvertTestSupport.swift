import Foundation
import LaminaConvert
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaTestSupport
import Testing

extension Scratch {
    /// Runs a script in the directory; if it fails, fails the test with what it printed.
    @discardableResult
    func sh(_ script: String) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = ["-ec", script]
        process.currentDirectoryURL = URL(fileURLWithPath: path)
        process.environment = ["LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "\(script.prefix(500)): \(text)")
        return text
    }

    /// The bytes of a file, or of a blob of the layout `out`.
    func bytes(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: URL(fileURLWithPath: name.hasPrefix("/") ? name : path + "/" + name)))
    }

    func blob(_ digest: Digest) throws -> [UInt8] { try bytes("out/blobs/sha256/\(digest.hex)") }

    /// Converts to the tag `x` of the layout `out`.
    func convert(
        _ source: String, tag: String = "x", chunkSize: Int = 64 << 10, threads: Int = 2, first: [String] = [],
        change: (inout Converter.Options) -> Void = { _ in }, progress: (Converter.Progress) -> Void = { _ in },
        warning: (String) -> Void = { _ in }, shouldStop: @Sendable () -> Bool = { false }
    ) throws -> ConvertedImage {
        var options = Converter.Options()
        options.layer.chunkSize = chunkSize
        options.layer.threads = threads
        options.isDurable = false
        options.prioritizedFiles = first.map { Array($0.utf8) }
        options.created = nil
        change(&options)
        return try Converter.convert(
            ConversionSource(parsing: source), to: ConversionDestination(parsing: "oci:\(path)/out:\(tag)"),
            options: options, progress: progress, warning: warning, shouldStop: shouldStop)
    }

    /// Everything in the layout, to check that a failure does not change it.
    func listing() throws -> String { try sh("find . -path './out*' | sort; cat out/index.json 2>/dev/null || true") }
}

let fixtures =
    URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().path + "/Fixtures"

/// What a layer's tree has at a path, in words that can be compared; reads every chunk out of the blob and verifies it.
func describe(_ blob: [UInt8]) throws -> [String: String] {
    try blob.withUnsafeBytes { bytes in
        let size = bytes.count
        let tocOffset = Int(
            try EStargz.parseFooter(UnsafeRawBufferPointer(rebasing: bytes[(size - EStargz.footerSize)...])))
        let member = UnsafeRawBufferPointer(rebasing: bytes[tocOffset..<(size - EStargz.footerSize)])
        let json = try EStargz.extractTOC(fromMember: member)
        let tree = try json.withUnsafeBytes {
            try LayerTree.parse(toc: $0, tocOffset: Int64(tocOffset), format: .estargz)
        }
        let decoder = try ChunkDecoder()
        var nodes: [String] = []
        for (number, node) in tree.nodes.enumerated() {
            var text = String(node.mode, radix: 8) + " \(node.uid):\(node.gid) \(node.mtimeSeconds) \(node.device)"
            if node.mode & S_IFMT != S_IFDIR { text += " links \(node.nlink)" }
            if let target = tree.target(of: Int32(number)) { text += " -> " + String(decoding: target, as: UTF8.self) }
            for xattr in tree.xattrs where xattr.node == Int32(number) {
                text += " \(String(decoding: tree.name(of: xattr), as: UTF8.self))=\(Array(tree.value(of: xattr)))"
            }
            if node.content >= 0 {
                let content = tree.contents[Int(node.content)]
                var whole = SHA256()
                for chunk in content.chunks.map({ tree.chunks[Int($0)] }) {
                    let part = UnsafeRawBufferPointer(
                        rebasing: bytes[Int(chunk.blobOffset)..<Int(chunk.blobOffset + chunk.blobSize)])
                    try decoder.inflate(part, needing: Int(chunk.innerOffset + chunk.size)) { payload in
                        let bytes = UnsafeRawBufferPointer(
                            rebasing: payload[Int(chunk.innerOffset)..<Int(chunk.innerOffset + chunk.size)])
                        try #require(SHA256.hash(bytes) == chunk.digest)
                        whole.update(bytes)
                    }
                }
                try #require(whole.digest() == content.digest)
                text += " \(content.digest)"
            }
            nodes.append(text)
        }
        var words = ["/": nodes[0]]
        for dirent in tree.dirents {
            let parent = tree.path(of: dirent.parent)
            let name = tree.name(of: dirent).map { $0 < 0x80 ? String(UnicodeScalar($0)) : "%" + String($0, radix: 16) }
            words[(parent == "/" ? "" : parent) + "/" + name.joined()] = nodes[Int(dirent.node)]
        }
        return words
    }
}

/// The names of the tar in a layer's blob, in their order.
func names(_ blob: [UInt8]) throws -> [String] {
    var names: [String] = []
    var reader = TarReader()
    let decompressor = try StreamDecompressor(.gzip)
    try blob.withUnsafeBytes { bytes in
        try decompressor.push(bytes) { piece in
            var piece = piece
            while true {
                switch try reader.next(&piece) {
                case .more: return
                case .payload, .zeros: continue
                case .entry(let entry): names.append(String(decoding: entry.header.name, as: UTF8.self))
                }
            }
        }
    }
    return names
}
