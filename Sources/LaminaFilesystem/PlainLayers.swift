import Synchronization

/// Which inodes certainly have no extended attribute: most layers have none. An answer of the index stays valid for ever: the
/// inodes of a layer are numbered without a gap, never change, and their numbers are never used again.
final class PlainLayers: Sendable {
    struct Layer: Equatable {
        var inodes: ClosedRange<Int64>
        var hasAttributes: Bool
    }

    /// Beyond this many, layers are asked for again and again; no store has as many mounted.
    private static let limit = 4096
    /// In the order of their inodes.
    private let layers = Mutex<[Layer]>([])

    /// The layer that has an inode; nil: not asked for yet.
    func layer(of inode: Int64) -> Layer? {
        layers.withLock { layers in
            let index = Self.index(of: inode, in: layers)
            guard index > 0, layers[index - 1].inodes.contains(inode) else { return nil }
            return layers[index - 1]
        }
    }

    func learn(_ layer: Layer) {
        layers.withLock { layers in
            let index = Self.index(of: layer.inodes.lowerBound, in: layers)
            guard layers.count < Self.limit, index == 0 || layers[index - 1] != layer else { return }
            layers.insert(layer, at: index)
        }
    }

    /// How many layers begin at or before an inode.
    private static func index(of inode: Int64, in layers: [Layer]) -> Int {
        var (low, high) = (0, layers.count)
        while low < high {
            let middle = (low + high) / 2
            if layers[middle].inodes.lowerBound <= inode { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
