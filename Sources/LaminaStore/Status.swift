import LaminaSQLite

// What `lamina ls` and `lamina status` print: the views, as values. Field names are the JSON's.

/// A row of the view `image_status`.
public struct ImageStatus: Sendable, Codable, Equatable {
    public var reference: String
    public var manifestDigest: String
    public var platform: String
    public var layers: Int64
    public var compressedBytes: Int64
    public var contents: Int64
    public var mergedContents: Int64
    public var bytes: Int64
    public var landedBytes: Int64
    /// `absent`, `partial` or `complete`.
    public var state: String
    public var mounts: Int64
    public var pulledAt: String
    /// Whether its files stay, however full the store is.
    public var pinned: Bool
}

/// A row of the view `layer_status`.
public struct LayerStatus: Sendable, Codable, Equatable {
    public var digest: String
    public var format: String
    public var compressedBytes: Int64
    public var contents: Int64
    public var mergedContents: Int64
    public var bytes: Int64
    public var landedBytes: Int64
    public var state: String
    public var images: Int64
}

/// The view `cache_usage`.
public struct CacheUsage: Sendable, Codable, Equatable {
    public var images: Int64
    public var layers: Int64
    public var contents: Int64
    public var mergedContents: Int64
    public var logicalBytes: Int64
    public var allocatedBytes: Int64
    public var sharedBytes: Int64
}

/// A row of the view `merge_progress`.
public struct MergeProgress: Sendable, Codable, Equatable {
    public var digest: String
    public var bytes: Int64
    public var landedBytes: Int64
    public var chunks: Int64
    public var landedChunks: Int64
    public var percent: Double
}

/// A row of the view `mount_status`.
public struct MountStatus: Sendable, Codable, Equatable {
    public var target: String
    public var reference: String
    public var writable: String?
    public var mountedAt: String
    /// The image's platform.
    public var platform: String
    /// `fuse` or `sealed`.
    public var way: String
}

/// A row of the view `file`.
public struct FileStatus: Sendable, Codable, Equatable {
    public var path: String
    public var type: String
    public var mode: String
    public var uid: Int64
    public var gid: Int64
    public var bytes: Int64
    public var modifiedAt: String
    public var target: String?
    public var digest: String?
    public var state: String?
    public var layer: String
}

extension Index {
    public func imageStatus() throws -> [ImageStatus] {
        try read { database in
            try database.cached(
                """
                SELECT reference, manifest_digest, platform, layers, compressed_bytes, contents, merged_contents, bytes,
                       landed_bytes, state, mounts, pulled_at, pinned FROM image_status ORDER BY reference
                """
            ).map {
                ImageStatus(
                    reference: $0.text(0), manifestDigest: $0.text(1), platform: $0.text(2), layers: $0.integer(3),
                    compressedBytes: $0.integer(4), contents: $0.integer(5), mergedContents: $0.integer(6),
                    bytes: $0.integer(7), landedBytes: $0.integer(8), state: $0.text(9), mounts: $0.integer(10),
                    pulledAt: $0.text(11), pinned: $0.integer(12) != 0)
            }
        }
    }

    public func layerStatus() throws -> [LayerStatus] {
        try read { database in
            try database.cached(
                """
                SELECT digest, format, compressed_bytes, contents, merged_contents, bytes, landed_bytes, state, images
                FROM layer_status ORDER BY indexed_at, digest
                """
            ).map {
                LayerStatus(
                    digest: $0.text(0), format: $0.text(1), compressedBytes: $0.integer(2), contents: $0.integer(3),
                    mergedContents: $0.integer(4), bytes: $0.integer(5), landedBytes: $0.integer(6), state: $0.text(7),
                    images: $0.integer(8))
            }
        }
    }

    public func cacheUsage() throws -> CacheUsage {
        let usage = try read { database in
            try database.cached(
                """
                SELECT images, layers, contents, merged_contents, logical_bytes, allocated_bytes, shared_bytes
                FROM cache_usage
                """
            ).first {
                CacheUsage(
                    images: $0.integer(0), layers: $0.integer(1), contents: $0.integer(2),
                    mergedContents: $0.integer(3),
                    logicalBytes: $0.integer(4), allocatedBytes: $0.integer(5), sharedBytes: $0.integer(6))
            }
        }
        guard let usage else { throw StoreError(.damaged, "the view cache_usage of \(path) is empty") }
        return usage
    }

    public func mergeProgress() throws -> [MergeProgress] {
        try read { database in
            try database.cached(
                "SELECT digest, bytes, landed_bytes, chunks, landed_chunks, percent FROM merge_progress ORDER BY bytes DESC"
            ).map {
                MergeProgress(
                    digest: $0.text(0), bytes: $0.integer(1), landedBytes: $0.integer(2), chunks: $0.integer(3),
                    landedChunks: $0.integer(4), percent: $0.double(5))
            }
        }
    }

    public func mountStatus() throws -> [MountStatus] {
        try read { database in
            try database.cached(
                "SELECT target, reference, writable, mounted_at, platform, way FROM mount_status ORDER BY mounted_at, target"
            ).map {
                MountStatus(
                    target: $0.text(0), reference: $0.text(1), writable: $0.optionalText(2), mountedAt: $0.text(3),
                    platform: $0.text(4), way: $0.text(5))
            }
        }
    }

    /// Every path of an image's layers, layer by layer from the bottom, in path order.
    public func files(of image: ImageRecord) throws -> [FileStatus] {
        try read { database in
            let files = try database.cached(
                """
                SELECT f.path, f.type, f.mode, f.uid, f.gid, f.bytes, f.modified_at, f.target, f.digest, f.state, f.layer
                FROM file f WHERE f.layer_row = ? ORDER BY f.path
                """)
            return try image.layers.flatMap { layer in
                try files.bind(1, layer.row).map {
                    FileStatus(
                        path: $0.text(0), type: $0.text(1), mode: $0.text(2), uid: $0.integer(3), gid: $0.integer(4),
                        bytes: $0.integer(5), modifiedAt: $0.text(6), target: $0.optionalText(7),
                        digest: $0.optionalText(8), state: $0.optionalText(9), layer: $0.text(10))
                }
            }
        }
    }
}
