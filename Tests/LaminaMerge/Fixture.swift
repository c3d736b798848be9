import Glibc
import LaminaDigest
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

/// A directory with a store and an OCI layout, and the engines that were started on it; removed with the last reference.
final class Fixture: Sendable {
    let directory: String
    let reports = Mutex<[String]>([])

    init() throws {
        // In memory if the machine has room: the speed of a disk is not tested.
        let base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"
        var template = Array("\(base)/lamina-merge-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw SystemError.last("make directory", base) }
        directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { removeTree(directory) }

    var layout: String { directory + "/layout" }

    /// Opens the store. A process that another test starts may hold its lock between its fork and its exec.
    func openStore(_ name: String = "store") throws -> Store {
        try retried(while: { if case .locked = ($0 as? StoreError)?.code { true } else { false } }) {
            try Store(root: "\(directory)/\(name)")
        }
    }

    /// Runs an engine and stops it.
    func withEngine<Result>(
        bufferSize: Int = 24 << 20, workerCount: Int = 10, store: Store? = nil, _ body: (MergeEngine) throws -> Result
    ) throws -> Result {
        var options = MergeEngine.Options()
        options.bufferSize = bufferSize
        options.workerCount = workerCount
        let engine = try MergeEngine(store: try store ?? openStore(), options: options)
        engine.setErrorReporter { error in self.reports.withLock { $0.append("\(error)") } }
        defer { engine.stop() }
        return try body(engine)
    }

    /// Writes an image of forged layers, and returns their descriptors.
    @discardableResult
    func write(_ layers: ForgedLayer..., tag: String = "a") throws -> [Descriptor] {
        try writeImage(layers.map { ImageLayer($0) }, tag: tag, layout: layout)
    }

    /// Puts an image of the layout into the index.
    func index(_ engine: MergeEngine, _ tag: String = "a") throws -> ImageRecord {
        try ImagePull(engine, shouldStop: { false }, report: { _ in })
            .index(try ImageReference(parsing: "oci:\(layout):\(tag)"), platform: nil, plainHTTP: true)
    }

    /// The layout as a source that the engine uses from now on.
    func control(_ engine: MergeEngine) -> ControlledSource {
        let source = ControlledSource(OCILayoutSource(directory: layout))
        engine.sources.add(source)
        return source
    }
}

extension MergeEngine {
    /// Merges an image to its end.
    func merge(_ image: ImageRecord, shouldStop: @escaping @Sendable () -> Bool = { false }) throws {
        try ImagePull(self, shouldStop: shouldStop, report: { _ in }).merge(image)
    }

    /// The content of a file of the index.
    func content(_ digest: Digest, claim: Bool? = nil) throws -> ContentRecord {
        try #require(
            try store.contents().first { record in
                record.name.digest == digest && (claim == nil || claim == (record.name.claim != nil))
            })
    }

    /// What the plan knows of a content.
    func planned(_ content: ContentID) -> PlannedContent? {
        context.board.with { plan in plan.slots(of: content).first.flatMap { plan.contents[$0] } }
    }

    /// Whether nothing is left of what was requested; waits a little for what is on its way to the index.
    var isIdle: Bool {
        for _ in 0..<500 {
            let isIdle = context.board.with { $0.isQuiet && $0.queuedCount == 0 }
            if isIdle, inFlightBytes == 0 { return true }
            usleep(10_000)
        }
        return false
    }
}

extension Store {
    /// Every content, in the order of its row.
    func contents() throws -> [ContentRecord] {
        var contents: [ContentRecord] = []
        while let record = try index.content(ContentID(Int64(contents.count) + 1)) { contents.append(record) }
        return contents
    }

    /// The bytes of a content's backing file.
    func bytes(_ content: ContentRecord) throws -> [UInt8] {
        let file = try files.open(content.name)
        return try file.read(Int(file.size()), at: 0)
    }

    /// Whether every content is merged and has the bytes that its name says.
    func isWholeAndRight() throws -> Bool {
        try contents().allSatisfy { try $0.state == .merged && SHA256.hash(bytes($0)) == $0.name.digest }
    }

    /// How many uncompressed bytes have landed by the index.
    func landedByteCount() throws -> Int64 {
        try contents().reduce(0) { sum, content in
            try sum + index.chunks(of: content, preferring: nil).reduce(0) { $0 + ($1.hasLanded ? $1.size : 0) }
        }
    }
}

/// Answers that come from the engine's threads, each counted.
final class Answers: Sendable {
    private let state = Monitor<[Int: [Result<Void, MergeError>]]>([:])

    func take(_ number: Int = 0) -> MergeCompletion {
        { result in self.state.withLock(notify: true) { $0[number, default: []].append(result) } }
    }

    /// Waits until this many requests have been answered.
    func wait(for count: Int = 1, seconds: Double = 10) -> Bool {
        state.wait(seconds: seconds) { $0.count >= count ? true : nil } ?? false
    }

    subscript(_ number: Int) -> [Result<Void, MergeError>] { state.withLock { $0[number] ?? [] } }

    var all: [Int: [Result<Void, MergeError>]] { state.withLock { $0 } }

    /// The error of a request that failed.
    func error(_ number: Int = 0) -> MergeError? {
        guard case .failure(let error)? = self[number].first else { return nil }
        return error
    }

    var allSucceededOnce: Bool {
        all.values.allSatisfy { if $0.count == 1, case .success = $0[0] { true } else { false } }
    }
}

/// Seconds that something takes.
func seconds(_ body: () throws -> Void) rethrows -> Double {
    let start = ContinuousClock().now
    try body()
    return (ContinuousClock().now - start) / .seconds(1)
}

/// A boolean that threads share.
final class Flag: Sendable {
    private let value = Atomic<Bool>(false)
    var isSet: Bool { value.load(ordering: .acquiring) }
    func set() { value.store(true, ordering: .releasing) }
}

extension ContentFiles {
    /// Makes a backing file and records it.
    @discardableResult
    func make(_ name: BackingName, size: Int64) throws -> File {
        var lease = lease(writing: name)
        defer { lease.recorded() }
        return try lease.create(name, size: size)
    }
}
