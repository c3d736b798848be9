import LaminaFormats
import LaminaOCI
import LaminaSystem
import Synchronization

/// What comes out of a blob that is read as a stream, in order.
enum StreamEvent: Sendable {
    /// How the blob is compressed, by its first bytes. Comes once, before everything else.
    case format(LayerFormat)
    /// Bytes of the blob that were decompressed, and the offset of the first in the blob.
    case blob(StreamBuffer, Range<Int>, at: Int64)
    /// Bytes of the tar, and the offset of the first in the tar.
    case output(StreamBuffer, at: Int64)
    /// Everything before this place has come, and a reader can begin here or a little before it.
    case checkpoint(StreamPosition, tar: Int64)
}

/// Fetches a blob and decompresses it, each on its own thread.
final class StreamReader: Sendable {
    /// How many bytes of output are between two checkpoints. For a file that was evicted, this much is read too much, once
    /// before it and once behind it; each checkpoint takes up to 32 KiB of the index.
    static let spacing: Int64 = 8 << 20
    /// How many bytes of the blob may have been requested beyond the last recorded checkpoint: what a kill costs at most.
    /// Layers compress, so the next bytes are on their way while a checkpoint is placed.
    /// A little less than a checkpoint, because what a decompressor has read ahead of it is fetched again too.
    static let window = spacing - (4 << 10)
    /// How many bytes of the blob before the end of the window a checkpoint is due. What does not compress takes more bytes in
    /// the blob than in the tar, and the next boundary comes after the rest of a block.
    private static let boundaryReserve: Int64 = 512 << 10
    /// No request is smaller, because each may take a round trip.
    private static let leastRequest: Int64 = 2 << 20

    /// How far fetching may be ahead of decompression, and decompression ahead of placing, in bytes: enough that no thread
    /// waits for another's slowest moment.
    private static let fetchedAhead = 2 << 20
    private static let outputAhead = 4 << 20
    private static let blobBufferSize = 256 << 10
    private static let outputBufferSize = 512 << 10
    /// What one reader holds at most, in bytes: what waits, and what each of the three threads has in its hands.
    static let memory = fetchedAhead + outputAhead + 3 * (blobBufferSize + outputBufferSize)

    private let source: any BlobSource
    private let descriptor: Descriptor
    private let fetched = StreamPipe<StreamBuffer>(limit: fetchedAhead)
    private let events = StreamPipe<StreamEvent>(limit: outputAhead)
    private let blobBuffers = StreamBufferPool(size: blobBufferSize)
    private let outputBuffers = StreamBufferPool(size: outputBufferSize)
    private let isClosed = Atomic<Bool>(false)
    private let threads = Monitor<[Thread]>([])
    private let counter = Atomic<Int64>(0)
    private let fetchWindow: FetchWindow
    /// Up to where the blob was placed by an earlier process.
    private let recorded: Int64

    /// Compressed bytes that have arrived so far.
    var fetchedBytes: Int64 { counter.load(ordering: .relaxed) }

    /// - Parameter recorded: up to where the blob was placed by an earlier process.
    init(source: any BlobSource, descriptor: Descriptor, recorded: Int64) {
        self.source = source
        self.descriptor = descriptor
        self.recorded = recorded
        fetchWindow = FetchWindow(size: Self.window, leastRequest: Self.leastRequest, recorded: recorded)
    }

    /// Notes up to where the blob was placed, and whether that is recorded.
    func advance(to placed: Int64, isRecorded: Bool) {
        fetchWindow.advance(placed: placed, recorded: isRecorded ? placed : nil)
    }

    /// Starts to read.
    ///
    /// - Parameters:
    ///   - position: where; if `format` is nil, the start.
    ///   - tar: the offset in the tar of the last checkpoint, at or behind the position.
    func start(
        at position: StreamPosition, format: LayerFormat?, tar: Int64, shouldStop: @escaping @Sendable () -> Bool
    ) throws {
        try threads.withLock { threads in
            threads.append(
                try Thread("stream-fetch") {
                    self.finish(self.fetched) { try self.fetch(from: position.blobOffset, shouldStop) }
                })
            threads.append(
                try Thread("stream-inflate") {
                    self.finish(self.events) { try self.decompress(position, format, lastCheckpoint: tar) }
                    // Whatever it ended with, nothing more is taken: the fetching thread must not wait for it.
                    self.fetchWindow.close()
                    self.fetched.close()
                })
        }
    }

    /// The next thing that has come out; nil at the end of the blob.
    func next() throws -> StreamEvent? { try events.pop() }

    /// Ends the threads.
    func stop() {
        isClosed.store(true, ordering: .relaxed)
        fetchWindow.close()
        fetched.close()
        events.close()
        threads.withLock { threads in
            for thread in threads { thread.join() }
            threads = []
        }
    }

    private func finish<Element>(_ pipe: StreamPipe<Element>, _ body: () throws -> Void) {
        do {
            try body()
            pipe.finish()
        } catch {
            pipe.finish(error)
        }
    }

    private func fetch(from start: Int64, _ shouldStop: @escaping @Sendable () -> Bool) throws {
        var position = start
        while position < descriptor.size {
            let end = fetchWindow.end(
                from: position, blobSize: descriptor.size, minimum: Int64(Self.blobBufferSize))
            guard let end else { throw MergeError.stopped }
            try fetch(position..<end, shouldStop)
            position = end
        }
    }

    private func fetch(_ range: Range<Int64>, _ shouldStop: @escaping @Sendable () -> Bool) throws {
        var buffer = blobBuffers.take()
        try source.read(
            descriptor.digest, size: descriptor.size, range: range,
            shouldStop: { self.isClosed.load(ordering: .relaxed) || shouldStop() }
        ) { bytes in
            counter.add(Int64(bytes.count), ordering: .relaxed)
            var rest = bytes
            while !rest.isEmpty {
                let count = min(rest.count, Self.blobBufferSize - buffer.count)
                UnsafeMutableRawBufferPointer(rebasing: buffer.memory[buffer.count...])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: rest[..<count]))
                buffer.count += count
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                if buffer.count == Self.blobBufferSize {
                    try fetched.push(buffer, bytes: buffer.count)
                    buffer = blobBuffers.take()
                }
            }
        }
        if buffer.count > 0 { try fetched.push(buffer, bytes: buffer.count) }
    }

    private func decompress(_ position: StreamPosition, _ format: LayerFormat?, lastCheckpoint: Int64) throws {
        var decompressor: LayerDecompressor?
        var lastCheckpoint = lastCheckpoint
        var lastInBlob = recorded
        var output = outputBuffers.take()
        func flush() throws {
            guard let decompressor, output.count > 0 else { return }
            let start = decompressor.outputOffset - Int64(output.count)
            try events.push(.output(output, at: start), bytes: output.count)
            output = outputBuffers.take()
        }
        while let piece = try fetched.pop() {
            let decoder = try decompressor ?? begin(position, format, piece.bytes)
            decompressor = decoder
            let pieceStart = decoder.blobOffset
            var input = piece.bytes
            var told = 0
            var wasFull = false
            while !input.isEmpty || wasFull {
                var room = UnsafeMutableRawBufferPointer(rebasing: output.memory[output.count...])
                let before = (input.count, room.count)
                let done = decoder.outputOffset - lastCheckpoint
                let windowLeft = Self.window - (decoder.blobOffset - lastInBlob)
                let isDue = done >= Self.spacing || windowLeft <= Self.boundaryReserve
                let isBoundary = try decoder.step(&input, &room, stopsAtBoundary: isDue)
                guard (input.count, room.count) != before || isBoundary || wasFull else {
                    throw FormatError(.corruptMember, "the compressed stream gives nothing", offset: decoder.blobOffset)
                }
                output.count = Self.outputBufferSize - room.count
                wasFull = room.isEmpty
                let isLate = done >= Self.spacing * 5 / 4 || windowLeft <= Self.boundaryReserve / 2
                let isCheckpoint = isDue && (isBoundary || (decoder.hasRareBoundaries && isLate))
                if wasFull || isCheckpoint { try flush() }
                guard isCheckpoint else { continue }
                let used = Int(decoder.blobOffset - pieceStart)
                try events.push(.blob(piece, told..<used, at: pieceStart + Int64(told)), bytes: 0)
                told = used
                try events.push(.checkpoint(decoder.position, tar: decoder.outputOffset), bytes: 0)
                lastCheckpoint = decoder.outputOffset
                lastInBlob = decoder.blobOffset
            }
            // It counts as little as possible: the output that it became is counted too.
            try events.push(.blob(piece, told..<piece.count, at: pieceStart + Int64(told)), bytes: piece.count - told)
        }
        try flush()
        let decoder = try decompressor ?? begin(position, format, UnsafeRawBufferPointer(start: nil, count: 0))
        try decoder.finish()
    }

    private func begin(
        _ position: StreamPosition, _ format: LayerFormat?, _ head: UnsafeRawBufferPointer
    ) throws -> LayerDecompressor {
        if let format { return try LayerDecompressor(format.compression, from: position) }
        let detected: LayerFormat =
            switch StreamDecompressor.detect(head) {
            case .gzip: .plainGzip
            case .zstd: .plainZstd
            case .identity: .plainTar
            }
        try events.push(.format(detected), bytes: 0)
        return try LayerDecompressor(detected.compression)
    }
}
