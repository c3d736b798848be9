import Glibc
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaSystem

/// A layer to convert, as a stream of bytes that may be compressed.
protocol LayerInput {
    /// The name for errors.
    var name: String { get }
    /// How many bytes `read` gives.
    var size: Int64 { get }
    /// `nil` for a tar that does not belong to an image.
    var descriptor: Descriptor? { get }
    /// What the uncompressed bytes must hash to, if that is known.
    var diffID: Digest? { get }

    /// Gives all bytes in order.
    func read(shouldStop: @Sendable () -> Bool, into sink: (UnsafeRawBufferPointer) throws -> Void) throws
}

/// A layer of an image.
struct BlobInput: LayerInput {
    let blobs: any BlobSource
    let layer: Descriptor
    let diffID: Digest?

    init(blobs: any BlobSource, descriptor: Descriptor, diffID: Digest) {
        self.blobs = blobs
        layer = descriptor
        self.diffID = diffID
    }

    var name: String { "layer \(layer.digest)" }
    var size: Int64 { layer.size }
    var descriptor: Descriptor? { layer }

    func read(shouldStop: @Sendable () -> Bool, into sink: (UnsafeRawBufferPointer) throws -> Void) throws {
        try blobs.read(layer.digest, size: layer.size, range: 0..<layer.size, shouldStop: shouldStop, into: sink)
    }
}

/// A tar file.
struct TarFileInput: LayerInput {
    let file: File
    let path: String
    var size: Int64 { (try? file.size()) ?? 0 }

    var name: String { "the tar" }
    var descriptor: Descriptor? { nil }
    var diffID: Digest? { nil }

    private static let pieceSize = 256 << 10

    /// The size of a regular file; nil for a pipe, which has none and cannot be read at an offset.
    func fileSize() throws(SystemError) -> Int64? {
        let status = try file.status()
        return status.st_mode & S_IFMT == S_IFREG ? Int64(status.st_size) : nil
    }

    func read(shouldStop: @Sendable () -> Bool, into sink: (UnsafeRawBufferPointer) throws -> Void) throws {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.pieceSize, alignment: 4096)
        defer { buffer.deallocate() }
        var offset: Int64? = try fileSize().map { _ in 0 }
        while true {
            if shouldStop() { throw ConvertError(.interrupted, "the conversion of \(path) was interrupted") }
            let count = try offset.map { try file.read(into: buffer, at: $0) } ?? file.readNext(into: buffer)
            if count == 0 { return }
            try sink(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
            offset = offset.map { $0 + Int64(count) }
        }
    }
}

extension LayerInput {
    /// Gives the bytes of the tar in order, and checks what is read against the digests that name it.
    ///
    /// - Parameter ended: called when all of a right blob was given: if it is no tar, this says more than its diff ID.
    /// - Throws: `FormatError` `digestMismatch` if blob digest or diff ID are wrong, after everything was given.
    func readTar(
        for conversion: Conversion, into sink: (UnsafeRawBufferPointer) throws -> Void, ended: () throws -> Void
    ) throws {
        var blobHash = SHA256()
        var tarHash = SHA256()
        var decompressor: StreamDecompressor?
        // The first bytes tell the compression, never a name or media type.
        var head: [UInt8] = []
        func push(_ bytes: UnsafeRawBufferPointer) throws {
            let engine = try decompressor ?? StreamDecompressor(StreamDecompressor.detect(bytes))
            decompressor = engine
            try engine.push(bytes) { piece in
                if diffID != nil { tarHash.update(piece) }
                try sink(piece)
            }
        }
        try read(shouldStop: conversion.shouldStop) { bytes in
            try conversion.checkStop()
            if descriptor != nil { blobHash.update(bytes) }
            if decompressor != nil || (head.isEmpty && bytes.count >= 4) {
                try push(bytes)
            } else {
                head += bytes
                if head.count >= 4 { try head.withUnsafeBytes { try push($0) } }
            }
            conversion.advance(Int64(bytes.count))
        }
        if decompressor == nil { try head.withUnsafeBytes { try push($0) } }
        try decompressor?.finish()
        try check(blobHash.digest(), descriptor?.digest, "the blob's digest")
        try ended()
        try check(tarHash.digest(), diffID, "the diff ID")
    }

    private func check(_ actual: Digest, _ expected: Digest?, _ what: String) throws(FormatError) {
        guard let expected, actual != expected else { return }
        throw FormatError(
            .digestMismatch, "\(what) of \(name) does not match", expected: "\(expected)", actual: "\(actual)")
    }
}
