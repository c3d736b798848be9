import Hummingbird
import LaminaSystem
import Synchronization

/// Long work for one client: it runs on its own thread, while its progress and finally its result are written to the client as
/// lines of JSON. When the client closes its connection, or the server ends, the work is asked to stop.
final class StreamedOperation<Result: Codable & Sendable>: Sendable {
    private struct State {
        var progress: PullProgress?
        var outcome: [UInt8]?
    }

    private let state = Mutex(State())
    private let stopped = Atomic<Bool>(false)
    private let wakeUps: AsyncStream<Void>
    private let wakeUp: AsyncStream<Void>.Continuation

    /// How often progress is checked, in milliseconds.
    private static var interval: Int { 100 }
    /// After this many checks without news an empty line is written: it tells the client that the server lives, and tells the
    /// server whether the client lives.
    private static var heartbeat: Int { 5 }

    init() {
        (wakeUps, wakeUp) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
    }

    /// Whether the work should end.
    var shouldStop: Bool { stopped.load(ordering: .relaxed) }

    func stop() { stopped.store(true, ordering: .relaxed) }

    /// What the client should see next; called by the work, on any thread.
    func report(_ progress: PullProgress) { state.withLock { $0.progress = progress } }

    /// Runs `work` and writes its result.
    func run(
        _ name: String, activity: Activity, to writer: inout any ResponseBodyWriter,
        _ work: @escaping @Sendable (StreamedOperation) throws -> Result
    ) async throws {
        guard activity.begin() else {
            let failure = DaemonError(.noServer, "the lamina server is ending, as nothing is mounted any more")
            return try await write(ControlFailure(failure).line, to: &writer)
        }
        do throws(SystemError) {
            try startDetached(name) {
                let line = Self.line { try work(self) }
                self.state.withLock { $0.outcome = line }
                activity.end()
                self.wakeUp.yield()
            }
        } catch {
            activity.end()
            state.withLock { $0.outcome = Self.line { throw error } }
            wakeUp.yield()
        }
        // Whatever ends this function early also ends the work.
        defer { stop() }
        let ticker = Task { [wakeUp] in
            while (try? await Task.sleep(for: .milliseconds(Self.interval))) != nil { wakeUp.yield() }
        }
        defer { ticker.cancel() }
        var quiet = 0
        for await _ in wakeUps {
            let (progress, outcome) = state.withLock { state in
                defer { state.progress = nil }
                return (state.progress, state.outcome)
            }
            if let progress {
                try await write(try JSONText.line(ControlLine<Result>(progress: progress)), to: &writer)
                quiet = 0
            }
            if let outcome { return try await write(outcome, to: &writer) }
            quiet += 1
            if quiet >= Self.heartbeat {
                try await write([], to: &writer)
                quiet = 0
            }
        }
    }

    private func write(_ line: [UInt8], to writer: inout any ResponseBodyWriter) async throws {
        try await writer.write(ByteBuffer(bytes: line + [UInt8(ascii: "\n")]))
    }

    private static func line(_ work: () throws -> Result) -> [UInt8] {
        do {
            return try JSONText.line(ControlLine(result: try work()))
        } catch {
            return ControlFailure(error).line
        }
    }
}

extension ControlFailure {
    init(_ error: any Error) {
        self.init(message: describe(error), exitCode: ExitStatus.code(of: error))
    }

    /// As a line of a streamed answer.
    var line: [UInt8] {
        // Only strings and a number: JSON can express all of it.
        (try? JSONText.line(ControlLine<String>(error: self)))
            ?? Array(#"{"error":{"exitCode":1,"message":"unknown"}}"#.utf8)
    }
}

/// An error as a sentence.
func describe(_ error: any Error) -> String { "\(error)" }
