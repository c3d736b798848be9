import LaminaMerge
import LaminaOCI
import LaminaStore
import Logging

// Which image of a reference is meant.

extension Engine {
    /// The image to mount: the one that the store has, else what the registry has now, indexed.
    ///
    /// If the store has several images of a reference, it is the one that fits best. If none is for `platform` (or, without
    /// `platform`, runs on this machine), the registry is asked as if the store had none. If the registry has nothing that
    /// fits, or does not answer, the store's image is taken: one that runs on `platform`, or any if no platform was asked for.
    func image(
        named reference: String, platform: String?, plainHTTP: Bool,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> ImageRecord {
        let parsed = try ImageReference(parsing: reference)
        let name = parsed.description
        let wanted = try platform.map(Platform.init(parsing:))
        let known = try store.index.image(name, for: wanted)
        if let known, let rank = known.rank(on: wanted ?? .host), wanted == nil || rank == 0 { return known }
        let pull = ImagePull(merge, roomCheck: roomCheck(name), shouldStop: shouldStop) {
            progress(PullProgress($0, reference: name))
        }
        do {
            let image = try counted { try pull.index(parsed, platform: wanted, plainHTTP: plainHTTP) }
            viewsChanged()
            podman?.update()
            return image
        } catch let error as OCIError where error.code != .interrupted {
            guard let known else { throw error }
            log.warning(
                "the store's image is for another platform, and the registry has none for this one",
                metadata: ["image": "\(name)", "platform": "\(known.platform)", "error": "\(error)"])
            return known
        }
    }

    /// The warning for an image whose programs do not run on this machine.
    func foreignness(of image: ImageRecord) -> String? {
        guard image.rank(on: .host) == nil else { return nil }
        return
            "\(image.reference) is an image for \(image.platform), and this machine is \(Platform.host): its programs do not "
            + "run here"
    }
}

extension ImageRecord {
    /// How well the image fits a platform: 0 is best, nil means that it does not fit. An image without a platform may be for
    /// any.
    func rank(on platform: Platform) -> Int? {
        guard let own = try? Platform(parsing: self.platform) else { return .max }
        return platform.rank(of: own)
    }
}

extension Index {
    /// Of the images that a reference names, the one that fits a platform best; nil if none does.
    ///
    /// - Parameter platform: nil is this machine's; if none runs here, the one that came last.
    func image(_ reference: String, for platform: Platform?) throws -> ImageRecord? {
        let images = try images(named: reference)
        let ranked = images.compactMap { image in image.rank(on: platform ?? .host).map { (rank: $0, image: image) } }
        return ranked.min { $0.rank < $1.rank }?.image ?? (platform == nil ? images.last : nil)
    }

    /// The image that a command is about.
    ///
    /// - Parameters:
    ///   - root: the store's directory, for the message.
    ///   - platform: as typed by the user.
    /// - Throws: `DaemonError.notFound`, `OCIError.badReference`.
    func requireImage(_ reference: String, platform: String?, root: String) throws -> ImageRecord {
        let platform = try platform.map(Platform.init(parsing:))
        if let image = try image(reference, for: platform) { return image }
        let others = try images(named: reference).map(\.platform)
        guard let platform, !others.isEmpty else {
            throw DaemonError(.notFound, "the store \(root) has no image \(reference); 'lamina ls' shows those it has")
        }
        throw DaemonError(
            .notFound,
            "the store \(root) has no image \(reference) for \(platform), only for \(others.joined(separator: ", "))")
    }
}
