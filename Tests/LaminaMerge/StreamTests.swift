import Glibc
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("a layer without a table of contents")
struct StreamTests {
    @Test("is in the store whole and right after one pass over its blob", arguments: PlainLayer.Writer.allCases)
    func whole(writer: PlainLayer.Writer) throws {
        let fixture = try Fixture()
        let layer = try PlainLayer.mixed()
        let descriptor = try fixture.write(layer, writer)
        try fixture.withEngine { engine in
            let source = ControlledSource(OCILayoutSource(directory: fixture.layout))
            source.behaviour.pieceSize = 100_000
            let id = try fixture.stream(engine, descriptor, layer.diffID, from: source)
            #expect(try engine.store.index.blob(of: id)?.format == Int(writer.format.rawValue))
            #expect(try engine.store.isWholeAndRight())
            #expect(source.sentByteCount == Int(descriptor.size) && source.repeatedByteCount == 0)
            let image = try fixture.index(engine)
            for file in try engine.store.index.files(of: image) where file.type == "file" {
                let bytes = try #require(layer.files[String(file.path.dropFirst())])
                #expect(file.bytes == bytes.count)
                if !bytes.isEmpty { #expect(file.digest == SHA256.hash(bytes).description && file.state == "merged") }
            }
            #expect(try engine.store.index.files(of: image).count { $0.type == "file" } == layer.files.count)
            #expect(try fixture.temporaries() == [])
            // Nothing is left to merge.
            try engine.merge(image)
            #expect(try !engine.store.hasVolatileContent())
        }
        #expect(fixture.reports.withLock { $0 } == [])
    }

    @Test(
        "goes on from its last checkpoint after a process was lost, without reading or hashing anything twice",
        arguments: PlainLayer.Writer.allCases)
    func resumes(writer: PlainLayer.Writer) throws {
        let fixture = try Fixture()
        let layer = try PlainLayer.long.get()
        let descriptor = try fixture.write(layer, writer)
        var sent = 0
        var losses = 0
        while losses < 100 {
            let store = try fixture.openStore()
            let source = ControlledSource(OCILayoutSource(directory: fixture.layout))
            // Each process gets a little further, and ends wherever that is.
            let step = Int(StreamReader.window) + 37_777 * losses
            source.behaviour.allowance = writer == .zstd ? step * (losses + 1) : step
            let done: Bool = try fixture.withEngine(store: store) { engine in
                do {
                    _ = try fixture.stream(engine, descriptor, layer.diffID, from: source) {
                        if source.behaviour.allowance == 0 { source.behaviour.isDown = true }
                        return false
                    }
                    return true
                } catch {
                    #expect(source.behaviour.isDown, "\(error)")
                    return false
                }
            }
            sent += source.sentByteCount
            if done { break }
            #expect(try store.layer(descriptor.digest) == nil)
            losses += 1
        }
        #expect(losses > 1 && losses < 100)
        // One frame of zstd is decompressed from its start each time: there is no place in it to go on from.
        if writer != .zstd {
            #expect(
                sent <= Int(descriptor.size) + losses * (Int(StreamReader.window) + (256 << 10)),
                "\(sent) for \(descriptor.size) in \(losses)")
        }
        try fixture.withEngine { engine in
            #expect(try engine.store.isWholeAndRight())
            let resumed = try engine.store.fileLines(fixture.index(engine))
            let other = try fixture.withEngine(store: fixture.openStore("other")) { other in
                try other.store.fileLines(fixture.index(other))
            }
            #expect(resumed == other)
            #expect(try fixture.temporaries() == [])
        }
    }

    @Test(
        "asks for no more than a checkpoint beyond what is on record, also where nothing compresses",
        arguments: [PlainLayer.Writer.gzip, .tar], [false, true])
    func window(writer: PlainLayer.Writer, isRandom: Bool) throws {
        let fixture = try Fixture()
        let layer = try isRandom ? PlainLayer.random.get() : PlainLayer.long.get()
        let descriptor = try fixture.write(layer, writer)
        try fixture.withEngine { engine in
            let source = ControlledSource(OCILayoutSource(directory: fixture.layout))
            let id = try fixture.stream(engine, descriptor, layer.diffID, from: source)
            let checkpoints = try fixture.checkpoints(engine, id).map(\.blobOffset)
            #expect(checkpoints.count > 3)
            for read in source.reads {
                // At the time of a request no checkpoint beyond its beginning was recorded.
                let recorded = checkpoints.last { $0 <= read.range.lowerBound } ?? 0
                #expect(read.range.upperBound <= recorded + StreamReader.spacing)
            }
            #expect(source.reads.map(\.range.lowerBound) == [0] + source.reads.dropLast().map(\.range.upperBound))
        }
    }

    @Test("waits with an evicted file while too much that has landed is not on record")
    func heldUp() throws {
        let fixture = try Fixture()
        let layer = try PlainLayer.mixed()
        _ = try fixture.write(layer, .gzip)
        try fixture.withEngine { engine in
            _ = try fixture.index(engine)
            let bytes = try #require(layer.files["large1"])
            let content = try engine.content(SHA256.hash(bytes))
            #expect(try engine.evict(content))
            engine.context.pool.landed(MergeEngine.inFlightLimit)
            let answers = Answers()
            engine.whole(content.id, answers.take())
            #expect(!answers.wait(seconds: 0.5))
            engine.context.pool.recorded(MergeEngine.inFlightLimit)
            #expect(answers.wait() && answers.allSucceededOnce)
            #expect(try engine.store.bytes(content) == bytes)
            #expect(engine.inFlightBytes == 0)
        }
    }

    @Test("is not begun for a snapshotter either where it cannot fit")
    func roomForSnapshotter() throws {
        let fixture = try Fixture()
        _ = try fixture.write(PlainLayer.mixed(5), .gzip)
        var options = MergeEngine.Options()
        options.maxBytes = 2 << 20
        let engine = try MergeEngine(store: try fixture.openStore(), options: options)
        defer { engine.stop() }
        let image = try RemoteImage(
            engine, try ImageReference(parsing: "oci:\(fixture.layout):a"), plainHTTP: true, shouldStop: { false })
        let error = try #require(#expect(throws: MergeError.self) { try image.stream(0, shouldStop: { false }) })
        #expect(error.code == .write && (error.cause as? SystemError)?.code == ENOSPC, "\(error)")
        #expect(engine.totalFetchedBytes == 0)
    }

    @Test("is begun only where there is room for it and the layers above it, of which what was read already is no part")
    func room() throws {
        let fixture = try Fixture()
        let layers = [try PlainLayer.long.get(), try PlainLayer.mixed(3)]
        let descriptors = try writeImage(
            layers.map { ImageLayer(blob: $0.blob(.gzip), tocDigest: nil, diffID: $0.diffID) }, tag: "a",
            layout: fixture.layout)
        try fixture.withEngine { engine in
            let asked = Mutex<[Int64]>([])
            func index(_ room: Int64) throws -> ImageRecord {
                let check = ImagePull.RoomCheck(
                    ofLayers: { bytes in
                        asked.withLock { $0.append(bytes) }
                        if bytes > room { throw MergeError(.write, "no room") }
                    }, ofImage: { _ in })
                return try ImagePull(engine, roomCheck: check, shouldStop: { false }, report: { _ in })
                    .index(ImageReference(parsing: "oci:\(fixture.layout):a"), platform: nil, plainHTTP: true)
            }
            let all = descriptors.reduce(0) { $0 + $1.size }
            #expect(throws: MergeError.self) { try index(all - 1) }
            #expect(asked.withLock { $0 } == [all])
            // A part of the first comes, and the rest of it is what is needed then.
            let source = ControlledSource(OCILayoutSource(directory: fixture.layout))
            source.behaviour.allowance = Int(descriptors[0].size) * 3 / 4
            #expect(throws: (any Error).self) {
                try fixture.stream(engine, descriptors[0], layers[0].diffID, from: source) {
                    if source.behaviour.allowance == 0 { source.behaviour.isDown = true }
                    return false
                }
            }
            asked.withLock { $0 = [] }
            _ = try index(all - 1)
            let (first, second) = try asked.withLock { ($0[0], try #require($0.last)) }
            #expect(first < all - descriptors[0].size / 4 && first >= all - descriptors[0].size * 3 / 4)
            #expect(second == descriptors[1].size)
        }
    }

    @Test("has an evicted file back by its own bytes and two checkpoints", arguments: PlainLayer.Writer.allCases)
    func evicted(writer: PlainLayer.Writer) throws {
        let fixture = try Fixture()
        let layer = try PlainLayer.long.get()
        let descriptor = try fixture.write(layer, writer)
        let blob = layer.blob(writer)
        try fixture.withEngine { engine in
            let image = try fixture.index(engine)
            let distance = try fixture.checkpointDistance(engine, image.layers[0], blobSize: descriptor.size)
            #expect(writer == .zstd || distance <= StreamReader.spacing + (256 << 10))
            let source = fixture.control(engine)
            for name in ["small10", "large0", "large3", "zeros", "again"] {
                let bytes = try #require(layer.files[name])
                let content = try engine.content(SHA256.hash(bytes))
                let open = try engine.store.files.open(content.name)
                #expect(try engine.evict(content))
                #expect(try engine.store.index.content(content.id)?.state == .absent)
                #expect(throws: SystemError.self) { try engine.store.files.open(content.name) }
                source.reset()
                let answers = Answers()
                engine.whole(content.id, answers.take())
                #expect(answers.wait() && answers.allSucceededOnce, "\(name)")
                #expect(try engine.store.bytes(content) == bytes, "\(name)")
                // A process that had it open still has it.
                #expect(try open.read(bytes.count, at: 0) == bytes)
                let own =
                    writer.format == .plainGzip ? try layer.compressedSize(of: name, in: blob) : bytes.count
                if writer != .zstd {
                    #expect(source.sentByteCount <= own + 2 * Int(distance), "\(name)")
                }
            }
        }
        #expect(fixture.reports.withLock { $0 } == [])
    }

    @Test(
        "of whatever writer, an evicted file comes back from a registry by its compressed size and two checkpoints",
        .enabled(
            if: ["pigz", "bgzip"].allSatisfy { access("/usr/bin/\($0)", X_OK) == 0 },
            "pigz or bgzip is missing (apt install pigz tabix)"),
        arguments: ["pigz -1c", "bgzip -c", "pigz -ic", "{ gzip -6c; printf '\\0\\0\\037\\213behind'; }"])
    func evictedFromRegistry(command: String) throws {
        let fixture = try Fixture()
        let layer = try PlainLayer.long.get()
        let blob = try fixture.compress(layer, command)
        let descriptor = try writeImage(
            [ImageLayer(blob: blob, tocDigest: nil, diffID: layer.diffID)], tag: "a", layout: fixture.layout)[0]
        let registry = try RegistryFixture()
        defer { registry.stop() }
        let proxy = try CountingProxy(upstream: registry.port)
        defer { proxy.stop() }
        try registry.push(layout: fixture.layout, name: "plain", tag: "1")
        try fixture.withEngine { engine in
            let image = try ImagePull(engine, shouldStop: { false }, report: { _ in }).index(
                try ImageReference(parsing: "\(proxy.host)/plain:1"), platform: nil, plainHTTP: true)
            let distance = try fixture.checkpointDistance(engine, image.layers[0], blobSize: descriptor.size)
            for name in ["small59", "large3"] {
                let bytes = try #require(layer.files[name])
                let content = try engine.content(SHA256.hash(bytes))
                #expect(try engine.evict(content))
                proxy.reset()
                let answers = Answers()
                engine.whole(content.id, answers.take())
                #expect(answers.wait(seconds: 60) && answers.allSucceededOnce, "\(name)")
                #expect(try engine.store.bytes(content) == bytes, "\(name)")
                let own = try layer.compressedSize(of: name, in: blob)
                #expect(own < bytes.count + 4096)
                let sent = proxy.sentByteCount(of: descriptor.digest)
                #expect(sent > own && sent <= Int64(own) + 2 * distance, "\(name): \(sent), \(own) and \(distance)")
            }
        }
        #expect(fixture.reports.withLock { $0 } == [])
    }

    @Test("that was evicted as a whole is merged by a pull")
    func evictedWhole() throws {
        let fixture = try Fixture()
        _ = try fixture.write(try PlainLayer.mixed(4), .gzip)
        try fixture.withEngine { engine in
            let image = try fixture.index(engine)
            for content in try engine.store.contents() { #expect(try engine.evict(content)) }
            #expect(try engine.store.landedByteCount() == 0)
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("is refused with expected and actual digest when its tar or its blob is another, and nothing of it is served")
    func wrong() throws {
        let fixture = try Fixture()
        let layer = try PlainLayer.mixed(5)
        let wrong = SHA256.hash([1, 2, 3])
        let descriptor = try fixture.write(layer, .gzip, diffID: wrong)
        try fixture.withEngine { engine in
            #expect {
                try fixture.index(engine)
            } throws: { error in
                "\(error)".contains("expected diff ID \(wrong), got \(layer.diffID)")
            }
            #expect(try engine.store.layer(descriptor.digest) == nil)
            #expect(try engine.store.index.images().isEmpty)
            let source = ControlledSource(OCILayoutSource(directory: fixture.layout))
            // After the last member, where no CRC shows it.
            var other = layer.blob(.gzip)
            other[4] ^= 1
            source.behaviour.substitute = other
            #expect {
                try fixture.stream(engine, descriptor, layer.diffID, from: source)
            } throws: { error in
                "\(error)".contains("expected \(descriptor.digest), got \(SHA256.hash(other))")
            }
            // The next try begins again, and is right.
            _ = try fixture.stream(engine, descriptor, layer.diffID)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("is refused to an image that names another tar, also when another stream has brought it meanwhile")
    func otherDiffID() throws {
        let fixture = try Fixture()
        let layer = try PlainLayer([("a", noise(5000, seed: 1))])
        let descriptor = try fixture.write(layer, .gzip)
        try fixture.withEngine { engine in
            let known = try fixture.stream(engine, descriptor, layer.diffID)
            let other = SHA256.hash([1])
            let error = try #require(throws: MergeError.self) { try fixture.stream(engine, descriptor, other) }
            #expect(error.code == .wrongDigest && error.message.contains("\(other)"), "\(error)")
            #expect(try fixture.stream(engine, descriptor, layer.diffID) == known)
        }
    }

    /// Streams a part of a layer from a source, and says whether a checkpoint came of it.
    private func interrupt(
        _ fixture: Fixture, _ engine: MergeEngine, _ descriptor: Descriptor, _ diffID: Digest,
        _ source: ControlledSource
    ) throws -> Bool {
        source.behaviour.allowance = 20 << 20
        _ = #expect(throws: (any Error).self) {
            try fixture.stream(engine, descriptor, diffID, from: source) {
                if source.behaviour.allowance == 0 { source.behaviour.isDown = true }
                return false
            }
        }
        source.behaviour = ControlledSource.Behaviour()
        return try engine.store.bytesToStream(of: descriptor, origin: source.location) < descriptor.size
    }

    @Test(
        "of another repository is neither gone on from nor given up, whatever that repository has sent of the blob",
        arguments: [true, false])
    func origins(strangerIsFirst: Bool) throws {
        let fixture = try Fixture()
        let layer = try PlainLayer.long.get()
        let descriptor = try fixture.write(layer, .tar)
        let wrong = try PlainLayer.mixed(8, largeSize: 7_000_000).tar
        #expect(wrong.count == layer.tar.count)
        let own = ControlledSource(OCILayoutSource(directory: fixture.layout))
        let stranger = ControlledSource(OCILayoutSource(directory: fixture.layout), location: "oci:/stranger")
        stranger.behaviour.substitute = wrong
        try fixture.withEngine { engine in
            let id: LayerID
            if strangerIsFirst {
                #expect(try interrupt(fixture, engine, descriptor, layer.diffID, stranger))
                id = try fixture.stream(engine, descriptor, layer.diffID, from: own)
                #expect(own.sentByteCount == Int(descriptor.size), "went on from what another repository has sent")
                // That one's is its own matter.
                let left = try engine.store.bytesToStream(of: descriptor, origin: stranger.location)
                #expect(left < descriptor.size)
            } else {
                #expect(try interrupt(fixture, engine, descriptor, layer.diffID, own))
                let error = try #require(throws: MergeError.self) {
                    try fixture.stream(engine, descriptor, layer.diffID, from: stranger)
                }
                #expect(error.code == .wrongDigest, "\(error)")
                id = try fixture.stream(engine, descriptor, layer.diffID, from: own)
                let most = Int(descriptor.size + StreamReader.window) + (256 << 10)
                #expect(own.sentByteCount <= most, "\(own.sentByteCount) of \(descriptor.size): begun anew")
            }
            try expectWhole(engine, id, layer)
        }
    }

    /// What was given up of another tar is still known to the index, as absent.
    private func expectWhole(_ engine: MergeEngine, _ id: LayerID, _ layer: PlainLayer) throws {
        #expect(try engine.store.index.isWhole(id))
        for bytes in layer.files.values where !bytes.isEmpty {
            #expect(try engine.store.bytes(engine.content(SHA256.hash(bytes))) == bytes)
        }
    }

    @Test("is read anew, and no error, when what had come of it turns out to be wrong at its end")
    func wrongBeginning() throws {
        let fixture = try Fixture()
        let layer = try PlainLayer.long.get()
        let descriptor = try fixture.write(layer, .tar)
        let source = ControlledSource(OCILayoutSource(directory: fixture.layout))
        source.behaviour.substitute = try PlainLayer.mixed(8, largeSize: 7_000_000).tar
        try fixture.withEngine { engine in
            #expect(try interrupt(fixture, engine, descriptor, layer.diffID, source))
            source.reset()
            let id = try fixture.stream(engine, descriptor, layer.diffID, from: source)
            #expect(source.sentByteCount > Int(descriptor.size))
            try expectWhole(engine, id, layer)
            #expect(try fixture.temporaries() == [])
        }
    }

    @Test("begins anew when what an earlier process has left cannot be used")
    func damagedState() throws {
        let fixture = try Fixture()
        let layer = try PlainLayer([("large", halfNoise(30_000_000, seed: 1))])
        let descriptor = try fixture.write(layer, .gzip)
        let source = ControlledSource(OCILayoutSource(directory: fixture.layout))
        source.behaviour.allowance = 8_000_000
        try fixture.withEngine { engine in
            _ = #expect(throws: (any Error).self) {
                try fixture.stream(engine, descriptor, layer.diffID, from: source) {
                    if source.behaviour.allowance == 0 { source.behaviour.isDown = true }
                    return false
                }
            }
        }
        let name = try #require(try fixture.temporaries().first)
        #expect(truncate("\(fixture.directory)/store/content/stream/\(name)", 1000) == 0)
        try fixture.withEngine { engine in
            _ = try fixture.stream(engine, descriptor, layer.diffID)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("shares its files with an eStargz layer of many chunks, whichever comes first", arguments: [true, false])
    func shared(plainFirst: Bool) throws {
        let fixture = try Fixture()
        let bytes = noise(900_000, seed: 8)
        var blob: [UInt8] = []
        var options = LayerWriter.Options()
        options.chunkSize = 65536
        let writer = try LayerWriter(options: options) { blob += $0 }
        try writer.append(TarHeader(kind: .regular, name: Array("f".utf8), mode: 0o644, size: Int64(bytes.count)))
        try bytes.withUnsafeBytes { try writer.write($0) }
        let result = try writer.finish()
        try writeImage([ImageLayer(blob: blob, tocDigest: result.tocDigest)], tag: "lazy", layout: fixture.layout)
        _ = try fixture.write(try PlainLayer([("g", bytes)]), .gzip, tag: "plain")
        try fixture.withEngine { engine in
            for tag in plainFirst ? ["plain", "lazy"] : ["lazy", "plain"] {
                try engine.merge(try fixture.index(engine, tag))
            }
            let files = try engine.store.contents().filter { $0.name.digest == SHA256.hash(bytes) }
                .map { try engine.store.files.open($0.name).status().st_ino }
            #expect(files.count == 2 && Set(files).count == 1)
            #expect(try engine.store.isWholeAndRight())
        }
    }
}

extension Fixture {
    /// The temporary files of streams.
    func temporaries(_ store: String = "store") throws -> [String] {
        guard let listing = opendir("\(directory)/\(store)/content/stream") else { return [] }
        defer { closedir(listing) }
        var names: [String] = []
        while let entry = readdir(listing) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names
    }
}
