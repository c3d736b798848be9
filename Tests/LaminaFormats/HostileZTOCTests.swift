import LaminaDigest
import Testing

@testable import LaminaFormats

/// A flatbuffer that a test writes, front to back.
private struct FlatWriter {
    enum Field {
        case number(Int64, bytes: Int)
        case reference
    }

    var bytes: [UInt8] = [0, 0, 0, 0]

    mutating func put(_ value: Int64, _ count: Int, at place: Int? = nil) {
        let little = (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * Int64($0))) }
        if let place { bytes.replaceSubrange(place..<place + count, with: little) } else { bytes += little }
    }

    /// A table; returns its place, and where its references are.
    mutating func table(_ fields: [Int: Field]) -> (place: Int, references: [Int: Int]) {
        let slots = (fields.keys.max() ?? -1) + 1
        var offsets: [Int: Int] = [:]
        var size = 4
        for (slot, field) in fields.sorted(by: { $0.key < $1.key }) {
            offsets[slot] = size
            if case .number(_, let count) = field { size += count } else { size += 4 }
        }
        let vtable = bytes.count
        put(Int64(4 + 2 * slots), 2)
        put(Int64(size), 2)
        for slot in 0..<slots { put(Int64(offsets[slot] ?? 0), 2) }
        let place = bytes.count
        put(Int64(place - vtable), 4)
        var references: [Int: Int] = [:]
        for (slot, field) in fields.sorted(by: { $0.key < $1.key }) {
            switch field {
            case .number(let value, let count): put(value, count)
            case .reference:
                references[slot] = bytes.count
                put(0, 4)
            }
        }
        return (place, references)
    }

    mutating func point(_ reference: Int?, to place: Int? = nil) {
        guard let reference else { return }
        put(Int64((place ?? bytes.count) - reference), 4, at: reference)
    }

    mutating func string(_ text: [UInt8], for reference: Int?) {
        point(reference)
        put(Int64(text.count), 4)
        bytes += text + [0]
    }

    /// A vector of references; returns their places.
    mutating func vector(_ count: Int, for reference: Int?) -> [Int] {
        point(reference)
        put(Int64(count), 4)
        let start = bytes.count
        bytes += [UInt8](repeating: 0, count: 4 * count)
        return (0..<count).map { start + 4 * $0 }
    }
}

/// What a zTOC says, for tests to change one thing of it.
private struct ZTOCDraft {
    struct Entry {
        var name = Array("f".utf8)
        var type = "reg"
        var offset: Int64 = 512
        var size: Int64 = 10
        var link = ""
        var time = "2023-11-14T22:13:20Z"
        var device: (Int64, Int64) = (0, 0)
        var records: [(String, [UInt8])] = []
    }

    var entries = [Entry()]
    var blobSize: Int64 = 1000
    var archiveSize: Int64 = 2048
    var algorithm: Int64 = 1
    var lastSpan: Int64?
    var digests = ["sha256:" + String(repeating: "a", count: 64)]
    var points: [(blob: Int64, output: Int64, bits: UInt8)] = [(10, 0, 0)]
    var have: Int64?
    var hasTOC = true

    var bytes: [UInt8] {
        var writer = FlatWriter()
        var fields: [Int: FlatWriter.Field] = [
            0: .reference, 1: .reference, 2: .number(blobSize, bytes: 8), 3: .number(archiveSize, bytes: 8),
            5: .reference,
        ]
        if hasTOC { fields[4] = .reference }
        let (root, places) = writer.table(fields)
        writer.put(Int64(root), 4, at: 0)
        writer.string(Array("0.9".utf8), for: places[0])
        writer.string(Array("a test".utf8), for: places[1])
        if hasTOC {
            let (toc, list) = writer.table([0: .reference])
            writer.point(places[4], to: toc)
            for (reference, entry) in zip(writer.vector(entries.count, for: list[0]), entries) {
                let (place, texts) = writer.table([
                    0: .reference, 1: .reference, 2: .number(entry.offset, bytes: 8), 3: .number(entry.size, bytes: 8),
                    4: .reference, 5: .number(0o644, bytes: 8), 10: .reference, 11: .number(entry.device.0, bytes: 8),
                    12: .number(entry.device.1, bytes: 8), 13: .reference,
                ])
                writer.point(reference, to: place)
                writer.string(entry.name, for: texts[0])
                writer.string(Array(entry.type.utf8), for: texts[1])
                writer.string(Array(entry.link.utf8), for: texts[4])
                writer.string(Array(entry.time.utf8), for: texts[10])
                for (record, (key, value)) in zip(writer.vector(entry.records.count, for: texts[13]), entry.records) {
                    let (place, texts) = writer.table([0: .reference, 1: .reference])
                    writer.point(record, to: place)
                    writer.string(Array(key.utf8), for: texts[0])
                    writer.string(value, for: texts[1])
                }
            }
        }
        let (compression, parts) = writer.table([
            0: .number(algorithm, bytes: 1), 1: .number(lastSpan ?? Int64(digests.count) - 1, bytes: 4), 2: .reference,
            3: .reference,
        ])
        writer.point(places[5], to: compression)
        for (reference, digest) in zip(writer.vector(digests.count, for: parts[2]), digests) {
            writer.string(Array(digest.utf8), for: reference)
        }
        var checkpoints = FlatWriter()
        checkpoints.bytes = []
        checkpoints.put(have ?? Int64(points.count), 4)
        checkpoints.put(4 << 20, 8)
        for point in points {
            checkpoints.put(point.blob, 8)
            checkpoints.put(point.output, 8)
            checkpoints.bytes += [point.bits] + [UInt8](repeating: 0, count: 32768)
        }
        writer.string(checkpoints.bytes, for: parts[3])
        return writer.bytes
    }
}

@Suite("hostile zTOCs")
struct HostileZTOCTests {
    private func refusal(_ change: (inout ZTOCDraft) -> Void) -> FormatError? {
        var draft = ZTOCDraft()
        change(&draft)
        let bytes = draft.bytes
        do {
            let ztoc = try ZTOC.parse(bytes)
            _ = try ztoc.tree(bytes)
            return nil
        } catch { return error as? FormatError }
    }

    @Test("the draft that the tests change is right")
    func draft() throws {
        let bytes = ZTOCDraft().bytes
        let ztoc = try ZTOC.parse(bytes)
        #expect(ztoc.entryCount == 1 && ztoc.spans.count == 1 && ztoc.spanSize == 4 << 20 && ztoc.version == "0.9")
        #expect(try ztoc.tree(bytes).node(at: "f") != nil)
    }

    @Test(
        "checkpoints outside the layer, within a byte that has eight bits, or running backward, are refused with their place"
    )
    func points() {
        let digest = "sha256:" + String(repeating: "b", count: 64)
        for wrong: (Int64, Int64, UInt8) in [
            (1000, 10, 0), (1 << 62, 10, 0), (-1, 10, 0), (20, -1, 0), (20, 10, 8), (20, 10, 255), (10, 10, 0),
            (9, 10, 0),
            (20, .max, 0),
        ] {
            let error = refusal {
                $0.points.append(wrong)
                $0.digests.append(digest)
            }
            #expect(error?.code == .badTOC && error?.offset != nil, "\(wrong)")
        }
        // Behind one another in the blob, and back in the tar.
        let error = refusal {
            $0.points += [(20, 100, 0), (30, 100, 0)]
            $0.digests += [digest, digest]
        }
        #expect(error?.code == .badTOC)
        #expect(refusal { $0.points[0].output = 1 }?.code == .badTOC)
        #expect(refusal { $0.points[0].bits = 1 }?.code == .badTOC)
    }

    @Test("a count of checkpoints that is not theirs allocates nothing, and is refused")
    func counts() {
        for have: Int64 in [0, -1, 3, Int64(Int32.max), Int64(Int32.min)] {
            #expect(refusal { $0.have = have }?.code == .badTOC, "\(have)")
        }
        #expect(refusal { $0.lastSpan = 1 }?.code == .badTOC)
        #expect(refusal { $0.lastSpan = -1 }?.code == .badTOC)
        #expect(refusal { $0.digests.append($0.digests[0]) }?.code == .badTOC)
        #expect(refusal { $0.digests = [] }?.code == .badTOC)
    }

    @Test("digests that are none, compressions that nobody knows, and a zTOC without a table are refused")
    func parts() {
        #expect(refusal { $0.digests = ["sha256:abc"] }?.code == .badTOC)
        #expect(refusal { $0.digests = [""] }?.code == .badTOC)
        #expect(refusal { $0.digests = ["sha512:" + String(repeating: "a", count: 128)] }?.code == .unsupported)
        for algorithm: Int64 in [0, 3, 4, -1] { #expect(refusal { $0.algorithm = algorithm }?.code == .unsupported) }
        #expect(refusal { $0.hasTOC = false }?.code == .badTOC)
        #expect(refusal { $0.blobSize = -1 }?.code == .badTOC)
        #expect(refusal { $0.archiveSize = .max }?.code == .badTOC)
    }

    @Test("entries that overlap, run backward, or end behind the tar are refused with their name")
    func places() {
        for (offset, size): (Int64, Int64) in [
            (0, 10), (511, 10), (513, 10), (512, 2000), (512, .max), (.max, 10), (-512, 10), (512, -1), (4096, 0),
        ] {
            let error = refusal { $0.entries[0] = ZTOCDraft.Entry(offset: offset, size: size) }
            #expect(error?.code == .badEntry && error?.entry == "f", "\(offset), \(size)")
        }
        let second = ZTOCDraft.Entry(name: Array("g".utf8), offset: 1024, size: 10)
        #expect(refusal { $0.entries.append(second) }?.entry == "g")
        #expect(refusal { $0.entries.append(ZTOCDraft.Entry(name: Array("g".utf8), offset: 512)) }?.code == .badEntry)
        // Of a link no bytes follow, whatever its size is said to be.
        #expect(
            refusal {
                $0.entries = [ZTOCDraft.Entry(type: "symlink", size: 1 << 40, link: "x"), second]
                $0.entries[1].offset = 1024
            } == nil)
    }

    @Test("types, names, times, devices and attributes that cannot be are refused with the entry")
    func attributes() {
        for change: (inout ZTOCDraft.Entry) -> Void in [
            { $0.type = "socket" }, { $0.name = [UInt8(ascii: "a"), 0] },
            { $0.name = [UInt8](repeating: 97, count: 5000) },
            { $0.time = "yesterday" }, { ($0.type, $0.device) = ("char", (1 << 40, 0)) },
            { ($0.type, $0.device) = ("block", (-1, 0)) }, { ($0.type, $0.link) = ("symlink", "") },
            { $0.records = [("SCHILY.xattr." + String(repeating: "x", count: 300), [])] },
            { $0.records = [("SCHILY.xattr.user.x", [UInt8](repeating: 0, count: 70000))] },
            { $0.records = [("GNU.sparse.major", [49])] }, { $0.records = [("SCHILY.xattr.", [1])] },
            { $0.records = [(String, [UInt8])](repeating: ("mtime", [49]), count: 300) },
        ] {
            let error = refusal { change(&$0.entries[0]) }
            #expect(error != nil && error?.entry != nil, "\(String(describing: error))")
        }
        // What is no attribute of a file is left out.
        let bytes = {
            var draft = ZTOCDraft()
            draft.entries[0].records = [
                ("LIBARCHIVE.xattr.user.x", [1]), ("SCHILY.xattr.user.y", [2]), ("SCHILY.xattr.user.y", [3]),
                ("path", [4]),
            ]
            return draft.bytes
        }()
        let tree = try? ZTOC.parse(bytes).tree(bytes)
        #expect(tree?.xattrs(of: 1) == ["user.y": "\u{3}"])
    }

    @Test("a layer whose spans are larger than the memory of decoders is refused in a way that has it read as a stream")
    func largeSpans() {
        let error = refusal {
            $0.blobSize = 500 << 20
            $0.archiveSize = 400 << 20
            $0.entries[0].size = 300 << 20
        }
        #expect(error?.code == .largeChunk)
        let far = refusal {
            $0.blobSize = 500 << 20
            $0.archiveSize = 400 << 20
            $0.entries[0].offset = 300 << 20
        }
        #expect(far?.code == .largeChunk)
        // Compressed: a span is in memory as a whole.
        let wide = refusal { $0.blobSize = 300 << 20 }
        #expect(wide?.code == .largeChunk)
    }

    @Test("entries that add up to more than is allowed end there")
    func amplified() {
        var writer = ZTOCDraft()
        writer.entries = (0..<400).map {
            ZTOCDraft.Entry(name: Array("f\($0)".utf8), offset: 512 * Int64($0 + 1), size: 0)
        }
        writer.archiveSize = 1 << 30
        let bytes = writer.bytes
        var limits = FormatLimits()
        limits.entries = 399
        #expect(throws: FormatError.self) { try ZTOC.parse(bytes, limits: limits) }
        limits.entries = 400
        limits.tocBytes = bytes.count
        #expect((try? ZTOC.parse(bytes, limits: limits))?.entryCount == 400)
        // The lines of the tree are longer than what the limit leaves them.
        limits.tocBytes = 20_000
        #expect(throws: FormatError.self) { _ = try ZTOC.parse(bytes).tree(bytes, limits: limits) }
    }

    @Test("a plain tar's spans have to make up the layer")
    func plainTar() throws {
        let indexed = try #require(IndexedLayer.ofLayouts.first { $0.name.hasPrefix("mixed-v1-128k/5c6323bd5e1d") })
        let bytes = try indexed.ztoc
        let ztoc = try ZTOC.parse(bytes)
        #expect(ztoc.format == .plainTar && ztoc.spans.count == 3 && ztoc.spans.allSatisfy { $0.window.isEmpty })
        #expect(ztoc.spans.map(\.output) == [0, 131_072, 262_144] && ztoc.spans[2].outputSize == 307_200 - 262_144)
        // The blob's size stands in it twice.
        var numbers = bytes.indices.dropLast(8).filter { index in
            bytes[index..<index + 8].elementsEqual(withUnsafeBytes(of: Int64(307_200).littleEndian) { Array($0) })
        }
        #expect(numbers.count >= 2)
        for place in numbers.suffix(1) {
            var other = bytes
            other[place] ^= 1
            #expect(throws: FormatError.self) { try ZTOC.parse(other) }
        }
        numbers.removeAll()
    }

    @Test("mutated zTOCs are read, or refused, and nothing else", arguments: 1...4)
    func mutations(_ seed: UInt64) throws {
        var numbers = Xorshift(state: seed &* 0x9e37_79b9_7f4a_7c15)
        var draft = ZTOCDraft()
        draft.entries = [
            ZTOCDraft.Entry(records: [("SCHILY.xattr.user.a", [1, 2]), ("path", [3])]),
            ZTOCDraft.Entry(name: Array("d/".utf8), type: "dir", offset: 1536, size: 0),
            ZTOCDraft.Entry(name: Array("d/l".utf8), type: "hardlink", offset: 2048, size: 0, link: "f"),
        ]
        draft.archiveSize = 10240
        let full = draft.bytes
        draft.points = []
        draft.have = 1
        // Without its window: then most mutations hit something that means something.
        let seeds = [draft.bytes, draft.bytes, draft.bytes, full]
        var (good, bad) = (0, 0)
        for round in 0..<3000 {
            var bytes = seeds[round % seeds.count]
            for _ in 0..<Int.random(in: 1...2, using: &numbers) {
                let index = Int.random(in: 0..<bytes.count, using: &numbers)
                switch Int.random(in: 0..<5, using: &numbers) {
                case 0: bytes[index] = UInt8.random(in: 0...255, using: &numbers)
                case 1: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &numbers)
                case 2: for place in index..<min(index + 4, bytes.count) { bytes[place] = 0xff }
                case 3: for place in index..<min(index + 4, bytes.count) { bytes[place] = 0 }
                default: if index > 0 { bytes.removeLast(bytes.count - index) }
                }
            }
            do {
                let ztoc = try ZTOC.parse(bytes)
                let tree = try ztoc.tree(bytes)
                #expect(!tree.nodes.isEmpty)
                good += 1
            } catch {
                #expect(error is FormatError)
                bad += 1
            }
        }
        #expect(good > 100 && bad > 500)
    }
}
