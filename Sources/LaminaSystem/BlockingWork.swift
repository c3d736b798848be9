import Glibc

/// Runs a call that blocks on a thread of its own and gives its result to the task that awaits it.
///
/// Not stopped by the cancellation of the task: what it calls has ways of its own.
public func onThread<Value: Sendable>(
    _ name: String, _ body: @escaping @Sendable () throws -> Value
) async throws -> Value {
    try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Value, any Error>) in
        do throws(SystemError) {
            try startDetached(name) { continuation.resume(with: Result { try body() }) }
        } catch {
            continuation.resume(throwing: error)
        }
    }
}

/// Starts a thread that nobody joins.
public func startDetached(_ name: String, _ body: @escaping @Sendable () -> Void) throws(SystemError) {
    _ = try Thread(name) {
        // Nobody will join it: without this its stack would stay.
        pthread_detach(pthread_self())
        body()
    }
}
