import Glibc

/// An open file of a layout: whole reads and writes, and errors that name the path.
final class LayoutFile: Sendable {
    let path: String
    let descriptor: Int32

    convenience init(reading path: String) throws(OCIError) {
        try self.init(path, O_RDONLY)
    }

    init(_ path: String, _ flags: Int32) throws(OCIError) {
        self.path = path
        descriptor = open(path, flags | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else {
            let code: OCIError.Code = errno == ENOENT || errno == ENOTDIR ? .notFound : .io
            throw OCIError(code, "cannot open \(path)", cause: SystemCallError.last)
        }
    }

    deinit { close(descriptor) }

    func size() throws(OCIError) -> Int64 {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failed("stat") }
        guard status.st_mode & S_IFMT == S_IFREG else { throw OCIError(.badLayout, "\(path) is no file") }
        return Int64(status.st_size)
    }

    /// Reads until `buffer` is full or the file ends.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int64) throws(OCIError) -> Int {
        var done = 0
        while done < buffer.count {
            let count = pread(
                descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done, off_t(offset) + off_t(done))
            if count == 0 { break }
            if count < 0 {
                if errno == EINTR { continue }
                throw failed("read")
            }
            done += count
        }
        return done
    }

    /// The whole file.
    func readAll(limit: Int) throws(OCIError) -> [UInt8] {
        let size = try size()
        guard size <= Int64(limit) else {
            throw OCIError(.badManifest, "\(path) has \(size) bytes; at most \(limit) are allowed")
        }
        var bytes = [UInt8](repeating: 0, count: Int(size))
        do {
            let count = try bytes.withUnsafeMutableBytes { try read(into: $0, at: 0) }
            bytes.removeLast(bytes.count - count)
        } catch let error as OCIError {
            throw error
        } catch {
            throw OCIError(.io, "cannot read \(path)", cause: error)
        }
        return bytes
    }

    /// Writes all of `buffer` after what was written before.
    func append(_ buffer: UnsafeRawBufferPointer) throws(OCIError) {
        var done = 0
        while done < buffer.count {
            let count = write(descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done)
            if count < 0 {
                if errno == EINTR { continue }
                throw failed("write")
            }
            done += count
        }
    }

    /// Waits until the file's bytes are on disk.
    func sync() throws(OCIError) {
        guard fdatasync(descriptor) == 0 else { throw failed("write to disk") }
    }

    func failed(_ operation: String) -> OCIError {
        OCIError(.io, "cannot \(operation) \(path)", cause: SystemCallError.last)
    }
}
