public import LaminaDigest
import LaminaOCI
import LaminaSystem

/// How far the stream of a plain layer is.
public struct StreamProgress: Sendable, Codable, Equatable {
    /// The layer's blob.
    public var layer: Digest
    /// Where it comes from, as the index stores it.
    public var location: String
    /// Of the blob, in bytes.
    public var size: Int64
    /// Up to where the blob is in the store, that of earlier processes included.
    public var placed: Int64 = 0
    /// What this stream has fetched.
    public var fetched: Int64 = 0
}

/// The plain layers that are being streamed, and how many may be: each takes memory of its own.
final class RunningStreams: Sendable {
    /// What one stream holds at most, in bytes: what is fetched and not decompressed, what is decompressed and not placed, the
    /// buffers that are being filled, and a small file.
    static let memory = StreamReader.memory + (1 << 20)

    /// How many at once.
    private let limit: Int
    let running = Monitor<[Digest: StreamProgress]>([:])

    /// - Parameter memory: what all of them may take, in bytes; one is always allowed.
    init(memory: Int) { limit = max(1, memory / Self.memory) }

    /// Waits until no other stream of the blob runs and there is room for one.
    ///
    /// - Throws: `MergeError.stopped`.
    func begin(_ descriptor: Descriptor, from location: String, _ shouldStop: () -> Bool) throws(MergeError) {
        while true {
            let isOurs = running.wait(seconds: 0.2) { running -> Bool? in
                guard running[descriptor.digest] == nil, running.count < limit else { return nil }
                running[descriptor.digest] = StreamProgress(
                    layer: descriptor.digest, location: location, size: descriptor.size)
                return true
            }
            if isOurs == true { return }
            if shouldStop() { throw .stopped }
        }
    }

    func note(_ descriptor: Descriptor, fetched: Int64, placed: Int64) {
        running.withLock { running in
            running[descriptor.digest]?.fetched = fetched
            running[descriptor.digest]?.placed = placed
        }
    }

    func end(_ descriptor: Descriptor) { running.withLock(notify: true) { $0[descriptor.digest] = nil } }

    /// All that run, the largest first.
    var all: [StreamProgress] {
        running.withLock { $0.values.sorted { ($0.size, $0.layer.description) > ($1.size, $1.layer.description) } }
    }
}

extension MergeEngine {
    /// The plain layers that are being streamed now, the largest first.
    public var streams: [StreamProgress] { streaming.all }
}
