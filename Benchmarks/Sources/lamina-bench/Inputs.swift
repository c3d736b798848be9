import Foundation

/// What is measured: made once, from seeds, and kept.
struct Inputs {
    /// With a new number everything is made again.
    private static let generation = 1
    static let smallFiles = 20_000
    static let big = 1 << 30
    static let huge = 4 << 30

    let space: Workspace

    /// Files on the machine's disk, for comparison.
    var mix: String { space.inputs + "/mix" }
    var tree: String { space.inputs + "/tree" }
    var usr: String { space.inputs + "/usr" }

    /// Runs `body` unless its result exists from an earlier run.
    private func once(_ name: String, _ body: () throws -> Void) throws {
        let stamp = "\(space.inputs)/\(name).made"
        let wanted = "\(Self.generation)"
        if (try? String(contentsOfFile: stamp, encoding: .utf8)) == wanted { return }
        say("making \(name)")
        let seconds = try timed(body)
        sync()
        try wanted.write(toFile: stamp, atomically: true, encoding: .utf8)
        say("made \(name) in \(Int(seconds.rounded())) s")
    }

    /// An eStargz image made by lamina itself.
    private func image(_ name: String, of source: @autoclosure () throws -> String, level: Int = 6) throws -> Image {
        let layout = "\(space.inputs)/\(name).oci"
        try once("image of \(name)") {
            let source = try source()
            try removeTree(layout)
            try run(space.lamina, "convert", "--level", "\(level)", source, "oci:\(layout):1")
        }
        return try Image(name: name, layout: layout)
    }

    private func emptied(_ name: String) throws -> String {
        let path = "\(space.inputs)/\(name)"
        try removeTree(path)
        try makeDirectory(path)
        return path
    }

    /// 20,000 files of 64 B to 64 KiB, 3 of 134 MB, 1 of 1,074 MB.
    func mixImage() throws -> Image {
        try once("mix") {
            let path = try emptied("mix")
            var generator = Generator(seed: 1)
            for number in 0..<Self.smallFiles {
                let directory = "\(path)/small/\(number / 100)"
                if number % 100 == 0 { try makeDirectory(directory) }
                // Almost as many of 64 to 128 bytes as of 32 to 64 KiB.
                let place = pow(Double(number) / Double(Self.smallFiles), 0.96)
                try writeFile("\(directory)/\(number % 100)", size: Int(64 * pow(1024, place))) {
                    generator.fillBinary($0)
                }
            }
            try makeDirectory(path + "/large")
            for name in ["a", "b", "c"] {
                try writeFile("\(path)/large/\(name)", size: 128 << 20) { generator.fillBinary($0) }
            }
            try writeFile(path + "/large/big", size: Self.big) { generator.fillBinary($0) }
        }
        return try image("mix", of: "dir:" + mix)
    }

    /// The mix's largest file alone, as gzip.
    func bigGzip() throws -> String {
        _ = try mixImage()
        return try archive("big.gz") { try shell("gzip -6 -c \"$1/large/big\" > \"$2\"", mix, $0) }
    }

    /// The mix's small files alone, as in an ordinary layer.
    func smallTar() throws -> String {
        _ = try mixImage()
        return try archive("small.tar.gz") { try shell("tar -C \"$1\" -c small | gzip -6 > \"$2\"", mix, $0) }
    }

    /// As many plain inserts as the tree has entries: names below directories, with a digest each, and indexes on both.
    func inserts() throws -> String {
        try archive("inserts.sql") { path in
            var generator = Generator(seed: 9)
            var text = """
                PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
                CREATE TABLE entry (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name TEXT NOT NULL, mode INTEGER, size INTEGER,
                    mtime INTEGER, digest BLOB, UNIQUE (parent, name));
                CREATE UNIQUE INDEX entry_digest ON entry (digest);
                BEGIN;

                """
            var digest = [UInt8](repeating: 0, count: 32)
            for number in 1...100_000 {
                digest.withUnsafeMutableBytes { generator.fillBinary($0) }
                // Bytes that compress may repeat; a digest does not.
                withUnsafeBytes(of: UInt64(number).littleEndian) { digest.replaceSubrange(0..<8, with: $0) }
                let hex = digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
                text +=
                    "INSERT INTO entry VALUES (\(number), \(number / 20), 'file-\(number % 20)', 33188, \(number), 1700000000, x'\(hex)');\n"
            }
            try (text + "COMMIT;\n").write(toFile: path, atomically: true, encoding: .utf8)
        }
    }

    private func archive(_ name: String, _ make: (String) throws -> Void) throws -> String {
        let path = "\(space.inputs)/\(name)"
        try once(name) { try make(path) }
        return path
    }

    /// Where the small files are, below the mix's top.
    static var smallPaths: [String] { (0..<smallFiles).map { "small/\($0 / 100)/\($0 % 100)" } }

    func textImage() throws -> Image {
        let path = space.inputs + "/text"
        try once("text") {
            _ = try emptied("text")
            var generator = Generator(seed: 2)
            let words = generator.vocabulary()
            for number in 0..<10 {
                try writeFile("\(path)/\(number).txt", size: 50_000_000) { generator.fillText($0, words) }
            }
        }
        return try image("text", of: "dir:" + path)
    }

    /// This machine's `/usr`; if it is large, its smallest directories, up to 1,000 MB.
    func usrImage() throws -> Image {
        try once("usr") {
            let path = try emptied("usr")
            let directories = try FileManager.default.contentsOfDirectory(atPath: "/usr").map { "/usr/" + $0 }
            let sizes = try run(["du", "-sxm"] + directories.sorted()).output.split(separator: "\n").compactMap {
                line in
                let fields = line.split(separator: "\t")
                return Int(fields[0]).map { (megabytes: $0, path: String(fields[1])) }
            }
            var left = 1000
            for directory in sizes.sorted(by: { ($0.megabytes, $0.path) < ($1.megabytes, $1.path) }) {
                left -= directory.megabytes
                if left < 0 { break }
                try run("cp", "-a", "--one-file-system", directory.path, path)
            }
        }
        return try image("usr", of: "dir:" + usr)
    }

    /// 100,000 entries: 5,000 directories, 10,000 symbolic links, 85,000 files of their own content.
    func treeImage() throws -> Image {
        try once("tree") {
            let path = try emptied("tree")
            var generator = Generator(seed: 3)
            for directory in 0..<5000 {
                let place = "\(path)/\(directory / 50)/\(directory)"
                try makeDirectory(place)
                // The 100 directories between count too.
                let files = directory < 100 ? 16 : 17
                for number in 0..<files {
                    try writeFile("\(place)/file-\(number)", size: 32 + number * 8) { generator.fillBinary($0) }
                }
                for number in 0..<2 where symlink("file-\(number)", "\(place)/link-\(number)") != 0 {
                    throw Failure.system(place)
                }
            }
        }
        return try image("tree", of: "dir:" + tree)
    }

    /// A million entries: 10,000 directories, 990,000 files, of which every tenth has a content of its own.
    func millionImage() throws -> Image { try numberedImage("million", directories: Self.millionDirectories) }

    /// A hundredth of it.
    func tenThousandImage() throws -> Image {
        try numberedImage("ten-thousand", directories: Self.millionDirectories / 100)
    }

    static let millionDirectories = 10_000

    private func numberedImage(_ name: String, directories: Int) throws -> Image {
        let path = "\(space.inputs)/\(name).tar"
        return try image(
            name,
            of: {
                try TarFile.write(path) { tar in
                    for directory in 0..<directories {
                        tar.add(Self.directory(directory) + "/", content: nil)
                        for number in 0..<Self.filesInDirectory {
                            let content = number % 10 == 0 ? "content \(directory) \(number)\n" : ""
                            tar.add("\(Self.directory(directory))/file-\(number)", content: content)
                        }
                    }
                }
                return "tar:" + path
            }(), level: 1)
    }

    static let filesInDirectory = 99

    /// The path of one of the numbered directories.
    static func directory(_ number: Int) -> String { "\(number / 100)/\(number)" }

    /// A path of the million that was not looked up before.
    static func millionPath(_ number: Int) -> String {
        "\(directory((number * 7919 + 13) % millionDirectories))/file-\(number % filesInDirectory)"
    }

    /// One of ten images of 100,000 files (10,000 for everyday use), in directories of 100; a tenth of the files is the same in
    /// all.
    func scaleImage(_ number: Int, files: Int) throws -> Image {
        let name = "scale-\(files)-\(number)"
        let path = "\(space.inputs)/\(name).tar"
        defer { unlink(path) }
        return try image(
            name,
            of: {
                try TarFile.write(path) { tar in
                    for directory in 0..<files / 100 {
                        if directory % 100 == 0 { tar.add("\(directory / 100)/", content: nil) }
                        let place = "\(directory / 100)/package-\(directory)"
                        tar.add(place + "/", content: nil)
                        for file in 0..<100 {
                            let owner = file % 10 == 0 ? "all" : "\(number)"
                            let text = String(repeating: "x", count: (directory + file * 7) % 300)
                            tar.add("\(place)/file-\(file)", content: "\(owner) \(directory) \(file) \(text)\n")
                        }
                    }
                }
                return "tar:" + path
            }(), level: 1)
    }

    /// Where a file of them is.
    static func scalePath(_ directory: Int) -> String { "/\(directory / 100)/package-\(directory)/file-42" }

    /// An image of plain layers that name files and none of their directories: which layer below has those must be looked up.
    ///
    /// - Returns: the directory of its layout.
    func unlistedImage(layers: Int, directories: Int) throws -> String {
        let layout = "\(space.inputs)/unlisted-\(layers)-\(directories).oci"
        try once("unlisted-\(layers)-\(directories)") {
            try removeTree(layout)
            try makeDirectory(layout + "/blobs/sha256")
            let tars = try (0..<layers).map { layer in
                let path = "\(layout)/layer-\(layer).tar"
                try TarFile.write(path) { tar in
                    for directory in 0..<directories {
                        tar.add("usr/\(layer)-\(directory)/file", content: "\(layer % 10)")
                    }
                }
                return path
            }
            try PlainLayout(directory: layout).write(tars: tars)
        }
        return layout
    }

    /// One file of 4 GiB.
    func hugeImage() throws -> Image {
        let image = try image(
            "huge",
            of: {
                let path = try emptied("huge")
                var generator = Generator(seed: 4)
                let words = generator.vocabulary()
                try writeFile(path + "/huge", size: Self.huge) { generator.fillText($0, words) }
                return "dir:" + path
            }(), level: 1)
        // Only the image is read.
        try removeTree(space.inputs + "/huge")
        return image
    }

    /// The mix as an ordinary tar.gz, without a table of contents.
    func plainImage() throws -> Image {
        let layout = space.inputs + "/plain.oci"
        try once("plain") {
            try removeTree(layout)
            try makeDirectory(layout + "/blobs/sha256")
            try PlainLayout(directory: layout).write(files: mix)
        }
        return try Image(name: "plain", layout: layout)
    }

    /// The same files as an image of another file system.
    ///
    /// - Returns: nil if the tool is not installed.
    func filesystem(_ kind: Filesystem, of name: String) throws -> String? {
        guard isInstalled(kind.tool) else { return nil }
        let path = "\(space.inputs)/\(name).\(kind.rawValue)"
        try once("\(kind.rawValue) of \(name)") {
            unlink(path)
            try run(kind.command(source: "\(space.inputs)/\(name)", image: path))
        }
        return path
    }
}

/// Read-only file systems that lamina is compared with; both compress with lz4.
enum Filesystem: String, CaseIterable {
    case erofs, squashfs

    var tool: String { self == .erofs ? "mkfs.erofs" : "mksquashfs" }

    func command(source: String, image: String) -> [String] {
        switch self {
        case .erofs: [tool, "-zlz4", "--quiet", image, source]
        case .squashfs: [tool, source, image, "-comp", "lz4", "-no-progress", "-quiet"]
        }
    }
}
