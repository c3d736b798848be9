import CDeflate
import CZstd
import Glibc
import LaminaDigest
import LaminaSystem

/// Compresses gzip members or zstd frames on several threads and gives them back in order.
///
/// One thread is the feeder: it fills the current batch, submits it, and takes back finished ones, oldest first. The number of
/// batches bounds the memory; their buffers are reused. Only the feeder decides what a member holds, so the output does not
/// depend on the number of threads.
final class MemberPipeline {
    /// The compression of members.
    enum Codec: Sendable {
        case gzip(level: Int)
        case zstd(level: Int)
    }

    /// One thread's compressor.
    final class Compressor {
        private enum Library {
            case deflate(OpaquePointer)
            case zstd(OpaquePointer, level: Int32)
        }

        private let library: Library

        init(_ codec: Codec) {
            // nil only for a level that the options refuse, or without memory.
            switch codec {
            case .gzip(let level):
                guard let compressor = libdeflate_alloc_compressor(Int32(level)) else {
                    fatalError("no memory to compress")
                }
                library = .deflate(compressor)
            case .zstd(let level):
                guard let context = ZSTD_createCCtx() else { fatalError("no memory to compress") }
                library = .zstd(context, level: Int32(level))
            }
        }

        deinit {
            switch library {
            case .deflate(let compressor): libdeflate_free_compressor(compressor)
            case .zstd(let context, _): ZSTD_freeCCtx(context)
            }
        }

        /// The most bytes that `size` bytes can become.
        func bound(_ size: Int) -> Int {
            switch library {
            case .deflate(let compressor): libdeflate_gzip_compress_bound(compressor, size)
            case .zstd: ZSTD_compressBound(size)
            }
        }

        /// Makes one member of `input`; 0 if `output` is smaller than the bound.
        func compress(_ input: UnsafeRawBufferPointer, to output: UnsafeMutableRawBufferPointer) -> Int {
            switch library {
            case .deflate(let compressor):
                return libdeflate_gzip_compress(
                    compressor, input.baseAddress, input.count, output.baseAddress, output.count)
            case .zstd(let context, let level):
                let count = ZSTD_compressCCtx(
                    context, output.baseAddress, output.count, input.baseAddress, input.count, level)
                return ZSTD_isError(count) == 0 ? count : 0
            }
        }
    }

    /// Several members together, so that each small file does not cost a wake-up.
    ///
    /// @unchecked: a batch belongs to one thread at a time. The feeder has it until `submit`, a worker from the moment it takes
    /// its number out of the shared state until it reports it done, then the feeder again; the monitor's lock orders these
    /// three phases.
    final class Batch: @unchecked Sendable {
        struct Member {
            var end: Int
            /// How many bytes at the member's start are a chunk; 0 if it holds only headers.
            var chunkSize: Int
            // Set by the worker.
            var compressedEnd = 0
            var chunkDigest: Digest?
            /// Whether the chunk is all zeros.
            var isZeros = false
        }

        private(set) var input = ResizableBuffer()
        fileprivate(set) var output = ResizableBuffer()
        var members: [Member] = []

        /// The bytes of input that are in use.
        var count = 0

        /// Makes room for `extra` bytes after those in use.
        func reserve(_ extra: Int) { input.reserve(count + extra, keeping: count) }

        fileprivate func compress(with compressor: Compressor) {
            var start = 0
            var written = 0
            for index in members.indices {
                let size = members[index].end - start
                output.reserve(written + compressor.bound(size), keeping: written)
                let base = input.base + start
                if members[index].chunkSize > 0 {
                    let chunk = UnsafeRawBufferPointer(start: base, count: members[index].chunkSize)
                    members[index].chunkDigest = SHA256.hash(chunk)
                    // Compared with itself, shifted by one byte: memcmp is fast, and most chunks differ in the first bytes.
                    members[index].isZeros = chunk[0] == 0 && memcmp(base, base + 1, chunk.count - 1) == 0
                }
                let count = compressor.compress(
                    UnsafeRawBufferPointer(start: base, count: size),
                    to: UnsafeMutableRawBufferPointer(
                        start: output.base + written, count: output.capacity - written))
                // Impossible: a compressor fails only if the output is smaller than its own bound.
                precondition(count > 0, "the compressor's bound is too small")
                written += count
                members[index].compressedEnd = written
                start = members[index].end
            }
        }
    }

    private struct State {
        var submitted = 0
        var taken = 0
        var isDone: [Bool]
        var isStopping = false
    }

    private let state: Monitor<State>
    private let batches: [Batch]
    private var threads: [LaminaSystem.Thread] = []
    private var submitted = 0
    private var retired = 0

    /// - Parameters:
    ///   - codec: with a level that its library has.
    ///   - batchCount: how many batches may run at once, at least 2.
    init(threadCount: Int, batchCount: Int, codec: Codec) throws(SystemError) {
        state = Monitor(State(isDone: Array(repeating: false, count: batchCount)))
        batches = (0..<batchCount).map { _ in Batch() }
        for number in 0..<threadCount {
            let (state, batches) = (state, batches)
            do throws(SystemError) {
                threads.append(
                    try Thread("deflate-\(number)") { Self.work(state, batches, codec) })
            } catch {
                stop()
                throw error
            }
        }
    }

    deinit { stop() }

    private func stop() {
        state.withLock(notify: true) { $0.isStopping = true }
        for thread in threads { thread.join() }
        threads = []
    }

    private static func work(_ state: Monitor<State>, _ batches: [Batch], _ codec: Codec) {
        let compressor = Compressor(codec)
        while true {
            let number: Int? = state.wait { state -> Int?? in
                if state.isStopping { return .some(nil) }
                guard state.taken < state.submitted else { return nil }
                state.taken += 1
                return state.taken - 1
            }
            guard let number else { return }
            let slot = number % batches.count
            batches[slot].compress(with: compressor)
            state.withLock(notify: true) { $0.isDone[slot] = true }
        }
    }

    /// Whether every batch is in use, so that one must be retired before the next can be filled.
    var isFull: Bool { submitted - retired == batches.count }

    /// Whether no batch is in use.
    var isIdle: Bool { submitted == retired }

    /// The batch to fill; only while not `isFull`.
    var current: Batch { batches[submitted % batches.count] }

    /// Passes the current batch to the workers.
    func submit() {
        submitted += 1
        state.withLock(notify: true) { $0.submitted += 1 }
    }

    /// Waits for the oldest batch, gives it to `body`, and frees it.
    func retire(_ body: (Batch) throws -> Void) throws {
        let slot = retired % batches.count
        state.wait { state -> Void? in
            guard state.isDone[slot] else { return nil }
            state.isDone[slot] = false
            return ()
        }
        retired += 1
        try body(batches[slot])
        batches[slot].count = 0
        batches[slot].members.removeAll(keepingCapacity: true)
    }
}

/// Memory that grows and is never zeroed.
struct ResizableBuffer: ~Copyable {
    private(set) var capacity: Int
    private var pointer: UnsafeMutableRawPointer?

    init() {
        capacity = 0
        pointer = nil
    }

    deinit { free(pointer) }

    /// The first byte; valid only after a `reserve`.
    var base: UnsafeMutableRawPointer {
        guard let pointer else { fatalError("an empty buffer has no bytes") }
        return pointer
    }

    /// Makes the capacity at least `count`, and keeps the first `kept` bytes.
    mutating func reserve(_ count: Int, keeping kept: Int) {
        guard count > capacity || pointer == nil else { return }
        let size = max(count, capacity + capacity / 4, 1 << 16)
        // Not realloc, which would copy what is not needed.
        guard let grown = malloc(size) else { fatalError("no memory for \(size) bytes") }
        if let pointer, kept > 0 { grown.copyMemory(from: pointer, byteCount: kept) }
        free(pointer)
        pointer = grown
        capacity = size
    }
}
