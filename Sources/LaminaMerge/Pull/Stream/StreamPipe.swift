import LaminaSystem

/// Passes work from one thread to the next in order, with a bound on how far the first may be ahead.
final class StreamPipe<Element: Sendable>: Sendable {
    private struct State {
        var elements = FIFO<(element: Element, bytes: Int)>()
        var bytes = 0
        var isFinished = false
        var failure: (any Error)?
        var isClosed = false
    }

    private let limit: Int
    private let state = Monitor(State())

    /// - Parameter limit: the bytes that may wait.
    init(limit: Int) { self.limit = limit }

    /// Waits for room.
    ///
    /// - Throws: `MergeError.stopped` when the other end has closed.
    func push(_ element: Element, bytes: Int) throws {
        let isTaken = state.wait { state -> Bool? in
            if state.isClosed { return false }
            guard state.bytes == 0 || state.bytes + bytes <= limit else { return nil }
            return true
        }
        guard isTaken else { throw MergeError.stopped }
        // Only one thread pushes, so room that was there is still there.
        state.withLock(notify: true) { state in
            state.elements.append((element, bytes))
            state.bytes += bytes
        }
    }

    /// Waits for the next element; nil at the end.
    ///
    /// - Throws: the error of the other end, after everything that it had passed on before.
    func pop() throws -> Element? {
        let next = state.wait { state -> Result<(element: Element, bytes: Int)?, any Error>? in
            if let next = state.elements.pop() { return .success(next) }
            if let failure = state.failure { return .failure(failure) }
            return state.isFinished ? .success(nil) : nil
        }
        guard let next = try next.get() else { return nil }
        state.withLock(notify: true) { $0.bytes -= next.bytes }
        return next.element
    }

    /// Nothing more comes.
    func finish(_ failure: (any Error)? = nil) {
        state.withLock(notify: true) { state in
            state.isFinished = true
            state.failure = failure
        }
    }

    /// Nothing more is taken.
    func close() {
        state.withLock(notify: true) { state in
            state.isClosed = true
            state.elements = FIFO()
        }
    }
}

/// Memory that threads pass to each other; it goes back to its pool with the last reference.
final class StreamBuffer: @unchecked Sendable {
    // @unchecked: the thread that took the buffer writes the bytes and `count` before it passes the buffer on; from then on
    // they are only read.
    let memory: UnsafeMutableRawBufferPointer
    var count = 0
    private let pool: StreamBufferPool

    init(_ memory: UnsafeMutableRawBufferPointer, _ pool: StreamBufferPool) {
        self.memory = memory
        self.pool = pool
    }

    deinit { pool.give(memory) }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[..<count]) }

    subscript(range: Range<Int>) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[range]) }
}

/// Buffers of one size, for reuse. The pipes that they go through bound their number.
final class StreamBufferPool: Sendable {
    private struct Free: @unchecked Sendable {
        // Memory that is not in use; touched only with the lock held.
        var buffers: [UnsafeMutableRawBufferPointer] = []
    }

    private let size: Int
    private let free = Monitor(Free())

    init(size: Int) { self.size = size }

    deinit { free.withLock { for buffer in $0.buffers { buffer.deallocate() } } }

    func take() -> StreamBuffer {
        let memory = free.withLock { $0.buffers.popLast() }
        return StreamBuffer(memory ?? .allocate(byteCount: size, alignment: 4096), self)
    }

    fileprivate func give(_ memory: UnsafeMutableRawBufferPointer) { free.withLock { $0.buffers.append(memory) } }
}
