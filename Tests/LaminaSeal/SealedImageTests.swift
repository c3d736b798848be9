import Foundation
import Glibc
import LaminaSeal
import LaminaSystem
import Testing

/// What real mounts need.
private enum Requirements {
    static let missing: String? = {
        if geteuid() != 0 { return "mount(2) needs root" }
        let known = (try? String(contentsOfFile: "/proc/filesystems", encoding: .utf8)) ?? ""
        if !known.contains("erofs") { return "the kernel has no EROFS" }
        if (try? run("fsck.erofs", ["-V"]))?.status != 0 { return "erofs-utils is not installed" }
        return nil
    }()

    static var met: ConditionTrait { .enabled(if: missing == nil, "\(missing ?? "")") }
}

@Suite("a sealed image shows what the layers show", .serialized, Requirements.met)
struct SealedImageTests {
    private func checkSame(_ chain: Chain) throws {
        try chain.mountPlain()
        let expected = try walk("\(chain.directory)/plain")
        // A form that fsck.erofs before 1.7 reads too; then lamina's usual form.
        try chain.write(sharesNamePrefix: false)
        let check = try run("fsck.erofs", ["\(chain.directory)/image"])
        #expect(check.status == 0 && !check.text.contains("<E>"), "\(check.text)")
        for sharesNamePrefix in [false, true] {
            try chain.write(sharesNamePrefix: sharesNamePrefix)
            let device = try chain.mountSealed()
            #expect(SealedMount.isAlive(device))
            let found = try walk("\(chain.directory)/sealed")
            #expect(found.count == expected.count)
            for (left, right) in zip(found, expected) where left != right {
                Issue.record("sealed:   \(left.prefix(600))\nunpacked: \(right.prefix(600))")
                break
            }
            try Mount.unmount("\(chain.directory)/sealed")
            #expect(!SealedMount.isAlive(device))
        }
        try Mount.unmount("\(chain.directory)/plain")
    }

    @Test("every kind of file, name, time, owner and attribute is as in an unpacked layer")
    func everything() throws {
        let long = [UInt8](repeating: UInt8(ascii: "x"), count: 255)
        let binary = (1...255).map { UInt8($0) }.filter { $0 != UInt8(ascii: "/") }
        var entries: [Entry] = [
            Entry("", .directory, 0o750, uid: 3, gid: 4, seconds: 12, nanoseconds: 999_999_999),
            Entry("empty", .file([])), Entry("small", .file(Array("small".utf8)), 0o6755, nanoseconds: 123_456_789),
            Entry("large", .file([UInt8](repeating: 7, count: 300_000))),
            Entry("huge", .hole(5 << 30), nanoseconds: 1), Entry("huge-too", .hole((4 << 30) - 1)),
            Entry("gigantic", .hole((9 << 40))),
            Entry("owned", .file([1]), uid: 100_000, gid: 4_000_000_000), Entry("old", .file([2]), seconds: -5),
            Entry("far", .file([3]), seconds: 5_000_000_000), Entry("zero", .file([4]), 0, seconds: 0),
            Entry("link", .symlink(Array("../where/ever".utf8)), uid: 5, gid: 6, seconds: 77),
            Entry("link-long", .symlink([UInt8](repeating: UInt8(ascii: "l"), count: 4095))),
            Entry("link-middle", .symlink([UInt8](repeating: UInt8(ascii: "m"), count: 3000))),
            Entry("null", .device(0o020000, 1, 3)), Entry("disk", .device(0o060000, 259, 70_000)),
            Entry("fifo", .fifo, 0o600), Entry("socket", .socket),
            Entry("first", .file(Array("linked".utf8))), Entry("dir", .directory, 0o1777),
            Entry("dir/second", .link(Array("first".utf8))), Entry("dir/third", .link(Array("first".utf8))),
            Entry("dir/link-of-link", .symlink(Array("x".utf8))),
            Entry("dir/same", .link(Array("dir/link-of-link".utf8))),
            Entry("!before-dots", .file([5])), Entry(".-", .file([6])), Entry("...", .file([7])),
            Entry("..a", .directory),
            Entry(".a", .file([8])), Entry(bytes: long, .file([9])),
            Entry(bytes: [0xFF, 0xFE, 0x01], .directory), Entry(bytes: binary, .file([10])),
            Entry(
                "attributes", .file([11]),
                attributes: [
                    ("user.one", Array("1".utf8)), ("user.empty", []), ("user.binary", [0, 1, 255]),
                    ("security.capability", [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                    ("user.large", [UInt8](repeating: 3, count: 3000)), ("trusted.other", [9]),
                ]),
            Entry(
                "dir/also", .directory,
                attributes: [("user.one", Array("1".utf8)), ("user.\(String(repeating: "n", count: 249))", [1])]),
            Entry("null/never", .fifo),
        ]
        entries.removeLast()
        for number in 0..<400 { entries.append(Entry("dir/also/file-\(number)", .file([UInt8(number & 255)]))) }
        try checkSame(try Chain([entries]))
    }

    @Test("access lists are shown")
    func accessLists() throws {
        let list: [UInt8] = [
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xE8, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16,
            0, 4, 0, 255,
            255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
        ]
        try checkSame(
            try Chain([
                [
                    Entry("", .directory),
                    Entry("f", .file([1]), 0o644, attributes: [("system.posix_acl_access", list)]),
                    Entry("d", .directory, 0o755, attributes: [("system.posix_acl_default", list)]),
                ]
            ]))
    }

    @Test("whiteouts, opaque directories and what changed its kind are resolved as overlayfs does")
    func chain() throws {
        let root = Entry("", .directory)
        try checkSame(
            try Chain([
                [
                    root, Entry("a", .directory, 0o700, seconds: 5), Entry("a/gone", .file([1])),
                    Entry("a/kept", .file([2])),
                    Entry("a/sub", .directory), Entry("a/sub/deep", .file([3])), Entry("b", .file([4])),
                    Entry("c", .directory), Entry("c/x", .file([5])), Entry("d", .symlink([65])),
                    Entry("e", .directory),
                    Entry("e/old", .file([6])), Entry("linked", .file([7])), Entry("links", .directory),
                    Entry("links/one", .link(Array("linked".utf8))),
                ],
                [
                    root, Entry("a", .directory, 0o711, seconds: 9), Entry("a/gone", .whiteout),
                    Entry("a/sub", .opaqueDirectory), Entry("a/sub/new", .file([8])), Entry("b", .directory),
                    Entry("b/in", .file([9])), Entry("c", .whiteout), Entry("d", .directory), Entry("d/y", .file([10])),
                    Entry("e", .file([11])), Entry("links", .directory), Entry("links/one", .whiteout),
                ],
                [
                    Entry("", .directory, 0o500, uid: 9), Entry("c", .directory), Entry("c/z", .file([12])),
                    Entry("e", .directory), Entry("e/new", .file([13])), Entry("nothing", .whiteout),
                    Entry("a", .directory), Entry("a/sub", .directory), Entry("a/sub/newer", .file([14])),
                ],
            ]))
    }

    @Test("chains of twelve layers made by chance are resolved as overlayfs does", arguments: 0..<6)
    func byChance(_ seed: Int) throws {
        var random = Generator(state: UInt64(seed) &* 7919 &+ 17)
        var layers: [[Entry]] = []
        for _ in 0..<12 {
            var entries = [Entry("", .directory)]
            var directories = [""]
            var files: [String] = []
            var taken: Set<String> = [""]
            for _ in 0..<40 {
                let parent = directories[Int(random.next() % UInt64(directories.count))]
                let name = "n\(random.next() % 7)"
                let path = parent.isEmpty ? name : "\(parent)/\(name)"
                guard taken.insert(path).inserted else { continue }
                switch random.next() % 10 {
                case 0, 1, 2, 3:
                    directories.append(path)
                    entries.append(
                        Entry(
                            path, random.next() % 5 == 0 ? .opaqueDirectory : .directory,
                            seconds: Int64(random.next() % 1000)))
                case 4, 5: entries.append(Entry(path, .whiteout))
                case 6 where !files.isEmpty: entries.append(Entry(path, .link(Array(files[0].utf8))))
                case 7: entries.append(Entry(path, .symlink(Array("t\(random.next() % 50)".utf8))))
                default:
                    files.append(path)
                    entries.append(Entry(path, .file([UInt8(random.next() & 255)]), uid: UInt32(random.next() % 3)))
                }
            }
            layers.append(entries)
        }
        try checkSame(try Chain(layers))
    }

    private struct Generator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state >> 33
        }
    }

    @Test("a loop device serves as well, and is gone with the mount")
    func loop() throws {
        let chain = try Chain([[Entry("", .directory), Entry("f", .file([1, 2, 3]))]])
        try chain.write()
        let device = try chain.mountSealed(.init(backing: .loop, saysMetacopy: true, form: .overlay))
        #expect(device.hasPrefix("loop") && SealedMount.isAlive(device))
        #expect(try readFile("\(chain.directory)/sealed/f") == [1, 2, 3])
        try Mount.unmount("\(chain.directory)/sealed")
        #expect(!SealedMount.isAlive(device))
        #expect(try !run("losetup", ["-a"]).text.contains(chain.directory))
    }

    @Test("the kernel's own mount of the image is taken away, and its name says when nobody needs it")
    func alive() throws {
        let chain = try Chain([[Entry("", .directory), Entry("f", .file([1, 2, 3]))]])
        try chain.write()
        let device = try chain.mountSealed()
        #expect(try !Mount.all().contains { $0.directory == "\(chain.directory)/names" })
        // A container's overlay keeps it, even if the chain's own mount is gone.
        try Mount.mount(
            type: "overlay", source: "lamina-test", at: "\(chain.directory)/plain", flags: .readOnly,
            data: "lowerdir=sealed:work", relativeTo: chain.directory)
        try Mount.unmount("\(chain.directory)/sealed")
        #expect(SealedMount.isAlive(device))
        #expect(try readFile("\(chain.directory)/plain/f") == [1, 2, 3])
        try Mount.unmount("\(chain.directory)/plain")
        #expect(!SealedMount.isAlive(device))
    }

    @Test(
        "the image alone is mounted for an overlay that has the contents beneath, and what is changed there is a whole file"
    )
    func imageAlone() throws {
        let bytes = [UInt8](repeating: 7, count: 100_000)
        let chain = try Chain([[Entry("", .directory), Entry("f", .file(bytes)), Entry("g", .file([1, 2, 3]))]])
        try chain.write()
        let form = SealedMount.Form.names
        let device = try chain.mountSealed(.init(backing: .file, saysMetacopy: false, form: form))
        let mounted = try #require(Mount.all().last { $0.directory == "\(chain.directory)/sealed" })
        #expect(SealedMount.form(of: mounted) == form)
        #expect(try !Mount.all().contains { $0.directory == "\(chain.directory)/names" })
        for name in ["upper", "upper-work"] { try createDirectories("\(chain.directory)/\(name)") }
        let target = "\(chain.directory)/plain"
        try Mount.mount(
            type: "overlay", source: "lamina-test", at: target,
            data:
                "lowerdir=\(form.lower(directory: "sealed", content: "content")),upperdir=upper,workdir=upper-work,index=off",
            relativeTo: chain.directory)
        #expect(try readFile(target + "/f") == bytes)
        #expect(try readFile(target + "/g") == [1, 2, 3])
        #expect(chmod(target + "/f", 0o600) == 0)
        #expect(try readFile("\(chain.directory)/upper/f") == bytes)
        #expect(
            try run(
                "getfattr", ["-m", "trusted.overlay.metacopy|trusted.overlay.redirect", "\(chain.directory)/upper/f"]
            )
            .text.isEmpty)
        // The overlay keeps the image, also when the chain's own mount is gone.
        try Mount.unmount("\(chain.directory)/sealed")
        #expect(SealedMount.isAlive(device))
        #expect(try readFile(target + "/g") == [1, 2, 3])
        try Mount.unmount(target)
        #expect(!SealedMount.isAlive(device))
    }

    @Test("this machine's best way is one overlay, and the trial leaves nothing behind")
    func trial() throws {
        let chain = try Chain([[Entry("", .directory)]])
        guard case .works(let way) = SealTrial.run(in: chain.directory + "/trial") else {
            Issue.record("no sealed chain can be mounted here")
            return
        }
        // Linux 6.16 follows an image to the contents unasked.
        #expect(way.form == (way.saysMetacopy ? .overlay : .names))
        #expect(access(chain.directory + "/trial", F_OK) != 0)
        #expect(try !Mount.all().contains { $0.directory.hasPrefix(chain.directory) })
    }

    @Test("a content that is missing is an error, not a hole")
    func missing() throws {
        let chain = try Chain([[Entry("", .directory), Entry("f", .file([1, 2, 3]))]])
        try chain.write()
        unlink("\(chain.directory)/content/c1/content-1")
        try chain.mountSealed()
        #expect(throws: SystemError.self) { try readFile("\(chain.directory)/sealed/f") }
    }

    @Test("a directory of a million entries is listed and looked up in")
    func million() throws {
        var rows = ChainRows()
        let count = 1_000_000
        let root = SealedInode(
            mode: 0o040755, uid: 0, gid: 0, linkCount: 2, device: 0, size: 0, seconds: 1, nanoseconds: 0)
        let fifo = SealedInode(
            mode: 0o010644, uid: 0, gid: 0, linkCount: 1, device: 0, size: 0, seconds: 1, nanoseconds: 0)
        try rows.addInode(1, root, bytes: nil)
        for number in 0..<count { try rows.addInode(Int64(2 + number), fifo, bytes: nil) }
        func name(_ number: Int) -> String { String(number + 10_000_000) }
        for number in 0..<count {
            try Array(name(number).utf8).withUnsafeBytes {
                try rows.addEntry(parent: 1, name: $0, inode: Int64(2 + number))
            }
        }
        let chain = try Chain([[Entry("", .directory)]])
        var options = SealedImage.Options(identity: Chain.identity)
        options.sharesNamePrefix = false
        let image = try SealedImage(rows, roots: [1], options: options)
        let fd = open("\(chain.directory)/image", O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0o644)
        try image.write { _ = Glibc.write(fd, $0.baseAddress, $0.count) }
        close(fd)
        #expect(try run("fsck.erofs", ["\(chain.directory)/image"]).status == 0)
        try chain.mountSealed()
        let listed = try names(in: Array("\(chain.directory)/sealed".utf8CString))
        #expect(
            listed.count == count && listed.first == Array(name(0).utf8) && listed.last == Array(name(count - 1).utf8))
        var status = stat()
        for number in [0, 1, 499_999, count - 1] {
            #expect(lstat("\(chain.directory)/sealed/\(name(number))", &status) == 0)
        }
        #expect(lstat("\(chain.directory)/sealed/10999999x", &status) != 0)
    }

    @Test("the same chain gives the same bytes, whatever its rows are numbered")
    func reproducible() throws {
        let layer = [
            Entry("", .directory), Entry("a", .directory), Entry("a/f", .file([1]), attributes: [("user.x", [1])]),
            Entry("a/g", .link(Array("a/f".utf8))), Entry("b", .file([2])),
        ]
        let first = try Chain([layer, [Entry("", .directory), Entry("b", .whiteout)]])
        try first.write()
        try first.write(to: "again")
        let second = try Chain([layer + [], [Entry("", .directory), Entry("b", .whiteout)]])
        try second.write()
        let image = try readFile("\(first.directory)/image")
        #expect(try image == readFile("\(first.directory)/again"))
        #expect(try image == readFile("\(second.directory)/image"))
    }

    @Test("200,000 files take at most 160 bytes each, and in a release build no second")
    func size() throws {
        var rows = ChainRows()
        let (count, directories) = (200_000, 10_000)
        func inode(_ mode: UInt32, _ size: Int64) -> SealedInode {
            SealedInode(
                mode: mode, uid: 0, gid: 0, linkCount: 1, device: 0, size: size, seconds: 1_700_000_000, nanoseconds: 0)
        }
        let path = Array(("ab/" + String(repeating: "ab", count: 32)).utf8)
        let start = ContinuousClock.now
        try rows.addInode(1, inode(0o040755, 0), bytes: nil)
        for number in 0..<directories { try rows.addInode(Int64(2 + number), inode(0o040755, 0), bytes: nil) }
        try path.withUnsafeBytes {
            for number in 0..<count {
                try rows.addInode(Int64(2 + directories + number), inode(0o100644, 5000), bytes: $0)
            }
        }
        for number in 0..<directories {
            try Array("directory-\(number + 10_000)".utf8).withUnsafeBytes {
                try rows.addEntry(parent: 1, name: $0, inode: Int64(2 + number))
            }
        }
        for number in 0..<count {
            try Array("file-\(number + 100_000)".utf8).withUnsafeBytes {
                try rows.addEntry(
                    parent: Int64(2 + number / 20), name: $0, inode: Int64(2 + directories + number))
            }
        }
        let image = try SealedImage(rows, roots: [1], options: .init(identity: Chain.identity))
        var written = 0
        try image.write { written += $0.count }
        let seconds = (ContinuousClock.now - start) / .seconds(1)
        #expect(written == image.size && image.inodeCount == count + directories + 1)
        #expect(image.size / count <= 160, "\(image.size / count) bytes a file")
        #if !DEBUG
            #expect(seconds <= 1, "\(seconds) s")
        #endif
    }

    @Test("what EROFS cannot show is refused")
    func refused() throws {
        func error(_ attributes: [(name: String, value: [UInt8])]) throws -> SealError.Code? {
            var rows = ChainRows()
            let file = SealedInode(
                mode: 0o040755, uid: 0, gid: 0, linkCount: 1, device: 0, size: 0, seconds: 1, nanoseconds: 0)
            try rows.addInode(1, file, bytes: nil)
            for (name, value) in attributes {
                try Array(name.utf8).withUnsafeBytes { name in
                    try value.withUnsafeBytes { try rows.addAttribute(inode: 1, name: name, value: $0) }
                }
            }
            do {
                _ = try SealedImage(rows, roots: [1], options: .init(identity: Chain.identity))
                return nil
            } catch {
                return error.code
            }
        }
        #expect(try error([("user.a", [1])]) == nil)
        #expect(try error([("system.other", [1])]) == .unsupported)
        #expect(try error([("nothing", [1])]) == .unsupported)
        #expect(try error([("user.a", [UInt8](repeating: 1, count: 65536))]) == .unsupported)
        #expect(try error((0..<300).map { ("user.\($0)", [1]) }) == .unsupported)
    }

    @Test("rows that contradict themselves are refused, also a directory that is in itself")
    func damaged() throws {
        let directory = SealedInode(
            mode: 0o040755, uid: 0, gid: 0, linkCount: 1, device: 0, size: 0, seconds: 1, nanoseconds: 0)
        var rows = ChainRows()
        try rows.addInode(1, directory, bytes: nil)
        try rows.addInode(2, directory, bytes: nil)
        #expect(throws: SealError.self) { try rows.addInode(2, directory, bytes: nil) }
        let name = Array("d".utf8)
        try name.withUnsafeBytes { name in
            try rows.addEntry(parent: 1, name: name, inode: 2)
            #expect(throws: SealError.self) { try rows.addEntry(parent: 2, name: name, inode: 7) }
            try rows.addEntry(parent: 2, name: name, inode: 1)
        }
        #expect(throws: SealError.self) { try SealedImage(rows, roots: [1], options: .init(identity: Chain.identity)) }
    }
}

@Suite("whether sealed chains can be mounted is tried", .serialized, Requirements.met)
struct SealTrialTests {
    @Test("a trial on this machine's disk works, and leaves nothing")
    func works() throws {
        let directory = "/tmp/lamina-trial-\(UUID().uuidString)"
        let outcome = SealTrial.run(in: directory)
        guard case .works = outcome else {
            Issue.record("\(outcome)")
            return
        }
        #expect(access(directory, F_OK) != 0)
        #expect(try !Mount.all().contains { $0.source == "lamina-trial" })
    }

    @Test("on an overlay the overlay of a container is one too many, and the trial says so")
    func onOverlay() throws {
        let base = "/tmp/lamina-trial-\(UUID().uuidString)"
        for name in ["lower", "upper", "work", "merged"] { try createDirectories("\(base)/\(name)") }
        defer { try? DirectoryTree.remove(base) }
        try Mount.mount(
            type: "overlay", source: "lamina-test", at: "\(base)/merged",
            data: "lowerdir=\(base)/lower,upperdir=\(base)/upper,workdir=\(base)/work")
        defer { try? Mount.unmount("\(base)/merged", detach: true) }
        guard case .fails(let reason) = SealTrial.run(in: "\(base)/merged/trial") else {
            Issue.record("it works on an overlay")
            return
        }
        #expect(reason.contains("above a sealed chain") || reason.contains("cannot be mounted"), "\(reason)")
    }
}
