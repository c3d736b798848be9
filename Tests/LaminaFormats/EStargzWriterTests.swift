import Foundation
import LaminaDigest
import LaminaFormats
import LaminaTestSupport
import Testing

@Suite("eStargz writer")
struct EStargzWriterTests {
    static func write(
        _ files: [TarFile], chunkSize: Int = 64 << 10, level: Int = 6, threads: Int = 2, pieceSize: Int = 10_000
    ) throws -> (blob: [UInt8], result: LayerWriter.Result) {
        var options = LayerWriter.Options()
        options.chunkSize = chunkSize
        options.level = level
        options.threads = threads
        var blob: [UInt8] = []
        let writer = try LayerWriter(options: options) { blob.append(contentsOf: $0) }
        try writer.append(LayerWriter.Landmark.noPrefetch)
        for file in files {
            try writer.append(file.header)
            try file.payload.withUnsafeBytes { bytes in
                var start = 0
                while start < bytes.count {
                    let end = min(bytes.count, start + pieceSize)
                    try writer.write(UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
                    start = end
                }
            }
        }
        let result = try writer.finish()
        return (blob, result)
    }

    /// Files of sizes around the chunks' boundaries, many small ones, and everything of the tar tests.
    static let tree: [TarFile] = {
        var numbers = SeededNumbers(state: 7)
        var files = TarReaderTests.rich
        for size in [1, 511, 512, 513, 65_535, 65_536, 65_537, 131_072, 131_073, 400_000] {
            files.append(.file("sizes/\(size)", numbers.bytes(size)))
        }
        files.append(.file("zeros", [UInt8](repeating: 0, count: 300_000)))
        for index in 0..<500 { files.append(.file("many/\(index)", numbers.bytes(index % 40))) }
        return files
    }()

    /// Reads a blob as the specification says, only with Python's zlib and json: footer, TOC, and each chunk by itself.
    static let checker = """
        import sys, json, zlib, hashlib, tarfile, gzip, io
        blob = open(sys.argv[1], 'rb').read()
        foot = blob[-51:]
        assert foot[:16] == bytes.fromhex('1f8b08040000000000ff1a0053471600'), foot.hex()
        assert foot[32:] == b'STARGZ\\x01\\0\\0\\xff\\xff' + bytes(8), foot.hex()
        at = int(foot[16:32], 16)
        toc = tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob[at:-51])))
        member = toc.next(); assert member.name == 'stargz.index.json'
        text = toc.extractfile(member).read()
        doc = json.loads(text.decode('utf-8', 'surrogateescape')); assert doc['version'] == 1
        sha = lambda b: 'sha256:' + hashlib.sha256(b).hexdigest()
        files, name = {}, None
        for e in doc['entries']:
            if e['type'] == 'reg': files[e['name']] = b''; name = e; size = e.get('size', 0)
            if e['type'] == 'chunk': assert e['name'] == name['name']
            if e['type'] in ('reg', 'chunk') and (size > 0):
                have = e.get('chunkOffset', 0); assert have == len(files[name['name']])
                want = e.get('chunkSize', 0) or size - have
                assert blob[e['offset']:e['offset'] + 10] == bytes([0x1f,0x8b,8,0,0,0,0,0,blob[e['offset']+8],255])
                d = zlib.decompressobj(31); part = d.decompress(blob[e['offset']:at], want)
                assert len(part) == want, (e, len(part)); assert sha(part) == e['chunkDigest'], e
                files[name['name']] += part
                if len(files[name['name']]) == size: assert sha(files[name['name']]) == name['digest']
            elif e['type'] == 'reg': assert e['digest'] == sha(b'') and 'offset' not in e
        tar = gzip.decompress(blob)
        names = [m.name for m in tarfile.open(fileobj=io.BytesIO(tar), errors='surrogateescape')]
        assert names[-1] == 'stargz.index.json'
        print(len(doc['entries']), len(files), sha(text), sha(tar), sha(blob), len(blob), len(tar), sep='\\n')
        """

    @Test(
        "the blob is what the specification says: footer, TOC, chunks and digests",
        arguments: [
            (4 << 10, 6), (64 << 10, 1), (4 << 20, 6), (64 << 10, 0), (64 << 10, 12),
        ])
    func conforms(chunkSize: Int, level: Int) throws {
        let scratch = Scratch()
        let (blob, result) = try Self.write(Self.tree, chunkSize: chunkSize, level: level)
        let path = try scratch.write(blob, to: "layer.tar.gz")
        let lines = try run("python3", "-c", Self.checker, path).split(separator: "\n").map(String.init)
        #expect(lines[2] == result.tocDigest.description)
        #expect(lines[3] == result.diffID.description)
        #expect(lines[4] == result.blobDigest.description)
        #expect(lines[5] == "\(result.blobSize)")
        #expect(lines[6] == "\(result.uncompressedSize)")
        try run("gzip", "-t", path)
        #expect(try run("tar", "-tzf", path).hasSuffix("stargz.index.json\n"))
    }

    @Test("the tar inside has the entries as they were given")
    func keepsEntries() throws {
        let (blob, result) = try Self.write(Self.tree)
        var tar: [UInt8] = []
        let decompressor = try StreamDecompressor(.gzip)
        try blob.withUnsafeBytes { try decompressor.push($0) { tar.append(contentsOf: $0) } }
        try decompressor.finish()
        #expect(SHA256.hash(tar) == result.diffID)
        #expect(try Array(readTar(tar).dropFirst().dropLast()) == Self.tree)
    }

    @Test("any number of threads and any pieces give the same bytes", arguments: [1, 2, 3, 8])
    func deterministic(threads: Int) throws {
        let reference = try Self.write(Self.tree, threads: 1)
        for pieceSize in [1 << 20, 4_097] {
            let other = try Self.write(Self.tree, threads: threads, pieceSize: pieceSize)
            #expect(other.blob == reference.blob)
            #expect(other.result == reference.result)
        }
    }

    @Test("GNU tar unpacks the blob to the same tree")
    func unpacks() throws {
        let scratch = Scratch()
        try run(
            "sh", "-c",
            "cd '\(scratch.path)' && mkdir -p s/d out && printf x > s/d/one && head -c 200000 /dev/urandom > s/big "
                + "&& ln s/big s/d/hard && ln -s ../big s/d/soft && mkfifo s/pipe && touch s/empty && chmod 4711 s/big "
                + "&& touch -d @1600000000.5 s/d/one && tar --format=pax -cf in.tar -C s .")
        let tar = try [UInt8](Data(contentsOf: URL(fileURLWithPath: scratch.path + "/in.tar")))
        _ = try scratch.write(Self.write(readTar(tar)).blob, to: "out.tgz")
        try run(
            "sh", "-c",
            "cd '\(scratch.path)' && tar -xpf out.tgz -C out && rm -f out/.no.prefetch.landmark out/stargz.index.json "
                + "&& for d in s out; do (cd $d && find . -type f -exec sha256sum {} + | sort && "
                + "find . ! -name . -printf '%p %y %m %n %s %T@ %l\\n' | sort) > $d.txt; done && cmp s.txt out.txt")
    }

    @Test("a layer without entries is whole, too")
    func empty() throws {
        let scratch = Scratch()
        let path = try scratch.write(Self.write([]).blob, to: "empty")
        #expect(try run("python3", "-c", Self.checker, path).hasPrefix("1\n1\n"))
    }

    @Test("a million headers in a row are cut into members of bounded size")
    func longRuns() throws {
        let files = (0..<3000).map { TarFile.directory("directory-\($0)/") } + [.file("z", [1])]
        let scratch = Scratch()
        let path = try scratch.write(Self.write(files).blob, to: "run")
        let sizes = try run(
            "python3", "-c",
            """
            import sys, zlib
            b = open(sys.argv[1], 'rb').read()
            while b:
                d = zlib.decompressobj(31); print(len(d.decompress(b))); b = d.unused_data
            """, path
        ).split(separator: "\n").compactMap { Int($0) }
        // The landmark's header, four runs, the last file, the TOC, the footer.
        #expect(sizes.dropLast(2).allSatisfy { $0 <= 258 << 10 })
        #expect(sizes.filter { $0 > 250 << 10 }.count >= 5)
        _ = try run("python3", "-c", Self.checker, path)
    }

    @Test("a wrong payload, a reserved name and options out of range are errors")
    func refuses() throws {
        let writer = try LayerWriter { _ in }
        try writer.append(TarFile.file("short", [1, 2]).header)
        let missing = #expect(throws: FormatError.self) { try writer.append(TarFile.file("next", []).header) }
        #expect(missing?.entry == "short")
        #expect(throws: FormatError.self) { try writer.finish() }

        let other = try LayerWriter { _ in }
        try other.append(TarFile.file("long", []).header)
        #expect(throws: FormatError.self) { try withUnsafeBytes(of: 1) { try other.write($0) } }
        let reserved = try LayerWriter { _ in }
        #expect(throws: FormatError.self) { try reserved.append(TarFile.file("./stargz.index.json", []).header) }

        struct Full: Error {}
        let full = try LayerWriter { _ in throw Full() }
        try full.append(LayerWriter.Landmark.prefetch)
        #expect(throws: Full.self) { try full.finish() }

        var options = LayerWriter.Options()
        options.chunkSize = 100
        #expect(throws: FormatError.self) { try LayerWriter(options: options) { _ in } }
        options.chunkSize = 4096
        options.level = 13
        #expect(throws: FormatError.self) { try LayerWriter(options: options) { _ in } }
    }
}

@Suite("eStargz writer: table of contents")
struct EStargzWriterTOCTests {
    /// The TOC's entries by name, without chunks.
    static func toc(_ files: [TarFile], chunkSize: Int = 4096) throws -> [String: [String: Any]] {
        let blob = try EStargzWriterTests.write(files, chunkSize: chunkSize).blob
        let scratch = Scratch()
        let path = try scratch.write(blob, to: "layer")
        let text = try run(
            "sh", "-c",
            "tar -xzOf '\(path)' stargz.index.json && python3 - '\(path)' <<'X' >&2\n\(EStargzWriterTests.checker)\nX\n"
        )
        let json = text.prefix(through: text.range(of: "\n]}")?.upperBound ?? text.startIndex).dropLast()
        let document = try #require(try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any])
        let entries = try #require(document["entries"] as? [[String: Any]])
        let named = entries.filter { $0["type"] as? String != "chunk" }.compactMap { entry in
            (entry["name"] as? String).map { ($0, entry) }
        }
        return Dictionary(uniqueKeysWithValues: named)
    }

    @Test("times, owners, devices and attributes are said as the reference writer says them")
    func fields() throws {
        let toc = try Self.toc(TarReaderTests.rich)
        let owned = try #require(toc["owned"])
        #expect(owned["uid"] as? Int == 4_000_000_000 && owned["userName"] as? String == "user")
        #expect((owned["xattrs"] as? [String: String]) == ["security.capability": "AQAAAv8KAA==", "user.empty": ""])
        #expect(toc["a"]?["modtime"] as? String == "2023-11-14T22:13:20Z")
        #expect(toc["dev/sda"]?["modtime"] as? String == "1969-12-31T23:59:58Z")
        #expect(toc["old"]?["modtime"] as? String == "1938-04-24T22:13:20Z")
        #expect(toc["fifo"]?["modtime"] as? String == "1970-01-01T00:00:00Z")
        #expect(toc["dev/sda"]?["devMinor"] as? Int == 1_000_000)
        #expect(toc["link"]?["linkName"] as? String == "a" && toc["link"]?["type"] as? String == "hardlink")
        #expect(toc["fifo"]?["mode"] as? Int == 0o6777)
        // The name's bytes themselves, which this test's own reader replaces.
        #expect(toc["\u{FFFD}\u{FFFD}\n\u{FFFD}"] != nil)
    }

    @Test("a replaced entry is left out, with everything below a replaced directory")
    func replaced() throws {
        let toc = try Self.toc([
            .file("a", Array("old".utf8)), .directory("d/"), .file("d/in", [1]), .file("./a", Array("newer".utf8)),
            .file("d", Array("now a file".utf8)), .file("e", [1]), .directory("e/"), .file("e/in", [2, 3]),
        ])
        #expect(Set(toc.keys) == [".no.prefetch.landmark", "./a", "d", "e/", "e/in"])
        #expect(toc["./a"]?["size"] as? Int == 5)
    }

    @Test("a hard link to a file that was replaced afterwards keeps the old file, and a second one shares it")
    func links() throws {
        let old = [UInt8](repeating: 7, count: 9000)
        let toc = try Self.toc([
            .file("a", old), .link("first", to: "a"), .link("second", to: "./a"), .link("third", to: "first"),
            .file("a", [1]), .link("fourth", to: "a"), .link("fifth", to: "second"),
        ])
        #expect(toc["first"]?["type"] as? String == "reg" && toc["first"]?["size"] as? Int == 9000)
        #expect(toc["second"]?["linkName"] as? String == "first")
        #expect(toc["third"]?["linkName"] as? String == "first")
        #expect(toc["fourth"]?["linkName"] as? String == "a")
        #expect(toc["fifth"]?["linkName"] as? String == "second")
        #expect(toc["a"]?["size"] as? Int == 1)
    }
}
