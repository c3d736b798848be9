import Foundation
import LaminaConvert
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaTestSupport
import Testing

@Suite("convert directories and tars")
struct TreeConversionTests {
    /// A tree with everything that Linux has; needs root.
    static let tree = """
        mkdir -p s/d/sub s/d.x s/$(printf 'd/%.0s' $(seq 40)) && cd s
        printf hello > d/file; ln d/file d.x/hard; ln -s ../d/file d/soft; ln -s /nowhere dangling; mkfifo pipe
        mknod null c 1 3; mknod disk b 259 70000; touch empty; head -c 200001 /dev/urandom > big; chmod 4711 big
        head -c 65536 /dev/zero > edge; touch "$(printf 'n%.0s' $(seq 255))"; printf x > "$(printf 'raw\\377\\nx')"
        chown 1000:70000 d/file; chmod 1777 d/sub; python3 - <<'X'
        import os
        os.setxattr('big', 'user.any', bytes(range(256))); os.setxattr('d', 'user.empty', b'')
        os.setxattr('dangling', 'trusted.link', b'x', follow_symlinks=False)
        X
        find . -exec touch -h -d @1600000000.123456789 {} +; cd ..
        """

    /// Compares a tree and its copy with Python.
    static let compare = """
        import os, sys, stat
        def walk(root):
            out, groups = {}, {}
            root = os.fsencode(root)
            for base, dirs, files in os.walk(root):
                for name in [b'.'] + dirs + files if base == root else dirs + files:
                    p = os.path.join(base, name); s = os.lstat(p); m = s.st_mode
                    if name in (b'stargz.index.json', b'.no.prefetch.landmark', b'.prefetch.landmark'): continue
                    e = [oct(m), s.st_uid, s.st_gid, s.st_rdev, s.st_mtime_ns if name != b'.' else 0]
                    if stat.S_ISREG(m): e += [open(p, 'rb').read(), s.st_nlink]
                    if stat.S_ISLNK(m): e += [os.readlink(p)]
                    if s.st_nlink > 1 and not stat.S_ISDIR(m): groups.setdefault(s.st_ino, []).append(os.path.relpath(p, root))
                    e += sorted((k, os.getxattr(p, k, follow_symlinks=False)) for k in os.listxattr(p, follow_symlinks=False))
                    out[os.path.relpath(p, root)] = e
            return out, sorted(sorted(g) for g in groups.values())
        a, b = walk(sys.argv[1]), walk(sys.argv[2])
        for k in set(a[0]) | set(b[0]):
            if a[0].get(k) != b[0].get(k): print(k, str(a[0].get(k))[:200], str(b[0].get(k))[:200]); 
        assert a == b
        """

    private func unpackAndCompare(_ scratch: Scratch, _ image: ConvertedImage) throws {
        let blob = "out/blobs/sha256/\(image.layers[0].descriptor.digest.hex)"
        try scratch.sh(
            "mkdir copy && tar --xattrs --xattrs-include='*' -xpzf \(blob) -C copy && python3 - s copy <<'X'\n\(Self.compare)\nX\n"
        )
    }

    @Test(
        "a directory becomes a layer that GNU tar unpacks to the same tree, names and attributes of any bytes included")
    func directory() throws {
        let scratch = Scratch()
        try scratch.sh(Self.tree)
        let image = try scratch.convert("dir:\(scratch.path)/s")
        try unpackAndCompare(scratch, image)
        let words = try describe(scratch.blob(image.layers[0].descriptor.digest))
        #expect(words["/d/file"] == words["/d.x/hard"] && words["/d/file"]?.contains("1000:70000") == true)
        #expect(words["/raw%ff\nx"] != nil)
        #expect(words["/big"]?.contains("user.any=\(Array(0...255))") == true)
        #expect(words["/" + Array(repeating: "d", count: 41).joined(separator: "/")] == nil)
        #expect(words["/" + Array(repeating: "d", count: 40).joined(separator: "/")] != nil)
        let names = try names(scratch.blob(image.layers[0].descriptor.digest))
        #expect(Array(names.prefix(2)) == [".no.prefetch.landmark", "./"])
        let own = names.dropFirst(2).dropLast().filter { !$0.hasPrefix("raw") }
        #expect(own.elementsEqual(own.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }))
    }

    @Test("a tree gives the same bytes from wherever it is read, and by tar")
    func deterministic() throws {
        let scratch = Scratch()
        try scratch.sh(Self.tree + "\ncp -a s other")
        let first = try scratch.convert("dir:\(scratch.path)/s", tag: "a", threads: 1)
        #expect(try scratch.convert("dir:\(scratch.path)/s", tag: "b", threads: 3) == first)
        let moved = try scratch.convert("dir:\(scratch.path)/other", tag: "c")
        #expect(moved == first)
    }

    @Test(
        "a tar, plain or compressed under any name, becomes a layer with the same tree",
        arguments: ["cat", "gzip -c", "zstd -qc"])
    func tar(compress: String) throws {
        let scratch = Scratch()
        try scratch.sh(
            Self.tree
                + "\ntar --format=pax --xattrs --xattrs-include='*' -cf in.tar -C s . && \(compress) in.tar > in.bin")
        let image = try scratch.convert("tar:\(scratch.path)/in.bin")
        try unpackAndCompare(scratch, image)
        // Through the spool, reordered, to the same tree.
        let first = try scratch.convert("tar:\(scratch.path)/in.bin", tag: "first", first: ["d.x/hard", "big"])
        #expect(
            try describe(scratch.blob(first.layers[0].descriptor.digest))
                == describe(scratch.blob(image.layers[0].descriptor.digest)))
    }

    @Test("prioritized files of a directory come first")
    func prioritized() throws {
        let scratch = Scratch()
        try scratch.sh(Self.tree)
        let image = try scratch.convert("dir:\(scratch.path)/s", first: ["d/file", "empty"])
        let order = try names(scratch.blob(image.layers[0].descriptor.digest))
        #expect(Array(order.prefix(5)) == ["./", "d/", "d/file", "empty", ".prefetch.landmark"])
        #expect(order.filter { $0 == "d/file" }.count == 1)
        // Not by GNU tar, which sets a directory's time when it leaves it, too early for one that it comes back to.
        let plain = try scratch.convert("dir:\(scratch.path)/s", tag: "plain")
        #expect(
            try describe(scratch.blob(image.layers[0].descriptor.digest))
                == describe(scratch.blob(plain.layers[0].descriptor.digest)))
        let error = #expect(throws: ConvertError.self) {
            try scratch.convert("dir:\(scratch.path)/s", first: ["d/none"])
        }
        #expect(error?.code == .noSuchFile)
    }

    @Test("the config says the platform, and the time only where one is given")
    func config() throws {
        let scratch = Scratch()
        try scratch.sh("mkdir s && touch s/a")
        func text(_ image: ConvertedImage) throws -> String {
            String(decoding: try scratch.blob(image.config.digest), as: UTF8.self)
        }
        let plain = try scratch.convert("dir:\(scratch.path)/s")
        #expect(try !text(plain).contains("\"created\""))
        let other = try scratch.convert("dir:\(scratch.path)/s", tag: "y") {
            $0.platform = .init(os: "linux", architecture: "arm64")
            $0.created = 1_700_000_000
        }
        #expect(try text(other).contains("\"created\":\"2023-11-14T22:13:20Z\"") && text(other).contains("\"arm64\""))
    }

    @Test("sockets and reserved names are left out with a warning")
    func warnings() throws {
        let scratch = Scratch()
        try scratch.sh(
            "mkdir s && cd s && touch stargz.index.json a && python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('socket')\""
        )
        var warnings: [String] = []
        let image = try scratch.convert("dir:\(scratch.path)/s", warning: { warnings.append($0) })
        #expect(warnings.count == 2 && warnings.contains { $0.contains("socket") })
        #expect(try describe(scratch.blob(image.layers[0].descriptor.digest)).keys.sorted() == ["/", "/a"])
    }

    @Test(
        "a file that changes, grows or vanishes while it is read is an error that names it",
        arguments: [
            "truncate -s 100 s/b", "rm s/b", "printf x >> s/b", "touch -d @1 s/b", "mv s/a s/b",
        ])
    func changes(script: String) throws {
        let scratch = Scratch()
        try scratch.sh("mkdir s && head -c 3000000 /dev/urandom > s/a && head -c 3000000 /dev/urandom > s/b")
        var done = false
        let error = #expect(throws: ConvertError.self) {
            try scratch.convert(
                "dir:\(scratch.path)/s",
                progress: { progress in
                    // In the middle of the second file, or before it for what replaces it.
                    if progress.bytesDone > (script.hasPrefix("rm") || script.hasPrefix("mv") ? 1_000_000 : 4_000_000),
                        !done
                    {
                        done = true
                        do { try scratch.sh(script) } catch { Issue.record(error) }
                    }
                })
        }
        #expect(
            done && error?.code == .changed && error?.message.contains("/s/") == true, "\(String(describing: error))")
        #expect(try scratch.sh("ls") == "s\n")
    }

    @Test("an image is not written into the directory that it is made of")
    func recursive() throws {
        let scratch = Scratch()
        let error = #expect(throws: ConvertError.self) { try scratch.convert("dir:\(scratch.path)") }
        #expect(error?.code == .badReference)
        #expect(try scratch.sh("ls -A") == "")
    }

    @Test(
        "damaged and hostile tars are refused, name the entry, and leave nothing",
        arguments: [
            ("head -c 700 in.tar", "cut short"), ("head -c 100 /dev/urandom", "cut short"),
            ("gzip -c in.tar | head -c 150", "cut off"),
            (
                "python3 -c \"import tarfile,sys; t=tarfile.open(fileobj=sys.stdout.buffer,mode='w|'); [t.addfile(tarfile.TarInfo(n)) for n in ('a', 'a/../a/b')]\"",
                "a/../a/b"
            ), ("xz -c in.tar", "compressed by xz"), ("bzip2 -c in.tar", "compressed by bzip2"),
            // Less than a block of a tar.
            ("tar -c /dev/null 2>/dev/null | xz", "compressed by xz"), ("printf x | bzip2", "compressed by bzip2"),
        ])
    func hostile(script: String, message: String) throws {
        let scratch = Scratch()
        try scratch.sh(
            "mkdir s && head -c 3000 /dev/urandom > s/victim && tar -cf in.tar -C s victim && \(script) > bad")
        for first in [[], ["victim"]] {
            let error = #expect(throws: ConvertError.self) {
                try scratch.convert("tar:\(scratch.path)/bad", first: first)
            }
            #expect(
                error?.code == .badSource && error?.description.contains(message) == true,
                "\(String(describing: error))")
            #expect(try scratch.sh("ls -A | tr '\\n' ' '") == "bad in.tar s ")
        }
    }

    @Test("of duplicates the last wins, and a hard link keeps the file that it was made to, spooled or streamed")
    func duplicates() throws {
        let scratch = Scratch()
        try scratch.sh(
            "mkdir s t && printf old > s/a && ln s/a s/link && printf newer > t/a && tar -cf in.tar -C s a link -C ../t a"
        )
        for (tag, first) in [("x", []), ("y", ["link"])] {
            let image = try scratch.convert("tar:\(scratch.path)/in.tar", tag: tag, first: first)
            let words = try describe(scratch.blob(image.layers[0].descriptor.digest))
            #expect(words["/a"]?.contains(SHA256.hash(Array("newer".utf8)).hex) == true)
            #expect(words["/link"]?.contains(SHA256.hash(Array("old".utf8)).hex) == true)
        }
    }
    @Test(
        "names that climb, have no end or lead through links are where an unpacked layer has them, spooled or streamed")
    func odd() throws {
        let scratch = Scratch()
        let make = """
            import io, sys, tarfile
            t = tarfile.open("in.tar", "w")
            def add(name, kind=tarfile.REGTYPE, link=""):
                info = tarfile.TarInfo(name); info.type = kind; info.linkname = link; info.size = 2 if kind == tarfile.REGTYPE else 0
                t.addfile(info, io.BytesIO(b"hi"))
            add("a/../../up"); add(""); add("x/.."); add("usr/lib/", tarfile.DIRTYPE); add("lib", tarfile.SYMTYPE, "usr/lib")
            add("lib/libx.so"); add("hard", tarfile.LNKTYPE, "lib/../lib/libx.so")
            """
        try scratch.sh("python3 -c '\(make)' && gzip -c in.tar > in.gz && printf 'garbage\\0\\0' >> in.gz")
        for (tag, first) in [("x", []), ("y", ["usr/lib/libx.so"])] {
            let image = try scratch.convert("tar:\(scratch.path)/in.gz", tag: tag, first: first)
            let words = try describe(scratch.blob(image.layers[0].descriptor.digest))
            #expect(
                Set(words.keys) == ["/", "/up", "/usr", "/usr/lib", "/lib", "/usr/lib/libx.so", "/hard"],
                "\(words.keys)")
        }
    }
}
