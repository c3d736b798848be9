public import LaminaDigest
import LaminaOCI
import LaminaStore

/// Why an image is not in the image store.
public enum PodmanAbsence: Sendable, Hashable, CustomStringConvertible {
    /// Its layers are of diff IDs that only its author says.
    case unproven(layers: Int)
    case quarantined(Digest)
    /// It came from a directory and not from a registry, so that podman has no name for it.
    case nameless
    case foreign(platform: String)
    /// An earlier version pulled it, and did not keep its manifest.
    case manifestUnknown
    /// podman has one image of a name, and that is another reference's.
    case sameName(as: String)
    case unreadable(String)

    public var description: String {
        switch self {
        case .unproven(let count):
            "\(count == 1 ? "the diff ID of one layer is" : "the diff IDs of \(count) layers are") not proven yet: that takes all of the "
                + "image, which 'lamina pull' fetches"
        case .quarantined(let digest): "layer \(digest) is in quarantine"
        case .nameless: "only images of registries have names for podman"
        case .foreign(let platform): "it is for \(platform)"
        case .manifestUnknown: "an earlier lamina pulled it: 'lamina pull' again keeps what podman wants to know"
        case .sameName(let other): "podman has one image by this name, which is that of \(other)"
        case .unreadable(let reason): reason
        }
    }
}

/// What an image store should show, made of what the index has: a value.
struct ImageStorePlan {
    struct Layer {
        var row: PodmanLayerRow
        var facts: PodmanLayerFacts
        var diffID: Digest
    }

    /// By id.
    var layers: [Digest: Layer] = [:]
    var images: [Digest: ShownImage] = [:]
    /// By reference.
    var absences: [String: PodmanAbsence] = [:]

    /// - Parameters:
    ///   - candidates: every image whose manifest is known.
    ///   - references: of all images.
    ///   - known: what is published now: of equal layers that one stays.
    ///   - believes: whether the diff IDs of an image's layers are taken as its author says them.
    init(
        _ candidates: [PodmanCandidate], references: Set<String>, known: [Digest: PodmanLayerRow],
        platform: Platform = .host, believes: (String) -> Bool
    ) {
        for reference in references { absences[reference] = .manifestUnknown }
        let byReference = Dictionary(grouping: candidates, by: \.image.reference)
        // One name with two images makes podman fail for all of them: names are chosen for, and not references.
        var byName: [String: [Choice]] = [:]
        for (reference, candidates) in byReference {
            switch Self.choose(reference, candidates, platform, believes) {
            case .success(let choice):
                absences[reference] = nil
                byName[choice.name, default: []].append(choice)
            case .failure(let failure): absences[reference] = failure.reason
            }
        }
        var chosen: [Choice] = []
        for choices in byName.values {
            if let choice = best(of: choices) { chosen.append(choice) }
        }
        // The newest pull decides which manifest an image has that several references name.
        for choice in chosen.sorted(by: {
            ($0.candidate.pulledAt, $0.name) < ($1.candidate.pulledAt, $1.name)
        }) {
            add(choice, known)
        }
    }

    /// An image that is shown for a reference.
    private struct Choice {
        var name: String
        var candidate: PodmanCandidate
        var diffIDs: [Digest]
        /// How well it fits this machine: 0 is best.
        var rank: Int

        var reference: String { candidate.image.reference }
    }

    /// Of the images that podman would have by one name, the one that fits best; of equal ones the one that was pulled last.
    private mutating func best(of choices: [Choice]) -> Choice? {
        let best = choices.min {
            ($0.rank, -$0.candidate.pulledAt, $0.reference) < ($1.rank, -$1.candidate.pulledAt, $1.reference)
        }
        guard let best else { return nil }
        for choice in choices where choice.candidate.config != best.candidate.config {
            absences[choice.reference] = .sameName(as: best.reference)
        }
        return best
    }

    private struct Failure: Error { var reason: PodmanAbsence }

    private static func choose(
        _ reference: String, _ candidates: [PodmanCandidate], _ platform: Platform, _ believes: (String) -> Bool
    ) -> Result<Choice, Failure> {
        func fail(_ reason: PodmanAbsence) -> Result<Choice, Failure> { .failure(Failure(reason: reason)) }
        guard let name = self.name(reference) else { return fail(.nameless) }
        func rank(_ candidate: PodmanCandidate) -> Int? {
            guard let own = try? Platform(parsing: candidate.image.platform) else { return .max }
            return platform.rank(of: own)
        }
        let ranked = candidates.compactMap { candidate in rank(candidate).map { ($0, candidate) } }
        guard let (bestRank, candidate) = ranked.min(by: { $0.0 < $1.0 }) else {
            return fail(.foreign(platform: candidates.first?.image.platform ?? "another platform"))
        }
        let diffIDs: [Digest]
        do throws(OCIError) {
            diffIDs = try ImageConfig(parsing: candidate.config, name: reference).diffIDs
        } catch {
            return fail(.unreadable("\(error)"))
        }
        if let problem = GoDocument.problem(manifest: candidate.manifest, config: candidate.config) {
            return fail(.unreadable(problem))
        }
        guard diffIDs.count == candidate.layers.count, !diffIDs.isEmpty,
            zip(diffIDs, candidate.layers).allSatisfy({ $0 == $1.diffID })
        else { return fail(.unreadable("its layers are not those of its configuration")) }
        if let layer = candidate.layers.first(where: { $0.state == .quarantined }) {
            return fail(.quarantined(layer.digest))
        }
        let unproven = candidate.layers.count { $0.state != .proven }
        if unproven > 0, !believes(reference) { return fail(.unproven(layers: unproven)) }
        return .success(Choice(name: name, candidate: candidate, diffIDs: diffIDs, rank: bestRank))
    }

    /// As podman names an image that it pulled by this reference; nil for one of a directory.
    static func name(_ reference: String) -> String? {
        guard let parsed = try? ImageReference(parsing: reference),
            case .registry(let host, let repository) = parsed.place
        else { return nil }
        // A tag beside a digest is dropped.
        if let digest = parsed.digest { return "\(host)/\(repository)@\(digest)" }
        return "\(host)/\(repository):\(parsed.tag ?? "latest")"
    }

    private mutating func add(_ choice: Choice, _ known: [Digest: PodmanLayerRow]) {
        let (candidate, diffIDs) = (choice.candidate, choice.diffIDs)
        let ids = StorageNames.layers(diffIDs)
        for (position, id) in ids.enumerated() {
            let facts = candidate.layers[position]
            let row = PodmanLayerRow(
                id: id, parent: position > 0 ? ids[position - 1] : nil, layer: facts.layer, view: facts.view)
            if let other = layers[id] {
                // Of two that are said to be the same, the proven one; then the one that is there.
                if other.facts.state == .proven, facts.state != .proven { continue }
                if other.facts.state == facts.state, known[id] != row { continue }
            }
            layers[id] = Layer(row: row, facts: facts, diffID: diffIDs[position])
        }
        let id = candidate.config.withUnsafeBytes { SHA256.hash($0) }
        guard let top = ids.last else { return }
        images[id] = ShownImage(
            id: id, names: ((images[id]?.names ?? []) + [choice.name]).sorted(), top: top, manifest: candidate.manifest,
            config: candidate.config, created: StorageDocuments.created(candidate.config))
    }

    /// Takes in what stays although nothing of lamina's names it any more: layers with all below them, and images without a name.
    mutating func keep(
        _ rows: [Digest: PodmanLayerRow], _ old: [Digest: PodmanImageRow], layers used: Set<Digest>,
        images usedImages: Set<Digest>, facts: (PodmanLayerRow) throws -> PodmanLayerFacts?
    ) rethrows {
        var wanted = used
        for id in usedImages {
            guard images[id] == nil, let row = old[id] else { continue }
            images[id] = ShownImage(
                id: id, names: [], top: row.top, manifest: row.manifest, config: row.config,
                created: StorageDocuments.created(row.config))
            wanted.insert(row.top)
        }
        // A running container may have the layer under an older view: that view stays too.
        var seen: Set<Digest> = []
        for top in wanted {
            var next = Optional(top)
            while let id = next, let row = rows[id], seen.insert(id).inserted {
                next = row.parent
                if layers[id]?.row == row { continue }
                guard let facts = try facts(row), let diffID = facts.diffID else { continue }
                if layers[id] != nil, facts.state == .quarantined { continue }
                layers[id] = Layer(row: row, facts: facts, diffID: diffID)
            }
        }
    }

    /// Whether something that is published now would go, or become another one.
    func takesAway(_ rows: [Digest: PodmanLayerRow], _ old: [Digest: PodmanImageRow]) -> Bool {
        rows.contains { layers[$0]?.row != $1 } || old.keys.contains { images[$0] == nil }
    }

    /// Whether something stays that no reference names.
    var keepsMore: Bool {
        let tops = images.values.filter { !$0.names.isEmpty }.map(\.top)
        var named: Set<Digest> = []
        for top in tops {
            var next = Optional(top)
            while let id = next, named.insert(id).inserted { next = layers[id]?.row.parent }
        }
        return images.values.contains { $0.names.isEmpty } || layers.keys.contains { !named.contains($0) }
    }
}
