import FoundationEssentials

/// `lamina status --json`, as far as the tests use it.
struct StatusReport: Decodable {
    struct Opens: Decodable, Equatable {
        var passthrough: Int
        var cached: Int
        var waited: Int
        var reads: Int
        var readBytes: Int
    }

    struct Server: Decodable {
        var pid: Int32
        var passthrough: Bool
        var passthroughReason: String?
        var opens: Opens
        var fetchedBytes: Int64
        var merge: Merge?
        var seal: Seal?
    }

    struct Merge: Decodable {
        var jobs: Int
        var peakJobs: Int
        var peakBytes: Int
    }

    struct Image: Decodable {
        var reference: String
        var bytes: Int64
        var landedBytes: Int64
        var state: String
        var mounts: Int
    }

    struct Mounted: Decodable {
        var target: String
        var way: String
    }

    struct Seal: Decodable {
        var on: Bool
        var reason: String?
        var chains: Int
        var mounts: Int
    }

    var server: Server?
    var images: [Image]
    var mounts: [Mounted]

    init(json: String) throws { self = try decoded(json) }
}

/// `lamina pull --json`.
struct PullReport: Decodable {
    var reference: String
    var manifestDigest: String
    var bytes: Int64
    var landedBytes: Int64
    var fetchedBytes: Int64
    var complete: Bool
}

/// `lamina check --json`.
struct CheckReport: Decodable {
    struct Chunk: Decodable, Equatable {
        var offset: Int64
        var size: Int64
    }

    struct Finding: Decodable {
        var kind: String
        var path: String
        var chunks: [Chunk]
        var repaired: Bool
        var reason: String?
    }

    struct Unknown: Decodable {
        var files: Int
        var adopted: Int
        var removed: Int
    }

    var damage: [Finding]
    var unknown: Unknown
    var readBytes: Int64
    var fetchedBytes: Int64
    var complete: Bool
    var roundFinished: Bool

    var repaired: Int { damage.count { $0.repaired } }
}

/// `lamina check --containerd --json`.
struct SnapshotCheckReport: Decodable {
    struct Difference: Decodable, Equatable {
        var kind: String
        var namespace: String?
        var name: String
        var reason: String
    }

    var namespaces: Int
    var containerdSnapshots: Int
    var snapshots: Int
    var lazyLayers: Int
    var mounts: Int
    var differences: [Difference]
}

/// `lamina convert --json`.
struct ConvertReport: Decodable {
    struct Layer: Decodable {
        var digest: String
        var compressedBytes: Int64
        var bytes: Int64
        var tocDigest: String
    }

    var manifestDigest: String
    var layers: [Layer]
}

func decoded<Value: Decodable>(_ json: String) throws -> Value {
    try JSONDecoder().decode(Value.self, from: Data(json.utf8))
}
