import FoundationEssentials
import LaminaDigest
import LaminaFormats

/// Where a stream stands: what a process that was killed leaves to the next one, and the index keeps with each checkpoint.
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
    /// Bytes of the blob that were hashed; what a reader that begins before them gives again is passed over.
    var blobOffset: Int64 = 0
    var blobHash = SHA256()
    var diffHash = SHA256()
    var tar = TarReader()
    /// With its bytes in its temporary file.
    var file: OpenFile?
    /// Both digests were right: nothing is left to read.
    var isVerified = false

    init(format: LayerFormat) { formatNumber = format.rawValue }

    /// How the blob is compressed.
    var format: LayerFormat? { LayerFormat(rawValue: formatNumber) }

    /// As bytes for the index.
    func encoded() throws -> [UInt8] { [UInt8](try JSONEncoder().encode(self)) }

    /// Reads what an earlier process, perhaps of another version, has left; nil for what this one cannot go on from.
    static func decode(_ bytes: [UInt8]) -> StreamState? {
        let state = try? JSONDecoder().decode(StreamState.self, from: Data(bytes))
        return state?.version == currentVersion ? state : nil
    }
}
