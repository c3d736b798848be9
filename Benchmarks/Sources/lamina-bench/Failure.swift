import Foundation

/// Why the benchmark, or a part of it, cannot go on.
struct Failure: Error, CustomStringConvertible {
    var description: String

    init(_ description: String) { self.description = description }

    /// With errno's message.
    static func system(_ what: String) -> Failure {
        Failure("\(what): \(String(cString: strerror(errno)))")
    }
}

/// Says on standard error what is being done: only the table goes to standard output.
func say(_ text: String) {
    FileHandle.standardError.write(Data("bench: \(text)\n".utf8))
}

/// Seconds on the monotonic clock.
func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// How long something takes, in seconds.
func timed(_ body: () throws -> Void) rethrows -> Double {
    let begin = now()
    try body()
    return now() - begin
}
