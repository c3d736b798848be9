import Glibc

/// Runs a blocking call on its own thread and gives its result to the task that awaits it.
///
/// The cancellation of the task does not stop it: the called code has its own ways.
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

/// Starts a thread that is not joined.
public func startDetached(_ name: String, _ body: @escaping @Sendable () -> Void) throws(SystemError) {
    _ = try Thread(name) {
        // It is not joined: without this its stack would stay.
        pthread_detach(pthread_self())
        body()
    }
}
