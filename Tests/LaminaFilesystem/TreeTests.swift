import CLinux
import Glibc
import LaminaFUSE
import LaminaMerge
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaFilesystem

// Everything except open and read, and the overlay above.
extension FilesystemTests {
    private static func names(_ path: String) throws -> [String] {
        guard let directory = opendir(path) else { throw SystemError.last("open", path) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            names.append(
                withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) })
        }
        return names
    }

    private static func status(_ path: String) throws -> stat {
        var status = stat()
        guard lstat(path, &status) == 0 else { throw SystemError.last("stat", path) }
        return status
    }

    @Test("a directory of 5,000 entries is listed whole, each once, and each can be looked up")
    func largeDirectory() throws {
        let layer = forge { layer in
            layer.directory("many")
            for number in 0..<5000 { layer.file("many/file-with-a-name-\(number)", []) }
        }
        try Fixture.with(["a": [layer]]) { fixture in
            let directory = try fixture.path("many")
            let expected = (0..<5000).map { "file-with-a-name-\($0)" } + [".", ".."]
            for _ in 0..<2 { #expect(try Self.names(directory).sorted() == expected.sorted()) }
            // Another way through it: to the middle and on from there.
            let stream = try #require(opendir(directory))
            for _ in 0..<2500 { _ = readdir(stream) }
            let place = telldir(stream)
            let next = readdir(stream).map { $0.pointee.d_ino }
            for _ in 0..<100 { _ = readdir(stream) }
            seekdir(stream, place)
            #expect(readdir(stream).map { $0.pointee.d_ino } == next)
            closedir(stream)
            for number in stride(from: 0, to: 5000, by: 501) {
                #expect(try Self.status("\(directory)/file-with-a-name-\(number)").st_size == 0)
            }
        }
    }

    @Test(
        "a walk through many directories finds all that is in them, and finds them listed ahead",
        .timeLimit(.minutes(2)))
    func walk() throws {
        // Some end with the first answer, some take several.
        let sizes = (0..<400).map { $0 % 50 == 49 ? 700 : $0 % 30 }
        let layer = forge { layer in
            for (number, size) in sizes.enumerated() {
                layer.directory("\(number / 20)/\(number)")
                for file in 0..<size { layer.file("\(number / 20)/\(number)/file-\(file)", []) }
            }
        }
        try Fixture.with(["a": [layer]]) { fixture in
            func walk(_ path: String, backwards: Bool) throws -> Set<String> {
                var found: Set<String> = []
                var below: [String] = []
                for name in try Self.names(path) where name != "." && name != ".." {
                    #expect(found.insert("\(path)/\(name)").inserted)
                    if try Self.status("\(path)/\(name)").st_mode & S_IFMT == S_IFDIR {
                        below.append("\(path)/\(name)")
                    }
                }
                for path in backwards ? below.reversed() : below {
                    found.formUnion(try walk(path, backwards: backwards))
                }
                return found
            }
            let root = try fixture.path()
            var expected = Set((0..<20).map { "\(root)/\($0)" })
            for (number, size) in sizes.enumerated() {
                let directory = "\(root)/\(number / 20)/\(number)"
                expected.insert(directory)
                for file in 0..<size { expected.insert("\(directory)/file-\(file)") }
            }
            for backwards in [false, true] {
                let before = fixture.filesystem.directories.hits.load(ordering: .relaxed)
                #expect(try walk(root, backwards: backwards) == expected)
                #expect(fixture.filesystem.directories.hits.load(ordering: .relaxed) > before)
                let drop = try File("/proc/sys/vm/drop_caches", O_WRONLY)
                try Array("2".utf8).withUnsafeBytes { try drop.write($0, at: 0) }
            }
        }
    }

    @Test("statfs tells of the store's file system, and a view's tree of what its layer lists")
    func attributes() throws {
        let layer = forge { layer in
            layer.directory("dir", mode: 0o1750, rest: #","uid":7,"gid":8,"modtime":"2001-02-03T04:05:06Z""#)
            layer.file("dir/file", noise(100, seed: 1), rest: #","uid":3"#)
            layer.entry(#""name":"dir/link","type":"symlink","linkName":"../elsewhere""#)
            layer.entry(#""name":"dir/hard","type":"hardlink","linkName":"dir/file""#)
            layer.entry(#""name":"dir/fifo","type":"fifo","mode":384"#)
            layer.entry(#""name":"dir/null","type":"char","mode":438,"devMajor":1,"devMinor":3"#)
            layer.entry(#""name":"dir/.wh.gone","type":"reg""#)
        }
        try Fixture.with(["a": [layer]]) { fixture in
            var (here, below) = (statvfs(), statvfs())
            #expect(statvfs(try fixture.path(), &here) == 0 && statvfs(fixture.store.root, &below) == 0)
            #expect(here.f_blocks == below.f_blocks && here.f_files == below.f_files && here.f_frsize == below.f_frsize)
            #expect(here.f_namemax == 255)
            let directory = try Self.status(fixture.path("dir"))
            #expect(directory.st_mode == S_IFDIR | 0o1750 && directory.st_uid == 7 && directory.st_gid == 8)
            #expect(directory.st_mtim.tv_sec == 981_173_106)
            let (file, hard) = try (Self.status(fixture.path("dir/file")), Self.status(fixture.path("dir/hard")))
            #expect(file.st_nlink == 2 && file.st_ino == hard.st_ino && file.st_uid == 3 && file.st_size == 100)
            var target = [CChar](repeating: 0, count: 100)
            #expect(readlink(try fixture.path("dir/link"), &target, 100) == 12)
            #expect(target.prefix(12).elementsEqual("../elsewhere".utf8.map { CChar(bitPattern: $0) }))
            #expect(try Self.status(fixture.path("dir/fifo")).st_mode == S_IFIFO | 0o600)
            let null = try Self.status(fixture.path("dir/null"))
            #expect(null.st_mode == S_IFCHR | 0o666 && null.st_rdev == 0x103)
            let whiteout = try Self.status(fixture.path("dir/gone"))
            #expect(whiteout.st_mode & S_IFMT == S_IFCHR && whiteout.st_rdev == 0)
            #expect(openError(try fixture.path("nothing")) == ENOENT)
            #expect(mkdir(try fixture.path("new"), 0o755) == -1 && errno == EROFS)
            #expect(try bytes(fixture.path("dir/hard")) == noise(100, seed: 1))
        }
    }

    @Test("the kernel remembers that a name is not there, but not for views, which come and go")
    func negativeEntries() throws {
        try Fixture.with(["a": [forge { $0.file("file", [1, 2, 3]) }]]) { fixture in
            let (missing, view) = (try fixture.path("missing"), fixture.filesystem.directory + "/777")
            _ = openError(missing)
            let lookups = fixture.statistics.lookups
            for _ in 0..<10 { #expect(openError(missing) == ENOENT) }
            #expect(fixture.statistics.lookups == lookups)
            for _ in 0..<10 { #expect(openError(view) == ENOENT) }
            #expect(fixture.statistics.lookups == lookups + 10)
        }
    }

    @Test("extended attributes are listed and read, but for the one that only steers overlayfs")
    func attributesOfUsers() throws {
        let layer = forge { layer in
            layer.directory("dir", rest: #","xattrs":{"user.one":"AQID","user.empty":""}"#)
            layer.entry(#""name":"dir/.wh..wh..opq","type":"reg""#)
            layer.file("file", [1])
        }
        try Fixture.with(["a": [layer]]) { fixture in
            var buffer = [CChar](repeating: 0, count: 1000)
            let path = try fixture.path("dir")
            let count = lamina_llistxattr(path, &buffer, buffer.count)
            let names = buffer.prefix(Int(max(0, count))).split(separator: 0).map {
                String(decoding: $0.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            }
            #expect(names.sorted() == ["trusted.overlay.opaque", "user.empty", "user.one"])
            #expect(lamina_llistxattr(path, nil, 0) == count)
            #expect(lamina_llistxattr(path, &buffer, 5) == -1 && errno == ERANGE)
            var value = [UInt8](repeating: 0, count: 100)
            #expect(lamina_lgetxattr(path, "user.one", &value, 100) == 3 && value[..<3] == [1, 2, 3])
            #expect(lamina_lgetxattr(path, "user.empty", &value, 100) == 0)
            #expect(lamina_lgetxattr(path, "user.overlay.opaque", &value, 100) == 1, "overlayfs asks for it by name")
            #expect(lamina_lgetxattr(path, "user.two", &value, 100) == -1 && errno == ENODATA)
            #expect(lamina_llistxattr(try fixture.path("file"), &buffer, 1000) == 0)
        }
    }

    @Test("of a layer without any attribute none is looked for, of the others each is found")
    func layersWithoutAttributes() throws {
        let plain = forge { layer in
            for number in 0..<50 { layer.file("a\(number)", [1]) }
        }
        let other = forge { layer in
            layer.file("b", [2])
            layer.directory("d", rest: #","xattrs":{"user.one":"AQID"}"#)
        }
        try Fixture.with(["a": [plain], "b": [other]]) { fixture in
            var value = [UInt8](repeating: 0, count: 100)
            for _ in 0..<2 {
                #expect(lamina_lgetxattr(try fixture.path("d", "b"), "user.one", &value, 100) == 3)
                #expect(lamina_lgetxattr(try fixture.path("b", "b"), "user.one", &value, 100) == -1 && errno == ENODATA)
                for number in [0, 49] {
                    let path = try fixture.path("a\(number)")
                    #expect(lamina_lgetxattr(path, "user.one", &value, 100) == -1 && errno == ENODATA)
                    #expect(lamina_lgetxattr(path, "security.capability", &value, 100) == -1 && errno == ENODATA)
                }
            }
            let inode = try Int64(Self.status(fixture.path("a0")).st_ino)
            #expect(fixture.filesystem.plainLayers.layer(of: inode)?.hasAttributes == false)
            let other = try Int64(Self.status(fixture.path("b", "b")).st_ino)
            #expect(fixture.filesystem.plainLayers.layer(of: other)?.hasAttributes == true)
        }
    }

    @Test("what overlayfs asks of every file is answered at once, and what steers it is there")
    func attributesOfOverlays() throws {
        let layer = forge { layer in
            layer.directory("opaque")
            layer.entry(#""name":"opaque/.wh..wh..opq","type":"reg""#)
            layer.directory("hiding")
            layer.entry(#""name":"hiding/.wh.gone","type":"reg""#)
            layer.directory("plain")
            layer.file("file", [1])
        }
        try Fixture.with(["a": [layer]]) { fixture in
            func value(_ name: String, of path: String) throws -> Int? {
                var value = [UInt8](repeating: 0, count: 100)
                let count = lamina_lgetxattr(try fixture.path(path), name, &value, 100)
                #expect(count >= 0 || errno == ENODATA)
                return count < 0 ? nil : Int(count)
            }
            for prefix in ["trusted", "user"] {
                for path in ["file", "plain", "opaque", "hiding"] {
                    for name in ["metacopy", "redirect", "impure", "nlink"] {
                        #expect(try value("\(prefix).overlay.\(name)", of: path) == nil)
                    }
                    #expect(try value("\(prefix).overlay.opaque", of: path) == (path == "opaque" ? 1 : nil))
                    #expect((try value("\(prefix).overlay.origin", of: path) != nil) == (path == "hiding"))
                }
            }
            let reader = fixture.filesystem.spareReader
            #expect(try reader.inode(2) != nil)
            for (name, isKnown) in [
                ("trusted.overlay.metacopy", true), ("user.overlay.redirect", true), ("trusted.overlay.opaque", false),
                ("user.overlay.origin", false), ("security.capability", false), ("user.overlay", false), ("", false),
            ] {
                let isLacked = Array(name.utf8).withUnsafeBytes {
                    fixture.filesystem.lacksXattr(node: 2, name: $0, thread: FUSEThread(index: 0))
                }
                #expect(isLacked == isKnown, "\(name)")
            }
            let layers = PlainLayers()
            #expect(layers.layer(of: 5) == nil)
            for start in [20, 0, 10] as [Int64] {
                for _ in 0..<2 { layers.learn(.init(inodes: start...(start + 8), hasAttributes: start == 10)) }
            }
            #expect(layers.layer(of: 8) == .init(inodes: 0...8, hasAttributes: false))
            #expect(layers.layer(of: 10) == .init(inodes: 10...18, hasAttributes: true))
            #expect(([-1, 9, 19, 29] as [Int64]).allSatisfy { layers.layer(of: $0) == nil })
            let mount = try fixture.mountImage()
            let options = try #require(try Mount.all().first { $0.directory == mount }?.filesystemOptions)
            #expect(options.contains("redirect_dir=nofollow"))
        }
    }

    @Test("a directory that a layer does not list has the attributes of the layer below")
    func implicitDirectories() throws {
        let below = forge { $0.directory("dir", mode: 0o700, rest: #","uid":5,"xattrs":{"user.x":"AQ=="}"#) }
        let above = forge { $0.file("dir/sub/file", [1, 2]) }
        try Fixture.with(["a": [below, above], "alone": [above]]) { fixture in
            let view = try Self.status(fixture.path("dir", layer: 1))
            #expect(view.st_mode == S_IFDIR | 0o700 && view.st_uid == 5)
            var value = [UInt8](repeating: 0, count: 4)
            #expect(lamina_lgetxattr(try fixture.path("dir", layer: 1), "user.x", &value, 4) == 1)
            #expect(try Self.status(fixture.path("dir/sub", layer: 1)).st_mode == S_IFDIR | 0o755)
            let alone = try Self.status(fixture.path("dir", "alone"))
            #expect(alone.st_mode == S_IFDIR | 0o755 && alone.st_uid == 0)
            for path in [try fixture.path("dir/sub/file", layer: 1), try fixture.path("dir/sub/file", "alone")] {
                #expect(try bytes(path) == [1, 2])
            }
            let mounted = try fixture.mountImage()
            #expect(try Self.status(mounted + "/dir").st_mode == S_IFDIR | 0o700)
        }
    }

    @Test("new views are listed when they are told of")
    func newViews() throws {
        try Fixture.with(["a": [forge { $0.file("file", [1]) }]]) { fixture in
            let root = fixture.filesystem.directory
            let before = try Self.names(root).count
            let other = forge { $0.file("other", [2]) }
            try writeImage([ImageLayer(other)], tag: "b", layout: fixture.directory + "/layout")
            let image = try ImagePull(fixture.engine, shouldStop: { false }, report: { _ in }).index(
                try ImageReference(parsing: "oci:\(fixture.directory)/layout:b"), platform: nil, plainHTTP: true)
            fixture.filesystem.viewsChanged()
            #expect(try Self.names(root).count == before + 1)
            #expect(try bytes("\(root)/\(image.views[0])/other") == [2])
        }
    }

    @Test("an image is mounted read-only, of one layer too, and reads what is not merged yet")
    func readOnlyImage() throws {
        let file = noise(50_000, seed: 1)
        try Fixture.with(["a": [forge { $0.file("file", file) }]]) { fixture in
            let target = try fixture.mountImage()
            #expect(try bytes(target + "/file") == file)
            #expect(try Self.names(target).sorted() == [".", "..", "file"])
            #expect(open(target + "/new", O_CREAT | O_WRONLY, 0o644) == -1 && errno == EROFS)
        }
    }

    @Test("an image with an upper directory takes writes there; its layers hide and show as they should")
    func writableImage() throws {
        let (one, two) = (noise(40_000, seed: 1), noise(9000, seed: 2))
        let bottom = forge { layer in
            layer.file("kept", one)
            layer.file("replaced", one)
            layer.file("removed", [1])
            layer.directory("opaque")
            layer.file("opaque/hidden", [2])
        }
        let top = forge { layer in
            layer.file("replaced", two)
            layer.entry(#""name":".wh.removed","type":"reg""#)
            layer.directory("opaque")
            layer.entry(#""name":"opaque/.wh..wh..opq","type":"reg""#)
            layer.file("opaque/shown", [3])
        }
        try Fixture.with(["a": [bottom, top]]) { fixture in
            let upper = fixture.directory + "/upper, with: all\\of it"
            let target = try fixture.mountImage(upper: upper)
            #expect(try Self.names(target).sorted() == [".", "..", "kept", "opaque", "replaced"])
            #expect(try Self.names(target + "/opaque").sorted() == [".", "..", "shown"])
            #expect(try bytes(target + "/replaced") == two)
            // Copied up while it is not merged, and changed.
            do {
                let file = try File(target + "/kept", O_RDWR)
                try [UInt8(9), 9].withUnsafeBytes { try file.write($0, at: 5) }
            }
            var changed = one
            changed.replaceSubrange(5..<7, with: [9, 9])
            #expect(try bytes(target + "/kept") == changed)
            #expect(try bytes(upper + "/kept") == changed)
            #expect(try bytes(fixture.path("kept")) == one, "the layer itself has changed")
            #expect(unlink(target + "/replaced") == 0 && openError(target + "/replaced") == ENOENT)
            #expect(mkdir(target + "/new", 0o755) == 0)
            #expect(try Self.names(upper).sorted() == [".", "..", "kept", "new", "replaced"])
        }
    }

    @Test("idle transactions end, so that the log can be cut, and answers go on")
    func tidy() throws {
        try Fixture.with(["a": [forge { $0.file("file", noise(10_000, seed: 3)) }]]) { fixture in
            for _ in 0..<20 {
                let names = try Self.names(fixture.filesystem.directory)
                #expect(names.count == 3)
                fixture.filesystem.tidy()
            }
            #expect(try bytes(fixture.path("file")) == noise(10_000, seed: 3))
            #expect(fixture.messages.all == [])
        }
    }
}
