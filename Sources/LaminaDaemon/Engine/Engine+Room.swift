import Glibc
import LaminaMerge
import LaminaStore
import LaminaSystem

// Whether there is room for a pull: checked before it begins, not found out when half of it has come.

extension Engine {
    /// The check for a pull of an image.
    func roomCheck(_ reference: String) -> ImagePull.RoomCheck {
        ImagePull.RoomCheck(
            ofLayers: { [self] bytes in
                // Without a table of contents they cannot be fetched lazily.
                let what = "what of \(reference) has no table of contents, compressed,"
                try require(store.roomForStream(of: bytes), what, "")
            },
            ofImage: { [self] room in
                try require(room, reference, ", or have its files fetched when they are opened ('lamina pull --lazy')")
            })
    }

    private func require(_ room: RoomForImage, _ what: String, _ otherWay: String) throws {
        switch room.shortage(limit: limit) {
        case nil: return
        case .disk(let free):
            throw noRoom(
                "\(what) needs \(Units.bytes(room.missing)) on the disk of \(root), and \(Units.bytes(free)) are free: make room "
                    + "('lamina gc', 'lamina rm')" + otherWay)
        case .limit:
            throw noRoom(
                "\(what) needs \(Units.bytes(room.total)), and the store's limit is \(Units.bytes(limit ?? 0)) ([store] max_bytes)"
                    + Self.taken(room) + ": raise it" + otherWay)
        }
    }

    private static func taken(_ room: RoomForImage) -> String {
        let pinned = room.pinned > 0 ? " and other pinned images \(Units.bytes(room.pinned))" : ""
        return ", of which the index takes \(Units.bytes(room.index))" + pinned
    }

    private var limit: Int64? { configuration.store.maxBytes > 0 ? configuration.store.maxBytes : nil }

    private func noRoom(_ message: String) -> StoreError {
        StoreError(
            .system(ENOSPC), message, cause: SystemError(code: ENOSPC, operation: "make room in", subject: root))
    }
}
