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
                try requireOnDisk(bytes, what, "")
                guard let limit else { return }
                let room = try store.roomForStream(of: bytes)
                guard bytes > limit - room.index - room.pinned else { return }
                throw limitError(what, bytes, limit, Self.taken(room), "")
            },
            ofImage: { [self] room in
                let lazily = ", or have its files fetched when they are opened ('lamina pull --lazy')"
                try requireOnDisk(room.missing, reference, lazily)
                let taken = room.index + room.pinned
                guard let limit, room.total > limit - taken else { return }
                throw limitError(reference, room.total, limit, Self.taken(room), lazily)
            })
    }

    private static func taken(_ room: RoomForImage) -> String {
        let pinned = room.pinned > 0 ? " and other pinned images \(Units.bytes(room.pinned))" : ""
        return ", of which the index takes \(Units.bytes(room.index))" + pinned
    }

    private var limit: Int64? { configuration.store.maxBytes > 0 ? configuration.store.maxBytes : nil }

    private func requireOnDisk(_ bytes: Int64, _ what: String, _ otherWay: String) throws {
        guard let free = store.files.diskSpace()?.free, bytes > free else { return }
        throw noRoom(
            "\(what) needs \(Units.bytes(bytes)) on the disk of \(root), and \(Units.bytes(free)) are free: make room "
                + "('lamina gc', 'lamina rm')" + otherWay)
    }

    private func limitError(
        _ what: String, _ bytes: Int64, _ limit: Int64, _ taken: String, _ otherWay: String
    ) -> StoreError {
        noRoom(
            "\(what) needs \(Units.bytes(bytes)), and the store's limit is \(Units.bytes(limit)) ([store] max_bytes)\(taken): "
                + "raise it" + otherWay)
    }

    private func noRoom(_ message: String) -> StoreError {
        StoreError(
            .system(ENOSPC), message, cause: SystemError(code: ENOSPC, operation: "make room in", subject: root))
    }
}
