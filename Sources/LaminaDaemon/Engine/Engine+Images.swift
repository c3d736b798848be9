import LaminaMerge
import LaminaOCI
import LaminaStore
import Logging

// Which image of a reference is mounted.

extension Engine {
    /// The image that a mount is to be of: the one that the store has, else what the registry has now, indexed.
    ///
    /// The store has one image of each reference. Where that is of another platform than is asked for, this machine's without `platform`, the
    /// registry is asked as if the store had none. Should it have nothing that fits, or not be there, what the store has is
    /// taken where nobody asked for a platform.
    func image(
        named reference: String, platform: String?, plainHTTP: Bool,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> ImageRecord {
        let parsed = try ImageReference(parsing: reference)
        let wanted = try platform.map(Platform.init(parsing:))
        let known = try store.index.image(parsed.description)
        if let known, wanted.map({ known.platform == $0.description }) ?? fits(known) { return known }
        let name = parsed.description
        let pull = ImagePull(merge, shouldStop: shouldStop) { progress(PullProgress($0, reference: name)) }
        do {
            let image = try counted { try pull.index(parsed, platform: wanted, plainHTTP: plainHTTP) }
            viewsChanged()
            return image
        } catch let error as OCIError where platform == nil && error.code != .interrupted {
            guard let known else { throw error }
            log.warning(
                "the store's image is of another platform, and there is none of this machine's to be had",
                metadata: ["image": "\(name)", "platform": "\(known.platform)", "error": "\(error)"])
            return known
        }
    }

    private func fits(_ image: ImageRecord) -> Bool {
        guard let platform = try? Platform(parsing: image.platform) else { return true }
        return Platform.host.rank(of: platform) != nil
    }

    /// What is to be said of an image whose programs do not run on this machine.
    func foreignness(of image: ImageRecord) -> String? {
        guard !fits(image) else { return nil }
        return
            "\(image.reference) is an image for \(image.platform), and this machine is \(Platform.host): its programs do not "
            + "run here"
    }
}
