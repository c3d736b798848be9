import Glibc
public import LaminaDigest

/// A blob on its way into a layout: it is hashed while it is written, and named by its digest when it is finished; if it is not
/// finished, it is removed.
///
/// For one thread at a time.
public final class BlobWriter {
    /// For callers that write at their own offsets; they must then finish with their own digest and size.
    public var descriptor: Int32 { file.descriptor }
    /// The bytes that went through ``write(_:)``.
    public private(set) var size: Int64 = 0

    private let file: LayoutFile
    private let blobDirectory: String
    private let isDurable: Bool
    private var hash = SHA256()
    private var isFinished = false

    init(path: String, blobDirectory: String, isDurable: Bool) throws(OCIError) {
        file = try LayoutFile(path, O_RDWR | O_CREAT | O_EXCL)
        self.blobDirectory = blobDirectory
        self.isDurable = isDurable
    }

    deinit {
        if !isFinished { unlink(file.path) }
    }

    /// Writes `bytes` after what was written before.
    public func write(_ bytes: UnsafeRawBufferPointer) throws(OCIError) {
        hash.update(bytes)
        try file.append(bytes)
        size += Int64(bytes.count)
    }

    /// Names the blob by what went through ``write(_:)``.
    ///
    /// - Returns: its descriptor.
    @discardableResult
    public func finish(mediaType: String) throws(OCIError) -> Descriptor {
        let digest = hash.digest()
        try finish(digest: digest, size: size)
        return Descriptor(mediaType: mediaType, digest: digest, size: size)
    }

    /// Names the blob by a digest that the caller has computed over the file's bytes.
    ///
    /// - Throws: `sizeMismatch` if the file has another size.
    public func finish(digest: Digest, size: Int64) throws(OCIError) {
        let actual = try file.size()
        guard actual == size else {
            throw OCIError(.sizeMismatch, "\(file.path) has \(actual) bytes; as \(digest) it should have \(size)")
        }
        if isDurable { try file.sync() }
        guard rename(file.path, "\(blobDirectory)/\(digest.hex)") == 0 else { throw file.failed("rename") }
        isFinished = true
        if isDurable { try syncDirectory(blobDirectory) }
    }
}
