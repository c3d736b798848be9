import FoundationEssentials
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore

/// Where a stream stands: what a killed process leaves to the next one; the index keeps it with each checkpoint.
struct StreamState: Codable {
    /// A file of which a part has come.
    struct OpenFile: Codable {
        var entry: TarEntry
        var received: Int64 = 0
        var hash = SHA256()
    }

    private static let currentVersion = 1

    private var version = currentVersion
    private var formatNumber: Int32
    /// Bytes of the tar that were read and hashed.
    var tarOffset: Int64 = 0
    /// Bytes of the blob that were hashed; a reader that begins earlier gives some again, and these are skipped.
    var blobOffset: Int64 = 0
    var blobHash = SHA256()
    var diffHash = SHA256()
    var tar = TarReader()
    /// How many entries have come, and what is known of them takes so many bytes; nil: by a version that did not count.
    var entryCount: Int?
    var entryBytes: Int?
    /// With its bytes in its spool.
    var file: OpenFile?
    /// Both digests were right: nothing is left to read.
    var isVerified = false

    init(format: LayerFormat) { formatNumber = format.rawValue }

    /// How the blob is compressed.
    var format: LayerFormat? { LayerFormat(rawValue: formatNumber) }

    /// As bytes for the index.
    func encoded() throws -> [UInt8] { [UInt8](try JSONEncoder().encode(self)) }

    /// Reads what an earlier process, perhaps of another version, has left; nil if this one cannot go on from it.
    static func decode(_ bytes: [UInt8]) -> StreamState? {
        let state = try? JSONDecoder().decode(StreamState.self, from: Data(bytes))
        return state?.version == currentVersion ? state : nil
    }
}

extension Store {
    /// How many compressed bytes of a layer a stream from a repository still has to read.
    func bytesToStream(of layer: Descriptor, origin: String) throws -> Int64 {
        let state = try index.streamState(of: layer.digest, origin: origin).flatMap(StreamState.decode)
        if state?.isVerified == true { return 0 }
        return max(0, layer.size - (state?.blobOffset ?? 0))
    }
}
