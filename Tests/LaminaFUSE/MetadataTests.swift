import Glibc
import LaminaFUSE
import LaminaSystem
import Testing

extension SessionTests {
    @Test("the mount is read-only, of type fuse.lamina, and INIT's request is kept")
    func mountAndHandshake() throws {
        try Fixture.with {
            $0.readAhead = 1 << 20
        } tree: { tree, _ in
            tree.add("file", .bytes([1]))
        } _: { fixture in
            let mount = try #require(try Mount.all().last { $0.directory == fixture.root })
            #expect(mount.type == "fuse.lamina")
            #expect(mount.source == "lamina")
            let options = mount.options.split(separator: ",")
            for option in ["ro", "nosuid", "nodev", "noatime"] { #expect(options.contains { $0 == option }) }
            #expect(mount.filesystemOptions.contains("default_permissions"))
            let request = fixture.session.initRequest
            #expect(request.count >= 56)
            #expect(Array(request[4..<8]) == [26, 0, 0, 0])
            #expect(fixture.session.protocolVersion.major == 7)
            #expect(fixture.session.protocolVersion.minor >= 31)
            #expect(fixture.session.readAheadFailure == nil)
            let readAhead = try readFile("/sys/class/bdi/\(mount.major):\(mount.minor)/read_ahead_kb")
            #expect(String(decoding: readAhead, as: UTF8.self) == "1024\n")
            #expect(open(fixture.path("file"), O_RDWR) == -1 && errno == EROFS)
            #expect(mkdir(fixture.path("new"), 0o755) == -1 && errno == EROFS)
        }
    }

    @Test("stat, readlink, xattrs and statfs say what the handler says; names are bytes")
    func attributes() throws {
        let long = [UInt8](repeating: UInt8(ascii: "n"), count: 255)
        let wild: [UInt8] = [0xff, 0xfe, 0x20, 0x0a, 0x5c, 0xc3]
        try Fixture.with { tree, _ in
            tree.add("file", mode: 0o4751, .bytes([1, 2, 3]), xattrs: [("user.a", [0, 255, 7]), ("user.empty", [])])
            tree.add(long, .bytes([5]))
            tree.add(wild, .bytes([6]))
            tree.add("link", .symlink([0xff, 0x2f, 0x41]))
        } _: { fixture in
            var status = stat()
            #expect(lstat(fixture.path("file"), &status) == 0)
            #expect(status.st_mode == S_IFREG | 0o4751)
            #expect(status.st_ino == 2)
            #expect(status.st_uid == 12 && status.st_gid == 34 && status.st_size == 3 && status.st_blocks == 1)
            #expect(status.st_mtim.tv_sec == 1_700_000_000 && status.st_mtim.tv_nsec == 123_456_789)
            for (name, byte) in [(long, UInt8(5)), (wild, 6)] {
                let path = (Array(fixture.root.utf8) + [0x2f] + name).map { CChar(bitPattern: $0) } + [0]
                let descriptor = open(path, O_RDONLY)
                #expect(descriptor >= 0)
                #expect(try File(adopting: descriptor, path: "wild").read(10, at: 0) == [byte])
            }
            let names = try list(fixture.root).map(\.name)
            #expect(names.contains(long) && names.contains(wild) && names.count == 6)

            var target = [UInt8](repeating: 0, count: 16)
            let count = target.withUnsafeMutableBytes { bytes in
                readlink(fixture.path("link"), bytes.baseAddress!.assumingMemoryBound(to: CChar.self), 16)
            }
            #expect(Array(target.prefix(count)) == [0xff, 0x2f, 0x41])

            var value = [UInt8](repeating: 9, count: 8)
            #expect(getxattr(fixture.path("file"), "user.a", &value, 8) == 3)
            #expect(Array(value.prefix(3)) == [0, 255, 7])
            #expect(getxattr(fixture.path("file"), "user.a", nil, 0) == 3)
            #expect(getxattr(fixture.path("file"), "user.a", &value, 2) == -1 && errno == ERANGE)
            #expect(getxattr(fixture.path("file"), "user.empty", &value, 8) == 0)
            #expect(getxattr(fixture.path("file"), "user.none", &value, 8) == -1 && errno == ENODATA)
            var list = [CChar](repeating: 1, count: 64)
            #expect(listxattr(fixture.path("file"), &list, 64) == 18)

            var filesystem = statvfs()
            #expect(statvfs(fixture.root, &filesystem) == 0)
            #expect(filesystem.f_blocks == 1000 && filesystem.f_bfree == 10 && filesystem.f_files == 77)
            #expect(filesystem.f_namemax == 255)
        }
    }

    @Test("attributes, entries, missing names, symlinks and listings are asked for once")
    func caching() throws {
        try Fixture.with { tree, _ in
            let directory = tree.add("d", mode: 0o755, .directory)
            tree.add("file", in: directory, .bytes([1]))
            tree.add("link", in: directory, .symlink([0x41]))
        } _: { fixture in
            func touch() throws {
                var status = stat()
                #expect(lstat(fixture.path("d/file"), &status) == 0)
                #expect(lstat(fixture.path("d/none"), &status) == -1 && errno == ENOENT)
                var target = [CChar](repeating: 0, count: 16)
                #expect(readlink(fixture.path("d/link"), &target, 16) == 1)
                _ = try list(fixture.path("d"))
                #expect(access(fixture.path("d/file"), R_OK) == 0)
            }
            let watched: [FUSEOperation] = [.lookup, .getattr, .readlink, .readdir, .readdirplus, .opendir, .access]
            try touch()
            let before = watched.map { fixture.session.requestCount($0) }
            for _ in 0..<20 { try touch() }
            #expect(watched.map { fixture.session.requestCount($0) } == before)
            #expect(fixture.session.requestCount(.opendir) <= 1)
            #expect(fixture.session.requestCount(.access) == 0)
        }
    }

    @Test("3,000 entries are listed in order without loss, with their attributes, and telldir finds its way back")
    func bigDirectory() throws {
        let names = (0..<3000).map { String("entry-" + String(100_000 + $0)) }
        try Fixture.with { tree, _ in
            let directory = tree.add("big", mode: 0o755, .directory)
            for name in names { tree.add(name, in: directory, .bytes([7])) }
        } _: { fixture in
            let directory = try #require(opendir(fixture.path("big")))
            var found: [String] = []
            var mark = 0
            while let entry = readdir(directory) {
                found.append(String(decoding: Listed(entry).name, as: UTF8.self))
                if found.count == 1500 { mark = telldir(directory) }
            }
            #expect(found == [".", ".."] + names)
            #expect(fixture.session.requestCount(.readdirplus) > 5)
            #expect(fixture.session.requestCount(.readdir) == 0)
            for _ in 0..<2 {
                seekdir(directory, mark)
                let entry = try #require(readdir(directory))
                #expect(String(decoding: Listed(entry).name, as: UTF8.self) == found[1500])
            }
            closedir(directory)
            let lookups = fixture.session.requestCount(.lookup)
            for name in names {
                var status = stat()
                #expect(lstat(fixture.path("big/\(name)"), &status) == 0)
            }
            #expect(fixture.session.requestCount(.lookup) == lookups, "readdirplus fills the dcache")
            #expect(fixture.session.requestCount(.getattr) <= 2)
        }
    }

    @Test("a cached entry that is invalidated is looked up again, and a listing is read again")
    func notifications() throws {
        try Fixture.with { tree, _ in
            tree.add("one", .bytes([1]))
        } _: { fixture in
            var status = stat()
            #expect(try !fixture.session.invalidateEntry(parent: 1, name: "one"), "nothing is cached yet")
            #expect(lstat(fixture.path("one"), &status) == 0)
            #expect(lstat(fixture.path("one"), &status) == 0)
            #expect(fixture.session.requestCount(.lookup) == 1)
            #expect(try fixture.session.invalidateEntry(parent: 1, name: "one"))
            #expect(lstat(fixture.path("one"), &status) == 0)
            #expect(fixture.session.requestCount(.lookup) == 2)
            #expect(try fixture.session.notifyDelete(parent: 1, child: 2, name: "one"))
            #expect(lstat(fixture.path("one"), &status) == 0)
            #expect(fixture.session.requestCount(.lookup) == 3)

            _ = try list(fixture.root)
            let reads = fixture.session.requestCount(.readdirplus)
            _ = try list(fixture.root)
            #expect(fixture.session.requestCount(.readdirplus) == reads)
            #expect(try fixture.session.invalidateContents(node: 1))
            _ = try list(fixture.root)
            #expect(fixture.session.requestCount(.readdirplus) > reads)
            #expect(throws: SystemError.self) {
                try fixture.session.invalidateEntry(parent: 1, name: String(repeating: "x", count: 2000))
            }
        }
    }
}

// Glibc's module has no <sys/xattr.h>.
private let getxattr = unsafeBitCast(
    dlsym(nil, "getxattr"),
    to: (@convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafeMutableRawPointer?, Int) -> Int).self)
private let listxattr = unsafeBitCast(
    dlsym(nil, "listxattr"),
    to: (@convention(c) (UnsafePointer<CChar>, UnsafeMutableRawPointer?, Int) -> Int).self)

struct Listed {
    var name: [UInt8]
    var type: UInt8

    init(_ entry: UnsafeMutablePointer<dirent>) {
        type = entry.pointee.d_type
        let start = UnsafeRawPointer(entry) + (MemoryLayout<dirent>.offset(of: \.d_name) ?? 0)
        name = Array(UnsafeRawBufferPointer(start: start, count: strlen(start.assumingMemoryBound(to: CChar.self))))
    }
}

/// All entries of a directory.
func list(_ path: String) throws -> [Listed] {
    guard let directory = opendir(path) else { throw SystemError.last("open directory", path) }
    defer { closedir(directory) }
    var entries: [Listed] = []
    while let entry = readdir(directory) { entries.append(Listed(entry)) }
    return entries
}
